"""Legs that reach for given feet: two-bone inverse kinematics in closed form, so that planted feet stay planted."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from avatar_gs.body.pose import JOINT

STRAIGHT = 0.999
"""Largest fraction of the leg's length at which a foot is reached for: a knee never locks, nor snaps."""


@dataclass(frozen=True)
class Leg:
    """Rotations of a leg's joints over F frames, relative to their parents (the hip's to the pelvis)."""

    hip: Rotation
    knee: Rotation
    ankle: Rotation


def reach(
    rest: Float[np.ndarray, "55 3"],
    side: str,
    pelvis: tuple[Float[np.ndarray, "F 3"], Rotation],
    ankle: tuple[Float[np.ndarray, "F 3"], Rotation],
    knee_forward: Float[np.ndarray, "F 3"],
) -> Leg:
    """The leg whose ankle is at a position, with the foot at a rotation.

    Args:
        rest: joints in the T-pose, metres.
        side: ``left`` or ``right``.
        pelvis: positions of the pelvis in metres, and its world rotations.
        ankle: wanted positions of the ankle, and world rotations of the foot (identity: as in the T-pose). Positions
            out of reach are approached.
        knee_forward: directions in which the knee points, roughly.
    """
    hip, knee, foot = (rest[JOINT[f"{side}_{name}"]] for name in ("hip", "knee", "ankle"))
    thigh, shin = knee - hip, foot - knee
    hips = pelvis[0] + pelvis[1].apply(hip - rest[0])
    way = ankle[0] - hips
    longest = STRAIGHT * float(np.linalg.norm(thigh) + np.linalg.norm(shin))
    distance = np.minimum(np.linalg.norm(way, axis=1), longest)
    # |thigh + Rx(bend) shin|^2 = distance^2 is constant + cosine * cos(bend) + sine * sin(bend) = 0.
    constant = thigh @ thigh + shin @ shin + 2 * thigh[0] * shin[0]
    cosine, sine = 2 * (thigh[1] * shin[1] + thigh[2] * shin[2]), 2 * (thigh[2] * shin[1] - thigh[1] * shin[2])
    amplitude, phase = np.hypot(cosine, sine), np.arctan2(sine, cosine)
    bend = phase + np.arccos(np.clip((distance**2 - constant) / amplitude, -1.0, 1.0))
    knees = Rotation.from_rotvec(bend[:, None] * np.array([1.0, 0.0, 0.0]))
    reached = thigh + knees.apply(shin)
    ours = _frame(reached, np.tile([1.0, 0.0, 0.0], (len(bend), 1)))
    wanted = _frame(way, np.cross(knee_forward, way))
    world_hip = wanted * ours.inv()
    return Leg(pelvis[1].inv() * world_hip, knees, (world_hip * knees).inv() * ankle[1])


def _frame(along: Float[np.ndarray, "F 3"], sideways: Float[np.ndarray, "F 3"]) -> Rotation:
    """Rotations whose first axis is ``along`` and whose second is ``sideways``, made orthogonal to it."""
    first = along / np.linalg.norm(along, axis=1, keepdims=True)
    second = sideways - (sideways * first).sum(1, keepdims=True) * first
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    return Rotation.from_matrix(np.stack([first, second, np.cross(first, second)], -1))
