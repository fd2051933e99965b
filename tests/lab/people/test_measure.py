"""The colours of clothes, judged on drawn truth and on wrong images."""

import numpy as np
import pytest

from avatar_gs.lab.people.measure import held_out_trials, named_colours, nearest_name, right_colours
from avatar_gs.lab.people.person import held_out
from avatar_gs.lab.people.rendering import Part
from avatar_gs.lab.people.vocabulary import CLOTHES, HAIR_COLOURS


@pytest.mark.parametrize("palette", [CLOTHES, HAIR_COLOURS])
def test_the_palette_names_itself(palette):
    for name, rgb in palette.items():
        assert nearest_name(np.array(rgb, float), palette) == name


@pytest.mark.slow
def test_drawn_truth_is_right_and_inverted_images_are_wrong(wardrobe):
    trials = held_out_trials(wardrobe, 60, 128, seed=0)
    assert all(held_out(trial.person) for trial in trials)
    truth = right_colours(trials, [trial.drawn.image for trial in trials])
    wrong = right_colours(trials, [255 - trial.drawn.image for trial in trials])
    right, count = (sum(column) for column in zip(*truth.values(), strict=True))
    assert count > 40 and right / count > 0.9
    assert sum(number for number, _ in wrong.values()) / count < 0.3


@pytest.mark.slow
def test_original_textures_and_stripes_are_not_judged(wardrobe):
    trials = held_out_trials(wardrobe, 40, 64, seed=1)
    for trial in trials:
        names, outfit = named_colours(trial.person), trial.person.outfit
        assert all(names.values())
        if outfit.top.stripe or not outfit.top.colour:
            assert Part.TOP not in names and Part.DRESS not in names
