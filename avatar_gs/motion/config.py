"""Settings of ``stage=animate``."""

from dataclasses import dataclass
from enum import Enum

from avatar_gs.core.errors import UserError
from avatar_gs.core.validation import Section, bounded


class UpAxis(Enum):
    """The vertical axis of a motion's file."""

    auto = "auto"
    """The axis along which the body stands most of the time."""
    y = "y"
    z = "z"


class VideoFormat(Enum):
    """How the frames are written."""

    mp4 = "mp4"
    webm = "webm"
    """Transparent behind the avatar (VP9)."""
    png = "png"
    """A folder of transparent images."""


@dataclass
class AnimateConfig(Section):
    """The video of a moving avatar."""

    section = "animate"
    format: VideoFormat = VideoFormat.mp4
    size: int = bounded(512, 64, 4096, expected="an even number of pixels from 64 to 4096")
    """Side of the square frames in pixels, even, 64 to 4096."""
    fps: int = bounded(30, 1, 120, expected="1 to 120 frames a second")
    """Frames per second, 1 to 120; motions are resampled."""
    start: float = bounded(0.0, 0, expected="0 seconds or more")
    """Where in the motion the video begins, in seconds."""
    seconds: float = bounded(20.0, 0, 3600, above=True, expected="more than 0, at most 3600 seconds")
    """Longest duration of the video in seconds, at most 3600."""
    azimuth: float = bounded(20.0, -360, 360, expected="-360 to 360 degrees")
    """Direction of the camera in degrees: 0 in front of the avatar as it begins, 90 at its left hand."""
    elevation: float = bounded(5.0, -89, 89, expected="-89 to 89 degrees")
    """Of the camera above the horizon, -89 to 89 degrees."""
    up: UpAxis = UpAxis.auto
    """The vertical axis of a ``.npz`` file."""
    ply: str = ""
    """A frame of the video (from 0) whose splats are written as a PLY file, or ``all``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size % 2:
            raise UserError(f"animate.size={self.size}: expected an even number of pixels from 64 to 4096")
        if self.ply not in ("", "all") and not (self.ply.isascii() and self.ply.isdigit()):
            raise UserError(f"animate.ply={self.ply}: expected the number of a frame (from 0), or all")
