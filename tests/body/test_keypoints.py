"""OpenPose keypoints of the body: which is which, and where."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from avatar_gs.body.keypoints import BODY_POINTS, openpose_keypoints
from avatar_gs.body.model import Body
from avatar_gs.body.pose import JOINT, a_pose, pose_of
from avatar_gs.types import Keypoints


@pytest.fixture(scope="module")
def points(body: Body) -> Keypoints:
    return openpose_keypoints(body, body.pose(a_pose()))


def named(points: Keypoints) -> dict[str, Tensor]:
    return dict(zip(BODY_POINTS, points.body, strict=True))


def test_left_is_left(points: Keypoints) -> None:
    """The avatar's left is at +x, everywhere."""
    for name, position in named(points).items():
        if name.startswith(("left", "right")):
            assert (position[0] > 0.015) == name.startswith("left"), name
    assert points.left_hand[:, 0].min() > 0.3
    assert points.right_hand[:, 0].max() < -0.3
    right_to_left = [*range(17), *range(17, 27), *range(31, 36), *range(48, 55)]
    for run in (right_to_left[:17], right_to_left[17:27], right_to_left[27:32], right_to_left[32:]):
        assert (points.face[run, 0].diff() > 0).all(), run
    assert points.face[68, 0] < 0 < points.face[69, 0]  # pupils: right, then left


def test_body_points_are_the_joints(body: Body, points: Keypoints) -> None:
    posed, at = body.pose(a_pose()), named(points)
    for name in ("left_elbow", "right_wrist", "left_hip", "right_knee", "left_ankle"):
        assert torch.equal(at[name], posed.joints[JOINT[name]])
    assert torch.allclose(at["neck"], (at["left_shoulder"] + at["right_shoulder"]) / 2)
    assert at["nose"][2] > at["left_eye"][2] > at["left_ear"][2]
    assert at["left_eye"][1] > at["nose"][1] > at["neck"][1]
    assert torch.allclose(at["left_eye"], points.face[69], atol=0.01)


def test_hands_run_from_wrist_to_finger_tips(points: Keypoints) -> None:
    for hand in (points.left_hand, points.right_hand):
        fingers = hand[1:].view(5, 4, 3)
        reach = (fingers - hand[0]).norm(dim=-1)
        assert (reach.diff(dim=1) > 0).all()
        assert (fingers.diff(dim=1).norm(dim=-1) > 0.008).all()
        assert (fingers.diff(dim=1).norm(dim=-1) < 0.06).all()
        assert reach[0, 3] < reach[1, 3] < reach[2, 3] > reach[3, 3] > reach[4, 3]  # thumb, index, middle, ring, pinky
        # in the A-pose the thumbs are in front
        assert (fingers[:, 3, 2].diff() < 0).all()


def test_face_points_lie_on_the_face_in_their_order(body: Body, points: Keypoints) -> None:
    face = points.face
    posed = body.pose(a_pose())
    assert torch.cdist(face[:68], posed.vertices).min(1).values.max() < 0.01
    mirror = face[[*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]]
    assert torch.allclose(face[:36, 0], -mirror[:, 0], atol=1.5e-3)
    assert torch.allclose(face[:36, 1:], mirror[:, 1:], atol=2e-3)
    chin, nose_tip = face[8], face[30]
    assert face[:, 1].argmin() == 8
    assert face[:68, 2].argmax() == 30
    assert (nose_tip - named(points)["nose"]).norm() < 0.006
    heights = [
        face[17:27, 1].mean(),
        face[36:48, 1].mean(),
        nose_tip[1],
        face[33, 1],
        face[51, 1],
        face[57, 1],
        chin[1],
    ]
    assert all(above > below + 0.003 for above, below in pairwise(heights))
    for upper, lower in (
        (37, 41),
        (38, 40),
        (43, 47),
        (44, 46),
        (50, 58),
        (51, 57),
        (52, 56),
        (61, 67),
        (62, 66),
        (63, 65),
    ):
        assert face[upper, 1] > face[lower, 1], (upper, lower)
    for corner, other in ((36, 39), (42, 45), (48, 54), (60, 64)):
        assert face[corner, 0] < face[other, 0]
    eye = body.pose(a_pose()).joints[JOINT["left_eye"]]
    assert (face[42:48, :2] - eye[:2]).norm(dim=1).max() < 0.016
    assert ((face[42:48, :2] - eye[:2]).norm(dim=1) > 0.004).all()


def test_points_follow_the_body(body: Body) -> None:
    up = openpose_keypoints(body, body.pose(pose_of(pelvis=(0.0, 0.0, torch.pi))))
    rest = openpose_keypoints(body, body.rest())
    turn = torch.tensor([-1.0, -1.0, 1.0])
    for name in ("body", "left_hand", "right_hand", "face"):
        assert torch.allclose(getattr(up, name), getattr(rest, name) * turn, atol=1e-5), name
    nod = openpose_keypoints(body, body.pose(pose_of(head=(0.5, 0.0, 0.0))))
    assert (nod.face[:, 1] < rest.face[:, 1] - 0.01).all()
    assert torch.equal(nod.left_hand, rest.left_hand)
