"""The judges of the prior's pictures, on pictures whose truth is known."""

import math

import numpy as np
import pytest

from avatar_gs.mini import picture as pic
from avatar_gs.mini.measure import LEAST_STRIPE, lesser_stripe, score
from avatar_gs.mini.trials import trials
from avatar_gs.mini.view_judge import head_mask, judge_accuracy, judge_trials, seen_view, turned
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


def test_a_person_turned_on_the_spot_shows_the_face_in_front_and_none_behind():
    front = next(trial for trial in judge_trials(20, seed=3) if trial.view is ViewDirection.FRONT)
    same, left, behind = turned(front, [0.0, math.pi / 2, math.pi])
    np.testing.assert_array_equal(same.sample.maps[0].parts, front.sample.maps[0].parts)
    assert behind.view is ViewDirection.BACK and left.view is ViewDirection.SIDE
    turn = float(left.sample.views.azimuth[0] - front.sample.views.azimuth[0])
    assert np.isclose(math.remainder(turn, math.tau), -math.pi / 2)
    shows_face = [(trial.sample.maps[0].parts == pic.MOUTH).any() for trial in (front, behind)]
    assert shows_face == [True, False]
    for trial in (front, left, behind):  # the person turns about the head, which therefore stays where it is
        rows, columns = np.nonzero(head_mask(trial))
        assert abs(rows.mean() - np.nonzero(head_mask(front))[0].mean()) < 8
        assert abs(columns.mean() - np.nonzero(head_mask(front))[1].mean()) < 12


@pytest.mark.slow
def test_the_judge_of_views_names_the_view_of_people_who_are_not_turned_as_asked():
    accuracy = judge_accuracy(200)
    assert len(accuracy) == 3 and all(row["mean"] > 0.9 for row in accuracy.values())


@pytest.mark.slow
def test_the_judge_of_views_takes_another_skin_for_a_front_and_a_head_without_a_face_for_a_back():
    seen = []
    for trial in judge_trials(120, seed=3):
        hair, skin = trial.mask(pic.HAIR), trial.mask(pic.SKIN)
        if trial.view is ViewDirection.FRONT and seen_view(trial, trial.truth) is not None:
            tanned, bare = trial.truth.copy(), trial.truth.copy()
            tanned[skin] = (0.2, 0.6, 0.4)
            rows, columns = np.nonzero(head_mask(trial))
            head = np.zeros_like(hair)
            head[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
            bare[head & (skin | head_mask(trial))] = np.median(trial.truth[hair], 0)
            seen.append((seen_view(trial, tanned), seen_view(trial, bare)))
    assert len(seen) >= 10
    assert np.mean([tanned is ViewDirection.FRONT for tanned, _ in seen]) >= 0.9
    assert not any(bare is ViewDirection.FRONT for _, bare in seen)
