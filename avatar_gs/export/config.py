"""Settings of the exported files."""

import math
from dataclasses import dataclass, field
from enum import Enum

from avatar_gs.core.errors import UserError
from avatar_gs.core.validation import Section, bounded


class Frame(Enum):
    """Axes of ``avatar.ply``. PLY has no standard frame, so the choice depends on the program that reads the file."""

    supersplat = "supersplat"
    """Head at -y, facing +z: upright and facing the viewer in SuperSplat."""
    rdf = "rdf"
    """Head at -y, facing -z (x right, y down, z forward): for readers that turn a file by 180 degrees about x."""
    yup = "yup"
    """Head at +y, facing +z: the program's world frame."""


class Format(Enum):
    """What can be exported; the value is the file's name in the run's folder."""

    ply = "avatar.ply"
    """Splats, for every splat viewer; axes by ``frame``."""
    html = "avatar.html"
    """A page that shows the avatar and moves it."""
    mp4 = "turntable.mp4"
    """A video of one turn."""
    spz = "avatar.spz"
    """Splats in a fifteenth of the bytes (SPZ version 3, y up); needs the extra ``[spz]``."""
    glb = "avatar.glb"
    """Splats in glTF (``KHR_gaussian_splatting``, y up), with skeleton and skinning weights."""
    mesh = "mesh.glb"
    """The body as a rigged mesh with a texture of the splats' colours; needs the extra ``[mesh]``."""


@dataclass
class ExportConfig(Section):
    """Which files are exported, and their contents. Lengths in metres."""

    section = "export"
    formats: list[Format] = field(default_factory=lambda: [Format.ply, Format.html, Format.mp4])
    """Some of ``ply``, ``html``, ``mp4``, ``spz``, ``glb``, ``mesh``, such as ``[ply,glb]``."""
    frame: Frame = Frame.supersplat
    min_scale: float = 0.0001
    """Smaller scales are raised to this value, above 0: zero or denormal scales crash viewers."""
    max_scale: float = 0.25
    """Larger scales are reduced to this value."""
    widen: bool = True
    """Widen splats by the blur of the pixels that they were optimised on: fewer holes in close views (Mip-Splatting).
    Off: the splats as they were optimised."""
    min_opacity: float = bounded(0.005, 0, 1, below=True, expected="0 <= min_opacity < 1")
    """Splats of lower opacity are left out; renderers skip contributions below 1/255."""
    html: bool = True
    """``false`` leaves ``html`` out of ``formats``."""
    video: bool = True
    """``false`` leaves ``mp4`` out of ``formats``."""
    video_size: int = bounded(512, 64, 4096, expected="an even number of pixels from 64 to 4096")
    """Side of the square video in pixels, even, 64 to 4096."""
    video_fps: int = bounded(24, 1, 120, expected="1 to 120 frames a second")
    """Frames per second, 1 to 120."""
    video_seconds: float = bounded(4.0, 0.5, 60, expected="0.5 to 60 seconds")
    """Duration of one turn in seconds, 0.5 to 60."""
    texture_size: int = bounded(1024, 64, 8192, expected="64 to 8192 pixels")
    """Side of the mesh's texture in pixels, 64 to 8192."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.min_scale < self.max_scale and math.isfinite(self.max_scale)):
            raise UserError(
                f"export.min_scale={self.min_scale}, export.max_scale={self.max_scale}: "
                "expected 0 < min_scale < max_scale (metres)"
            )
        if self.video_size % 2:
            raise UserError(f"export.video_size={self.video_size}: expected an even number of pixels from 64 to 4096")
        if not self.wanted:
            raise UserError(f"export.formats: nothing to write; expected some of {', '.join(Format.__members__)}")

    @property
    def wanted(self) -> list[Format]:
        """The formats to write, each once, in the order of ``Format``."""
        left_out = {Format.html: not self.html, Format.mp4: not self.video}
        return [entry for entry in Format if entry in self.formats and not left_out.get(entry)]

    @property
    def video_frames(self) -> int:
        """Number of frames of the video."""
        return round(self.video_fps * self.video_seconds)
