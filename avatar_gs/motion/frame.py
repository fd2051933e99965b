"""Where a motion takes place: up, the first heading, and the ground."""

from dataclasses import replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from avatar_gs.body.model import Body
from avatar_gs.body.pose import Pose
from avatar_gs.motion.clip import Motion
from avatar_gs.motion.config import UpAxis

_GROUND_FRAMES = 64
"""Frames of a long motion in which its lowest point is sought."""


def upright(motion: Motion, up: UpAxis) -> Motion:
    """The motion in the program's frame (+y up)."""
    if up is UpAxis.auto:
        spine = Rotation.from_rotvec(motion.axis_angles[:, 0]).apply([0.0, 1.0, 0.0]).mean(0)
        up = UpAxis.z if spine[2] > abs(spine[1]) else UpAxis.y
    return rotated(motion, Rotation.from_euler("x", -90, degrees=True)) if up is UpAxis.z else motion


def rotated(motion: Motion, rotation: Rotation) -> Motion:
    """The motion in a rotated world, up to a constant translation."""
    axis_angles = motion.axis_angles.copy()
    axis_angles[:, 0] = (rotation * Rotation.from_rotvec(axis_angles[:, 0])).as_rotvec()
    return replace(motion, axis_angles=axis_angles, translation=rotation.apply(motion.translation).astype(np.float32))


def facing_front(motion: Motion) -> Motion:
    """The motion such that it begins at x = z = 0 and faces +z there. One that begins lying keeps its heading."""
    ahead = Rotation.from_rotvec(motion.axis_angles[0, 0]).apply([0.0, 0.0, 1.0])
    if np.hypot(ahead[0], ahead[2]) > 0.1:
        motion = rotated(motion, Rotation.from_euler("y", -np.arctan2(ahead[0], ahead[2])))
    return replace(motion, translation=motion.translation - motion.translation[0] * np.array([1, 0, 1], np.float32))


@torch.no_grad()
def on_ground(motion: Motion, body: Body) -> Motion:
    """The motion such that the body's lowest point over all frames is at height 0."""
    frames = np.unique(np.linspace(0, len(motion) - 1, min(len(motion), _GROUND_FRAMES)).round().astype(int))
    lowest = min(float(body.pose(_on(motion.pose(int(frame)), body)).vertices[:, 1].min()) for frame in frames)
    return replace(motion, translation=motion.translation - np.array([0.0, lowest, 0.0], np.float32))


def _on(pose: Pose, body: Body) -> Pose:
    return pose.to(body.template.device)
