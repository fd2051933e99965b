"""Figures of what judges find, in closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_gs.body.keypoints import BODY_POINTS
from avatar_gs.lab.judges.figures import (
    CLEAR_FACE,
    LIMBS,
    Fraction,
    correct_joints,
    count_kept,
    distance,
    is_clear,
    overlap,
)
from avatar_gs.lab.judges.process import BodyLandmarks, Face
from avatar_gs.lab.metrics.colours import wilson_interval, wilson_lower_bound

SIZE = 256
BOX = (0.0, 0.0, 10.0, 10.0)


def joints_in_image() -> np.ndarray:
    return np.random.default_rng(0).uniform(20, SIZE - 20, (18, 2))


def landmarks_at(joints: np.ndarray, offset: float = 0.0) -> BodyLandmarks:
    """Landmarks that are ``offset`` pixels to the right of OpenPose's joints."""
    points = np.full((33, 2), -1e6)
    for name, index in LIMBS.items():
        points[index] = joints[BODY_POINTS.index(name)] + (offset, 0)
    return BodyLandmarks(points, np.ones(33))


def test_joints_count_up_to_half_the_head():
    joints = joints_in_image()
    assert correct_joints(landmarks_at(joints, 9.99), joints, 20.0, SIZE) == (12, 12)
    assert correct_joints(landmarks_at(joints, 10.01), joints, 20.0, SIZE) == (0, 12)
    assert correct_joints(None, joints, 20.0, SIZE) == (0, 12)


def test_joints_outside_the_image_are_left_out():
    joints = joints_in_image()
    joints[BODY_POINTS.index("left_wrist")] = (SIZE + 1, 50)
    joints[BODY_POINTS.index("right_ankle")] = (50, -1)
    assert correct_joints(landmarks_at(joints), joints, 20.0, SIZE) == (10, 10)


def test_exchanged_sides_are_wrong():
    joints, swapped = joints_in_image(), joints_in_image()
    for name in LIMBS:
        other = name.replace("left", "*").replace("right", "left").replace("*", "right")
        swapped[BODY_POINTS.index(name)] = joints[BODY_POINTS.index(other)]
    found, cases = correct_joints(landmarks_at(swapped), joints, 10.0, SIZE)
    assert cases == 12 and found <= 2


def test_overlap_is_intersection_over_union():
    first, second = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert overlap(first, second) == 1
    first[:2], second[1:3] = True, True
    assert overlap(first, second) == pytest.approx(1 / 3)
    assert overlap(first, ~first) == 0


def test_distances_are_euclidean():
    first, second = np.zeros(128), np.zeros(128)
    second[:2] = 3, 4
    assert distance(first, second) == distance(second, first) == 5


@given(st.integers(0, 200), st.integers(0, 200))
def test_wilson_intervals_hold_the_fraction_and_mirror(hits, misses):
    cases = hits + misses
    low, high = wilson_interval(hits, cases)
    assert low == wilson_lower_bound(hits, cases)
    assert wilson_interval(misses, cases) == pytest.approx((1 - high, 1 - low))
    if cases:
        assert 0 <= low <= hits / cases <= high <= 1
        # the bounds solve |p - p̂| = z √(p (1 - p) / n)
        for bound in (low, high):
            assert abs(bound - hits / cases) == pytest.approx(1.959964 * (bound * (1 - bound) / cases) ** 0.5, abs=1e-9)
    else:
        assert (low, high) == (0, 1)


def test_a_fraction_without_cases_has_no_value():
    assert Fraction.of([]).value is None and Fraction.of([True, False, True, True]).value == 0.75


def test_faces_kept_are_those_of_the_originals():
    clear, faint = Face(0.9, BOX), Face(CLEAR_FACE - 0.01, BOX)
    assert is_clear(Face(CLEAR_FACE, BOX)) and not is_clear(faint) and not is_clear(None)
    # a face that only the reconstruction shows counts for nothing
    kept = count_kept([clear, clear, clear, None, faint], [Face(0.8, BOX), faint, None, clear, clear])
    assert kept.kept == Fraction(1, 3)
    assert kept.score == pytest.approx(0.9) and kept.kept_score == pytest.approx((0.8 + CLEAR_FACE - 0.01) / 3)
    empty = count_kept([None, faint], [clear, clear])
    assert empty.kept == Fraction(0, 0) and empty.score is None and empty.kept_score is None
    with pytest.raises(ValueError, match="zip"):
        count_kept([clear], [])
