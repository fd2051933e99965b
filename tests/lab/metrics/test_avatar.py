"""Avatars of known worth: the person itself scores 1, a grey one does not, and what is missing or floats is found."""

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from avatar_gs.lab.metrics.avatar import Measurement, ViewImages, comparison_strip, measure, render_views
from avatar_gs.lab.metrics.colours import NOTHING
from avatar_gs.lab.metrics.truth import VOLUME_FRAMING, cases, full_caption, red_blue_cases, volumes
from avatar_gs.lab.metrics.views import DIRECTIONS
from avatar_gs.lab.suites.parts import expected_parts
from avatar_gs.lab.suites.suite import restored
from avatar_gs.lab.world.people import held_out
from avatar_gs.types import Framing, Gaussians
from tests.lab.conftest import true_images, true_splats


def test_prompts_are_held_out_distinct_and_say_all_that_is_judged():
    some = cases(18)
    assert [case.prompt for case in cases(6)] == [case.prompt for case in some[:6]], "a fixed list"
    assert len({case.prompt for case in some}) == 18
    assert all(held_out(case.person) and not case.person.outfit.stripe for case in some)
    for case in some:
        spoken = case.prompt.replace("gray", "grey").replace("blond ", "blonde ")
        assert all(name in spoken for name in case.asked.values())
        assert ("long sleeves" in spoken) == case.person.outfit.long_sleeves
        assert case.person.long_hair == (re.search(r"long \w+ hair", spoken) is not None)
    for name in VOLUME_FRAMING:
        assert sum(name in case.volumes for case in some) >= 3


def test_red_and_blue_prompts_are_red_and_blue_in_shirt_and_bottoms_only():
    for index, case in enumerate(red_blue_cases(4)):
        wanted = ("red", "blue") if index % 2 == 0 else ("blue", "red")
        assert (case.asked["shirt"], case.asked["bottoms"]) == wanted
        assert held_out(case.person) and sum(name in ("red", "blue") for name in case.asked.values()) == 2
        assert case.prompt.split().count("red") == case.prompt.split().count("blue") == 1


def test_the_person_itself_is_right_in_every_view(truths):
    for truth in truths:
        result = measure(true_images(truth), truth)
        items = expected_parts(result, truth.case.asked)
        assert {item.part for item in items} == set(truth.case.asked)
        assert all(view.fraction(item.name) == 1.0 for item in items for view in item.views)
        assert all(both / either > 0.9 for both, either in result.volumes.values())
        assert result.stray == 0.0
        assert set(result.volumes) == set(volumes(truth.case.person))


def test_parts_are_seen_from_all_sides_in_two_framings(truths):
    views = measure(true_images(truths[0]), truths[0]).parts["shoes"]
    names = [f"{framing}/{side}" for framing in ("body", "lower") for side in DIRECTIONS]
    assert [view.view for view in views] == names
    assert sum(view.pixels for view in views[4:]) > 2 * sum(view.pixels for view in views[:4])


def test_splats_in_the_persons_colours_score_one(truths, viewpoints):
    for truth in truths:
        result = measure(render_views(true_splats(truth), viewpoints.views.cameras), truth)
        # the strands between a hat and a face are thinner than splats
        hidden = "hair" if truth.case.person.outfit.hat else ""
        items = [item for item in expected_parts(result, truth.case.asked) if item.part != hidden]
        assert all(all(item.hits()) for item in items), {item.part: item.hits() for item in items}
        assert min(view.fraction(item.name) for item in items for view in item.views) > 0.88
        assert all(both / either > 0.6 for both, either in result.volumes.values()), result.volumes
        assert result.stray < 0.001


def test_left_and_right_are_the_avatars_own(truths, viewpoints):
    gaussians = true_splats(truths[0])
    left = gaussians.means[:, 0] > 0.02
    colors = torch.where(left[:, None], torch.tensor([0.7, 0.1, 0.1]), torch.tensor([0.1, 0.2, 0.75]))
    result = measure(render_views(replace(gaussians, colors=colors), viewpoints.views.cameras), truths[0])
    named = {view.view: max(view.names, key=lambda name: view.names[name]) for view in result.parts["bottoms"]}
    assert named["body/left"] == named["lower/left"] == "red" and named["body/right"] == named["lower/right"] == "blue"


def test_a_grey_avatar_is_wrong_and_an_absent_one_is_nothing(truths):
    for truth in truths:
        images = true_images(truth)
        grey = measure(ViewImages(0.5 * images.alpha[..., None].repeat(3, -1), images.alpha), truth)
        items = expected_parts(grey, truth.case.asked)
        assert not any(any(item.hits()) for item in items if item.name != "grey")
        absent = measure(ViewImages(np.zeros_like(images.rgb), np.zeros_like(images.alpha)), truth)
        assert all(view.names == {NOTHING: view.pixels} for views in absent.parts.values() for view in views)
        assert all(both == 0 for both, _ in absent.volumes.values())


def test_the_bare_body_has_no_volumes(truths, viewpoints):
    for truth in truths:
        images = true_images(truth)
        bare = measure(ViewImages(images.rgb, viewpoints.bare.astype(np.float32)), truth)
        assert all(both == 0 and either > 100 for both, either in bare.volumes.values())


def test_a_floater_is_found(truths, viewpoints):
    gaussians = true_splats(truths[0])
    extra = Gaussians(
        means=torch.tensor([[0.55, 0.5, 0.0]]),
        quats=gaussians.quats[:1],
        scales=torch.full((1, 3), 0.03),
        opacities=torch.ones(1),
        colors=torch.zeros(1, 3),
    )
    fields = ("means", "quats", "scales", "opacities", "colors")
    both = Gaussians(*(torch.cat([getattr(gaussians, name), getattr(extra, name)]) for name in fields))
    clean, littered = (
        measure(render_views(item, viewpoints.views.cameras), truths[0]).stray for item in (gaussians, both)
    )
    assert clean < 0.001 and littered > 10 * clean and littered > 0.005


def test_what_no_prompt_says_does_not_move_the_truth(truths):
    """Two people that differ only in lengths that no prompt speaks of are judged on the same pixels."""
    from avatar_gs.lab.metrics.truth import render_truth

    truth = truths[0]
    person = replace(truth.case.person, cut=(0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0), hairline=1.0, betas=(0.0,) * 10)
    other = render_truth(replace(truth.case, person=person), truth.viewpoints)
    assert all(np.array_equal(a.parts, b.parts) for a, b in zip(truth.maps, other.maps, strict=True))


def test_captions_are_drawn_until_they_say_all():
    rng = np.random.default_rng(0)
    for case in cases(4):
        assert "sleeves" in full_caption(case.person, rng)


def test_a_strip_shows_truth_and_avatar(truths):
    images = comparison_strip(true_images(truths[0]), truths[0])
    assert images.shape == (128, 1280, 3)
    np.testing.assert_allclose(images[:, :512].astype(int), images[:, 512:1024].astype(int), atol=2)
    assert truths[0].viewpoints.index(Framing.HEAD, "back") == 6


def test_measurements_survive_json(truths):
    result = measure(true_images(truths[2]), truths[2])
    again = restored(Measurement, json.loads(json.dumps(asdict(result))))
    assert again == result
    with pytest.raises(TypeError):
        restored(Measurement, {"parts": {}})
