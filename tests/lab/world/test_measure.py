"""The measures of the prior's samples, on images with known truth."""

from typing import Any

import numpy as np
import pytest
import torch

from avatar_gs.lab.world.measure import LEAST_STRIPE, lesser_stripe, sample, score, trials


def test_stripes_are_detected_on_striped_shirts_only():
    striped = [trial for trial in trials(40, seed=3) if trial.person.outfit.stripe]
    fractions = [fraction for trial in striped if (fraction := lesser_stripe(trial, trial.truth)) is not None]
    assert len(fractions) >= 4 and np.mean([fraction >= LEAST_STRIPE for fraction in fractions]) > 0.7
    flat = [np.full_like(trial.truth, 0.5) for trial in striped]
    assert not any(lesser_stripe(trial, image) for trial, image in zip(striped, flat, strict=True))


class Noise:
    """A sampler that returns its noise."""

    def sample(self, prompts: list[str], negatives: list[str], control: torch.Tensor, *, generator, **_: Any):
        return torch.rand(control.shape, generator=generator)


def test_every_image_and_every_seed_has_different_noise():
    some = trials(5, seed=0)
    drawn = {(seed, i): image for seed in (0, 1) for i, image in enumerate(sample(Noise(), some, seed=seed, batch=2))}
    assert len({image.tobytes() for image in drawn.values()}) == 10
    assert np.array_equal(sample(Noise(), some, seed=1, batch=2)[3], drawn[1, 3])


@pytest.mark.slow
def test_rendered_truth_scores_as_correct_and_another_persons_as_wrong():
    some = trials(60, seed=4)
    truth = np.stack([trial.truth for trial in some])
    right, wrong = score(some, truth), score(some, np.roll(truth, 1, axis=0))
    parts = [key for key in right if key.split("/")[0] in ("hair", "shirt", "bottoms", "shoes")]
    assert parts and all(right[key]["mean"] >= 0.95 for key in parts)
    assert np.mean([wrong[key]["mean"] for key in parts]) < 0.5
    assert right["silhouette IoU"]["mean"] > 0.9  # grey clothes before the grey background are missed
