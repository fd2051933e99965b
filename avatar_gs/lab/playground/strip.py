"""Pictures of a play: [image | gradient | ẑ0] over time, the same as a video, and methods side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from avatar_gs.core.images import RGBImage, contact_sheet, to_uint8, write_png
from avatar_gs.export.video import encode_video
from avatar_gs.guidance.distill import Distilled
from avatar_gs.lab.playground.fields import Canvas

COLUMNS = 10
"""Of a strip: the first picture, the last, and others evenly between."""
COMPARED = 6
"""Columns of a comparison sheet."""
ROWS = ("image", "gradient", "clean (z0)")
FPS = 12
VIDEO_SIZE = 256
"""The least side of one of the video's three pictures."""
LARGE = 0.99
"""The share of a gradient's values that its picture shows without clipping."""


@dataclass(frozen=True)
class Frame:
    """The picture before the update of a step, and what the guidance made of it (nothing, for the very last one)."""

    step: int
    image: RGBImage
    gradient: RGBImage | None = None
    clean: RGBImage | None = None
    t: int | None = None

    @classmethod
    @torch.no_grad()
    def of(cls, step: int, canvas: Canvas, distilled: Distilled | None) -> "Frame":
        image = to_uint8(canvas.picture())[0]
        if distilled is None:
            return cls(step, image)
        clean = to_uint8(canvas.prior.decode_latents(distilled.z0_hat))[0]
        return cls(step, image, to_uint8(gradient_picture(distilled.grad[0])), clean, int(distilled.t[0]))

    @property
    def label(self) -> str:
        return f"step {self.step}" if self.t is None else f"{self.step}, t={self.t}"


def gradient_picture(gradient: Float[Tensor, "c h w"]) -> Float[Tensor, "h w 3"]:
    """The way the latents are pushed (down the gradient): the first three channels as colours around mid-grey, each
    picture scaled by itself."""
    channels = -gradient[[min(index, len(gradient) - 1) for index in range(3)]].float()
    top = channels.abs().flatten().quantile(LARGE).clamp_min(1e-12)
    return (0.5 + 0.5 * channels / top).clamp(0, 1).permute(1, 2, 0)


def evenly(frames: Sequence[Frame], count: int) -> list[Frame]:
    """At most ``count`` of the frames, the first and the last among them."""
    picks = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    return [frames[pick] for pick in picks]


def strip(frames: Sequence[Frame], title: str, size: int) -> RGBImage:
    """Three rows (image, gradient, ẑ0) over time."""
    chosen = evenly(frames, COLUMNS)
    rows = [[f.image for f in chosen], [f.gradient for f in chosen], [f.clean for f in chosen]]
    return contact_sheet(rows, row_labels=ROWS, column_labels=[f.label for f in chosen], title=title, size=size)


def comparison(plays: Mapping[str, Sequence[Frame]], title: str, size: int) -> RGBImage:
    """A row of pictures over time for each method, all at the same steps as far as they went."""
    longest = max(plays.values(), key=len)
    steps = [frame.step for frame in evenly(longest, COMPARED)]
    rows = []
    for frames in plays.values():
        at = {frame.step: frame.image for frame in frames}
        rows.append([at.get(step) for step in steps])
    labels = [f"step {step}" for step in steps]
    return contact_sheet(rows, row_labels=list(plays), column_labels=labels, title=title, size=size)


def write_video(path: Path, frames: Sequence[Frame]) -> None:
    """[image | gradient | ẑ0] as an MP4; the last picture stands for a second."""
    shown: list[np.ndarray] = []
    beside = (frames[0].gradient, frames[0].clean)
    for frame in frames:
        beside = (frame.gradient, frame.clean) if frame.gradient is not None else beside
        side = frame.image.shape[0] * max(1, -(-VIDEO_SIZE // frame.image.shape[0]))
        side += side % 2
        cells = [frame.image, *(picture for picture in beside if picture is not None)]
        shown.append(np.concatenate([_enlarged(picture, side) for picture in cells], axis=1))
    encode_video(path, np.stack([*shown, *[shown[-1]] * (FPS - 1)]), FPS)


def write_sweep_sheet(folder: Path, final: str) -> Path | None:
    """The last pictures of a sweep's runs beside each other, as ``comparison.png`` in their common folder; None as long
    as there is only one.

    Args:
        folder: of the sweep; each run is a folder ``<key>=<value>`` in it.
        final: where a run keeps its last picture.
    """
    files = sorted(folder.glob(f"*=*/{final}"))
    if len(files) < 2:
        return None
    names = [file.relative_to(folder).parts[0] for file in files]
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    path = folder / "comparison.png"
    write_png(path, contact_sheet([pictures], column_labels=names, size=cell_size(pictures[0].shape[0])))
    return path


def cell_size(image_size: int) -> int:
    """The side of a sheet's cells: wide enough for their labels."""
    return max(128, min(image_size, 256))


def _enlarged(picture: RGBImage, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST))
