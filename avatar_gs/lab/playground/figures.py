"""The playground's figures: [image | gradient | ẑ0] over time as strip and video, comparison sheets, and curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from avatar_gs.core.images import RGBImage, contact_sheet, to_uint8, write_png
from avatar_gs.export.video import encode_video
from avatar_gs.guidance.distill import Distilled
from avatar_gs.lab.playground.fields import Canvas

STRIP_COLUMNS = 10
"""Frames of a strip: the first, the last, and others evenly between."""
COMPARISON_COLUMNS = 6
ROWS = ("image", "gradient", "clean (z0)")
FPS = 12
VIDEO_SIZE = 256
"""Minimum side in pixels of each of the video's three images."""
QUANTILE = 0.99
"""Fraction of a gradient's values that its image shows without clipping."""
PANEL = (3.4, 1.9)
"""Width and height of a curve's panel in inches, at 100 pixels per inch."""
PANEL_COLUMNS = 3
SMOOTHING = 25
"""Curves are running means over the number of steps divided by this."""
UNSMOOTHED = ("distance", "std")
COLOURS = colormaps["tab20"]


@dataclass(frozen=True)
class Frame:
    """The image before a step's update and what the guidance made of it; the last frame has the image alone."""

    step: int
    image: RGBImage
    gradient: RGBImage | None = None
    clean: RGBImage | None = None
    t: int | None = None

    @classmethod
    @torch.no_grad()
    def of(cls, step: int, canvas: Canvas, distilled: Distilled | None) -> "Frame":
        image = to_uint8(canvas.image())[0]
        if distilled is None:
            return cls(step, image)
        clean = to_uint8(canvas.prior.decode_latents(distilled.z0_hat))[0]
        return cls(step, image, to_uint8(gradient_image(distilled.grad[0])), clean, int(distilled.t[0]))

    @property
    def label(self) -> str:
        return f"step {self.step}" if self.t is None else f"{self.step}, t={self.t}"


def gradient_image(gradient: Float[Tensor, "c h w"]) -> Float[Tensor, "h w 3"]:
    """The descent direction: the first three channels of the negative gradient as colours around mid-grey, scaled to
    the ``QUANTILE`` of its absolute values."""
    channels = -gradient[[min(index, len(gradient) - 1) for index in range(3)]].float()
    top = channels.abs().flatten().quantile(QUANTILE).clamp_min(1e-12)
    return (0.5 + 0.5 * channels / top).clamp(0, 1).permute(1, 2, 0)


def evenly(frames: Sequence[Frame], count: int) -> list[Frame]:
    """At most ``count`` of the frames, including the first and the last."""
    picks = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    return [frames[pick] for pick in picks]


def strip(frames: Sequence[Frame], title: str, size: int) -> RGBImage:
    """Three rows (image, gradient, ẑ0) over time, in cells of ``size`` pixels."""
    chosen = evenly(frames, STRIP_COLUMNS)
    rows = [[f.image for f in chosen], [f.gradient for f in chosen], [f.clean for f in chosen]]
    return contact_sheet(rows, row_labels=ROWS, column_labels=[f.label for f in chosen], title=title, size=size)


def comparison(plays: Mapping[str, Sequence[Frame]], title: str, size: int) -> RGBImage:
    """A row of images over time for each method, at the steps of the method that went furthest."""
    longest = max(plays.values(), key=len)
    steps = [frame.step for frame in evenly(longest, COMPARISON_COLUMNS)]
    images = [{frame.step: frame.image for frame in frames} for frames in plays.values()]
    rows = [[by_step.get(step) for step in steps] for by_step in images]
    labels = [f"step {step}" for step in steps]
    return contact_sheet(rows, row_labels=list(plays), column_labels=labels, title=title, size=size)


def write_video(path: Path, frames: Sequence[Frame]) -> None:
    """[image | gradient | ẑ0] as an MP4; the last frame stays for a second."""
    side = frames[0].image.shape[0] * max(1, -(-VIDEO_SIZE // frames[0].image.shape[0]))
    side += side % 2
    shown: list[np.ndarray] = []
    guidance = (frames[0].gradient, frames[0].clean)
    for frame in frames:
        guidance = guidance if frame.gradient is None else (frame.gradient, frame.clean)
        cells = [Image.fromarray(image) for image in (frame.image, *guidance) if image is not None]
        shown.append(np.hstack([np.asarray(cell.resize((side, side), Image.Resampling.NEAREST)) for cell in cells]))
    encode_video(path, np.stack([*shown, *[shown[-1]] * (FPS - 1)]), FPS)


def write_sweep_sheet(folder: Path, final: str) -> Path | None:
    """Write the final images of a sweep's runs to ``comparison.png`` in their common folder.

    Args:
        folder: of the sweep; each run is a folder ``<key>=<value>`` in it.
        final: path of the final image in a run's folder.

    Returns:
        The sheet's path; None if there are fewer than two runs.
    """
    files = sorted(folder.glob(f"*=*/{final}"))
    if len(files) < 2:
        return None
    names = [file.relative_to(folder).parts[0] for file in files]
    images = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    path = folder / "comparison.png"
    write_png(path, contact_sheet([images], column_labels=names, size=cell_size(images[0].shape[0])))
    return path


def cell_size(image_size: int) -> int:
    """Side of a sheet's cells in pixels, wide enough for labels."""
    return max(128, min(image_size, 256))


def plot_curves(plays: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> Figure:
    """A panel for each figure that any method has, with a line for each method that has it.

    Args:
        plays: by method and figure, the values of every step; NaN where there is none.
    """
    names = list(dict.fromkeys(name for curves in plays.values() for name in curves))
    rows = -(-len(names) // PANEL_COLUMNS)
    size = (PANEL_COLUMNS * PANEL[0], 0.7 + rows * PANEL[1])
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(rows, PANEL_COLUMNS, squeeze=False).flatten()
    for index, name in enumerate(names):
        panel = axes[index]
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("step", fontsize=8)
        panel.tick_params(labelsize=7)
        for color, (method, curves) in enumerate(plays.items()):
            if name in curves:
                values = np.asarray(curves[name], np.float64) if name in UNSMOOTHED else smoothed(curves[name])
                panel.plot(values, label=method, color=COLOURS(color))
        if panel.get_ylim()[0] > 0:
            panel.set_ylim(bottom=0)
    for panel in axes[len(names) :]:
        panel.set_axis_off()
    lines = {line.get_label(): line for panel in axes for line in panel.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=7, fontsize=8)
    return figure


def to_image(figure: Figure) -> RGBImage:
    """The figure's pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def smoothed(values: Sequence[float]) -> Float[np.ndarray, " steps"]:
    """The running mean over finite values; NaN where the window has none."""
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        return array
    finite, ones = np.isfinite(array), np.ones(max(1, len(array) // SMOOTHING))
    total = np.convolve(np.where(finite, array, 0.0), ones)[: len(array)]
    count = np.convolve(finite.astype(np.float64), ones)[: len(array)]
    return np.divide(total, count, out=np.full(len(array), np.nan), where=count > 0)
