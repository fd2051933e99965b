"""OpenPose keypoints of a posed body, as in ControlNet's poses: 18 of the body, 21 per hand, 70 of the face.

The mapping follows SMPLify-X (Pavlakos et al., CVPR 2019): joints for limbs, fixed vertices for nose, eyes, ears
and finger tips, triangle landmarks for the face. OpenPose's neck is the midpoint of the shoulders (Cao et al., CVPR
2017), below SMPL-X's neck joint.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.body.model import EXTRA_POINTS, Body
from avatar_gs.body.pose import FINGERS, JOINTS
from avatar_gs.types import Keypoints, PosedBody

BODY_POINTS = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip

# Joints and fixed vertices under one index. OpenPose's eyes are the fixed vertices on the face, not the joints of the
# same name: the later entry wins.
_POINT = {name: index for index, name in enumerate((*JOINTS, *EXTRA_POINTS))}
_NECK, _RIGHT_SHOULDER, _LEFT_SHOULDER = (BODY_POINTS.index(n) for n in ("neck", "right_shoulder", "left_shoulder"))
_RIGHT_EYE, _LEFT_EYE = range(19, 25), range(25, 31)  # of the 51 inner landmarks


def openpose_keypoints(body: Body, posed: PosedBody) -> Keypoints:
    """The OpenPose keypoints of ``posed``, which must be ``body`` in some pose, in world metres."""
    points = torch.cat([posed.joints, posed.vertices[body.extra_points]])
    corners = posed.vertices[body.faces[body.landmark_faces]]
    landmarks = (corners * body.landmark_barycentrics[..., None]).sum(1)
    limbs = points[[_POINT[name] for name in BODY_POINTS]]
    neck = (limbs[_RIGHT_SHOULDER] + limbs[_LEFT_SHOULDER]) / 2
    return Keypoints(
        body=torch.cat([limbs[:_NECK], neck[None], limbs[_NECK + 1 :]]),
        left_hand=points[_hand("left")],
        right_hand=points[_hand("right")],
        face=_face(landmarks),
    )


def _hand(side: str) -> list[int]:
    """Indices of the wrist and of each finger from its root to its tip."""
    fingers = [_POINT[f"{side}_{finger}{part}"] for finger in FINGERS for part in ("1", "2", "3", "")]
    return [_POINT[f"{side}_wrist"], *fingers]


def _face(landmarks: Float[Tensor, "68 3"]) -> Float[Tensor, "70 3"]:
    """OpenPose's order: jaw line, inner landmarks, then the two pupils (the centres of the eyes' outlines)."""
    inner, jaw = landmarks[:51], landmarks[51:]
    return torch.cat([jaw, inner, inner[_RIGHT_EYE].mean(0)[None], inner[_LEFT_EYE].mean(0)[None]])
