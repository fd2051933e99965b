"""Settings of the exported files."""

import math
from dataclasses import dataclass
from enum import Enum

from avatar_gs.core.errors import UserError, require


class Frame(Enum):
    """The axes of ``avatar.ply``. PLY has no standard frame, so this depends on the program that will read it."""

    supersplat = "supersplat"
    """Head at -y, facing +z: upright and facing the viewer in SuperSplat."""
    rdf = "rdf"
    """Head at -y, facing -z (x right, y down, z forward): for readers that turn a file by 180 degrees about x."""
    yup = "yup"
    """Head at +y, facing +z: the frame of the program itself."""


@dataclass
class ExportConfig:
    """What is exported, and how. Lengths in metres."""

    frame: Frame = Frame.supersplat
    min_scale: float = 0.0001
    """Thinner splats are widened to this: zero or denormal scales crash viewers."""
    max_scale: float = 0.25
    """Larger splats are shrunk to this."""
    min_opacity: float = 0.005
    """Splats below it are left out: 1/255 is the least that any renderer draws."""
    html: bool = True
    """Write avatar.html."""
    video: bool = True
    """Write turntable.mp4."""
    video_size: int = 512
    """Side of the square video in pixels."""
    video_fps: int = 24
    video_seconds: float = 4.0
    """Time of one turn."""

    def __post_init__(self) -> None:
        if not (0 < self.min_scale < self.max_scale and math.isfinite(self.max_scale)):
            raise UserError(
                f"export.min_scale={self.min_scale}, export.max_scale={self.max_scale}: "
                "expected 0 < min_scale < max_scale (metres)"
            )
        require(0 <= self.min_opacity < 1, "export.min_opacity", self.min_opacity, "0 <= min_opacity < 1")
        if self.video_size % 2 or not 64 <= self.video_size <= 4096:
            raise UserError(f"export.video_size={self.video_size}: expected an even number of pixels from 64 to 4096")
        require(1 <= self.video_fps <= 120, "export.video_fps", self.video_fps, "1 to 120 frames a second")
        require(0.5 <= self.video_seconds <= 60, "export.video_seconds", self.video_seconds, "0.5 to 60 seconds")

    @property
    def video_frames(self) -> int:
        """Number of pictures in the turntable video."""
        return round(self.video_fps * self.video_seconds)
