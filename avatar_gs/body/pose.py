"""Poses: rotations of SMPL-X's 55 joints, and the poses that the program uses.

Zero is the T-pose: +y up, the face to +z, the left arm along +x, legs down. Rotations are axis-angle vectors in
radians, each relative to the joint's parent and about the axes of that T-pose.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

JOINTS = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "jaw", "left_eye", "right_eye",
    *(f"{side}_{finger}{k}" for side in ("left", "right") for finger in ("index", "middle", "pinky", "ring", "thumb")
      for k in (1, 2, 3)),
)  # fmt: skip
PARENTS = (
    *(-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15),
    *(parent for k in range(25, 40, 3) for parent in (20, k, k + 1)),  # left fingers, from the left wrist
    *(parent for k in range(40, 55, 3) for parent in (21, k, k + 1)),
)
"""The parent of each joint, -1 for the pelvis."""
JOINT = {name: index for index, name in enumerate(JOINTS)}
FINGERS = ("thumb", "index", "middle", "ring", "pinky")
"""In OpenPose's order."""


@dataclass(frozen=True)
class Pose:
    """Joint rotations (axis-angle, in the order of ``JOINTS``) and the body's translation in metres."""

    axis_angles: Float[Tensor, "55 3"]
    translation: Float[Tensor, "3"]

    def to(self, device: torch.device | str) -> "Pose":
        return replace(self, axis_angles=self.axis_angles.to(device), translation=self.translation.to(device))


def zero_pose() -> Pose:
    """The T-pose in which SMPL-X is defined."""
    return Pose(torch.zeros(len(JOINTS), 3), torch.zeros(3))


def pose_of(**rotations: tuple[int | float, int | float, int | float]) -> Pose:
    """A pose given by joint names, such as ``pose_of(left_elbow=(0, -1.2, 0))``; other joints stay at zero.

    Raises:
        KeyError: for an unknown joint.
    """
    pose = zero_pose()
    for name, axis_angle in rotations.items():
        pose.axis_angles[JOINT[name]] = torch.tensor(axis_angle)
    return pose


def a_pose() -> Pose:
    """Standing, arms lowered by 45 degrees, legs slightly apart: the pose of exports and of single-pose training."""
    arm, leg = math.pi / 4, 0.1
    return pose_of(
        left_shoulder=(0.0, 0.0, -arm),
        right_shoulder=(0.0, 0.0, arm),
        left_hip=(0.0, 0.0, leg),
        right_hip=(0.0, 0.0, -leg),
    )


def random_pose(generator: torch.Generator, scale: float = 1.0) -> Pose:
    """Sample a natural standing pose around the A-pose.

    Args:
        generator: on the CPU.
        scale: factor of the range: 0 is the A-pose, 1 everyday standing (arms between hanging and raised to the
            shoulder, elbows bent up to 90 degrees, knees up to 50, the head turned up to 25).
    """
    low, high = _ranges()
    sample = low + (high - low) * torch.rand(low.shape, generator=generator)
    return Pose(a_pose().axis_angles + scale * sample, torch.zeros(3))


def _ranges() -> tuple[Tensor, Tensor]:
    """Bounds ``[55, 3]`` of the rotations added to the A-pose, in radians; left and right are mirrored."""
    low, high = torch.zeros(len(JOINTS), 3), torch.zeros(len(JOINTS), 3)

    def central(name: str, x: float, y: float, z: float) -> None:
        high[JOINT[name]] = torch.tensor([x, y, z])
        low[JOINT[name]] = -high[JOINT[name]]

    def paired(name: str, x: tuple[float, float], y: tuple[float, float], z: tuple[float, float]) -> None:
        left_low, left_high = torch.tensor([x, y, z]).T
        low[JOINT[f"left_{name}"]], high[JOINT[f"left_{name}"]] = left_low, left_high
        mirror = torch.tensor([1.0, -1.0, -1.0])  # a reflection at x = 0 inverts y and z rotations
        low[JOINT[f"right_{name}"]] = torch.minimum(left_low * mirror, left_high * mirror)
        high[JOINT[f"right_{name}"]] = torch.maximum(left_low * mirror, left_high * mirror)

    for spine in ("spine1", "spine2", "spine3"):
        central(spine, 0.06, 0.08, 0.05)
    central("neck", 0.10, 0.15, 0.08)
    central("head", 0.12, 0.25, 0.10)
    paired("collar", (0.0, 0.0), (-0.05, 0.05), (-0.03, 0.08))
    paired("shoulder", (-0.4, 0.4), (-0.7, 0.3), (-0.5, 0.6))
    paired("elbow", (-0.3, 0.3), (-1.6, 0.0), (0.0, 0.0))
    paired("wrist", (-0.3, 0.3), (-0.2, 0.2), (-0.4, 0.3))
    paired("hip", (-0.7, 0.2), (-0.15, 0.3), (-0.06, 0.25))
    paired("knee", (0.0, 0.9), (0.0, 0.0), (0.0, 0.0))
    paired("ankle", (-0.15, 0.15), (-0.1, 0.1), (0.0, 0.0))
    for finger in ("index", "middle", "ring", "pinky"):
        for k in (1, 2, 3):
            paired(f"{finger}{k}", (0.0, 0.0), (0.0, 0.0), (-0.6, 0.05))
    return low, high
