"""The judges of the prior's pictures, on pictures whose truth is known."""

import numpy as np
import pytest

from avatar_gs.mini import picture as pic
from avatar_gs.mini.measure import LEAST_STRIPE, lesser_stripe, score
from avatar_gs.mini.trials import trials
from avatar_gs.mini.view_judge import fit_view_judge, judge_accuracy, judge_trials
from avatar_gs.types import ViewDirection


def test_stripes_are_seen_where_they_are_and_not_on_a_plain_shirt():
    striped = [trial for trial in trials(40, seed=3) if trial.person.outfit.stripe]
    shares = [share for trial in striped if (share := lesser_stripe(trial, trial.truth)) is not None]
    assert len(shares) >= 4 and np.mean([share >= LEAST_STRIPE for share in shares]) > 0.7
    flat = [np.full_like(trial.truth, 0.5) for trial in striped]
    assert not any(lesser_stripe(trial, image) for trial, image in zip(striped, flat, strict=True))


@pytest.mark.slow
def test_drawn_truth_is_found_right_and_another_persons_wrong():
    some = trials(60, seed=4)
    truth = np.stack([trial.truth for trial in some])
    right, wrong = score(some, truth), score(some, np.roll(truth, 1, axis=0))
    parts = [key for key in right if key.split("/")[0] in ("hair", "shirt", "bottoms", "shoes")]
    assert parts and all(right[key]["mean"] >= 0.95 for key in parts)
    assert np.mean([wrong[key]["mean"] for key in parts]) < 0.5
    assert right["silhouette IoU"]["mean"] > 0.9  # grey clothes before the grey background are missed


@pytest.mark.slow
def test_the_judge_of_views_knows_drawn_heads():
    accuracy = judge_accuracy(200)
    assert len(accuracy) == 3 and all(row["mean"] > 0.9 for row in accuracy.values())


@pytest.mark.slow
def test_the_judge_of_views_takes_another_skin_for_a_front_and_a_head_without_a_face_for_a_back():
    judge, seen = fit_view_judge(), []
    for trial in judge_trials(120, seed=3):
        hair, skin = trial.mask(pic.HAIR), trial.mask(pic.SKIN)
        if trial.view is ViewDirection.FRONT and judge(trial, trial.truth) is not None:
            tanned, turned = trial.truth.copy(), trial.truth.copy()
            tanned[skin] = (0.2, 0.6, 0.4)
            parts = [trial.mask(part) for part in (pic.HAIR, pic.EYE, pic.EYE_WHITE, pic.BROW, pic.MOUTH)]
            rows, columns = np.nonzero(np.any(parts, 0))
            head = np.zeros_like(hair)
            head[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
            turned[head & (skin | np.any(parts, 0))] = np.median(trial.truth[hair], 0)
            seen.append((judge(trial, tanned), judge(trial, turned)))
    assert len(seen) >= 10
    assert np.mean([tanned is ViewDirection.FRONT for tanned, _ in seen]) >= 0.9
    assert not any(turned is ViewDirection.FRONT for _, turned in seen)
