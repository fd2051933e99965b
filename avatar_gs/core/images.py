"""Images as bytes and PNG files, and contact sheets: labelled grids of images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from avatar_gs.core.io import atomic_write

RGBImage = UInt8[np.ndarray, "_ _ 3"]

_PAPER, _INK, _EMPTY = (255, 255, 255), (40, 40, 44), (236, 236, 238)
_GAP = 6


def to_uint8(images: Float[Tensor, "*B H W C"]) -> UInt8[np.ndarray, "*B H W 3"]:
    """Convert images in [0, 1] with one channel (grey) or three to RGB bytes; values are clamped and rounded."""
    rounded = images.detach().clamp(0, 1).mul(255).round().to(torch.uint8).cpu()
    return rounded.expand(*rounded.shape[:-1], 3).numpy().copy()


def contact_sheet(
    rows: Sequence[Sequence[RGBImage | None]],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
    size: int = 192,
) -> RGBImage:
    """Arrange images in a labelled grid.

    Args:
        rows: images of each row; None leaves a cell empty, and rows may differ in length. Images keep their aspect
            ratio; small ones (latents, pose maps) are enlarged without smoothing.
        row_labels: left of the rows; too long ones are cut with an ellipsis, as all labels.
        column_labels: above the columns.
        title: above the grid.
        size: height of a cell in pixels; it is as wide as the widest image.

    Raises:
        ValueError: if there is no cell.
    """
    if not any(len(row) for row in rows):
        raise ValueError("a sheet needs at least one cell")
    text_size = max(11, size // 13)
    font, text_height = ImageFont.load_default(text_size), text_size + 2 * _GAP
    columns = max(len(row) for row in rows)
    cell_width = max(
        (round(size * p.shape[1] / p.shape[0]) for row in rows for p in row if p is not None), default=size
    )
    label_width = min(2 * size, max((round(font.getlength(label)) for label in row_labels), default=0))
    left = _GAP + (label_width + _GAP if label_width else 0)
    top = _GAP + text_height * (bool(title) + bool(column_labels))
    canvas = Image.new("RGB", (left + columns * (cell_width + _GAP), top + len(rows) * (size + _GAP)), _PAPER)
    draw = ImageDraw.Draw(canvas)

    def write(x: int, y: int, room: int, text: str) -> None:
        draw.text((x, y), _shortened(text, room, font), fill=_INK, font=font, anchor="lm")

    if title:
        write(_GAP, text_height // 2, canvas.width - 2 * _GAP, title)
    for i, label in enumerate(column_labels):
        write(left + i * (cell_width + _GAP), top - text_height // 2, cell_width, label)
    for r, row in enumerate(rows):
        y = top + r * (size + _GAP)
        if r < len(row_labels):
            write(_GAP, y + size // 2, label_width, row_labels[r])
        for c, image in enumerate(row):
            x = left + c * (cell_width + _GAP)
            canvas.paste(_EMPTY, (x, y, x + cell_width, y + size))
            if image is not None:
                scaled = _fit(image, cell_width, size)
                canvas.paste(scaled, (x + (cell_width - scaled.width) // 2, y + (size - scaled.height) // 2))
    return np.asarray(canvas).copy()


def write_png(path: str | Path, image: RGBImage) -> None:
    """Write an image. Raises OSError if the file cannot be written."""
    with atomic_write(path) as temporary:
        Image.fromarray(np.ascontiguousarray(image)).save(temporary, format="PNG")


def _fit(image: RGBImage, width: int, height: int) -> Image.Image:
    scale = min(width / image.shape[1], height / image.shape[0])
    shape = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    return Image.fromarray(np.ascontiguousarray(image)).resize(shape, method)


def _shortened(text: str, room: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    text = " ".join(text.split())
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text + "…"
