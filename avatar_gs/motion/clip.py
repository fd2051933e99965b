"""A motion: SMPL-X's joint rotations and translation in every frame."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation, Slerp

from avatar_gs.body.pose import JOINTS, Pose
from avatar_gs.core.errors import UserError, require

MAX_FRAMES = 100_000
"""Frames of a motion; more are refused before they are read."""
MAX_ANGLE = 7.0
"""Radians. No joint turns by more than a full turn: larger numbers are degrees."""
MAX_DISTANCE = 1000.0
"""Metres from the origin."""


@dataclass(frozen=True)
class Motion:
    """F poses, ``fps`` of them a second."""

    name: str
    fps: float
    axis_angles: Float[np.ndarray, "F 55 3"]
    """Radians, relative to the joint's parent, in the order of ``body.pose.JOINTS``."""
    translation: Float[np.ndarray, "F 3"]
    """Metres, as ``Pose.translation``."""
    loops: bool = False
    """Whether the first frame follows the last one."""
    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Metres per second that ``translation`` leaves out, so that a walk stays in view."""

    def __len__(self) -> int:
        return len(self.axis_angles)

    @property
    def seconds(self) -> float:
        """Duration; of a loop, with the time from the last frame to the first."""
        return (len(self) if self.loops else max(1, len(self) - 1)) / self.fps

    def pose(self, frame: int) -> Pose:
        """The pose of one frame."""
        values = (self.axis_angles[frame], self.translation[frame])
        return Pose(*(torch.from_numpy(np.array(value, dtype=np.float32)) for value in values))

    def part(self, start: int | float, seconds: int | float) -> "Motion":
        """The frames from ``start`` (seconds) on, for at most ``seconds``."""
        first = min(round(start * self.fps), len(self) - 1)
        last = min(len(self), first + max(1, round(seconds * self.fps)))
        whole = first == 0 and last == len(self)
        cut = replace(self, axis_angles=self.axis_angles[first:last], translation=self.translation[first:last])
        return replace(cut, loops=self.loops and whole)

    def resampled(self, fps: int | float) -> "Motion":
        """The same motion at another frame rate: rotations along the shortest arcs, linear translation."""
        if fps == self.fps or len(self) == 1:
            return replace(self, fps=float(fps))
        cycle = [0] if self.loops else []
        known = np.arange(len(self) + len(cycle)) / self.fps
        count = round(self.seconds * fps) if self.loops else int(self.seconds * fps + 1e-6) + 1
        times = np.minimum(
            np.arange(max(1, count)) * (self.seconds / max(1, count) if self.loops else 1 / fps), known[-1]
        )
        translation = np.concatenate([self.translation, self.translation[cycle]])
        axis_angles = np.concatenate([self.axis_angles, self.axis_angles[cycle]])
        moved = np.stack([np.interp(times, known, translation[:, k]) for k in range(3)], -1)
        turned = np.stack(
            [Slerp(known, Rotation.from_rotvec(axis_angles[:, j]))(times).as_rotvec() for j in range(len(JOINTS))], 1
        )
        actual = len(times) / self.seconds if self.loops else float(fps)
        values = {"axis_angles": turned.astype(np.float32), "translation": moved.astype(np.float32)}
        return replace(self, fps=actual, **values)


def checked(motion: Motion, source: str | Path) -> Motion:
    """The motion, if its numbers can be a person's.

    Raises:
        UserError: for no frames, a frame rate out of range, numbers that are not finite, degrees or millimetres.
    """
    require(len(motion) > 0, "motion", source, "at least one frame")
    require_few_frames(len(motion), source)
    if not 1 <= motion.fps <= 1000:
        raise UserError(f"{source}: {motion.fps:g} frames a second, expected 1 to 1000")
    bad = ~(np.isfinite(motion.axis_angles).all((1, 2)) & np.isfinite(motion.translation).all(1))
    if bad.any():
        raise UserError(f"{source}: frame {int(bad.argmax())} holds numbers that are not finite")
    angles = np.linalg.norm(motion.axis_angles[:, 1:], axis=-1)
    if angles.max() > MAX_ANGLE:
        joint = JOINTS[1 + int(angles.max(0).argmax())]
        raise UserError(
            f"{source}: {joint} turns by {angles.max():.0f}, expected radians, at most {MAX_ANGLE:g} (degrees?)"
        )
    farthest = float(np.abs(motion.translation).max())
    if farthest > MAX_DISTANCE:
        raise UserError(f"{source}: translation up to {farthest:.0f}, expected metres, at most {MAX_DISTANCE:g}")
    return motion


def require_few_frames(count: int, source: str | Path) -> None:
    """Raise UserError for more frames than ``MAX_FRAMES``; called before they are read."""
    if count > MAX_FRAMES:
        raise UserError(f"{source}: {count} frames, at most {MAX_FRAMES} are read; cut it, or lower its frame rate")
