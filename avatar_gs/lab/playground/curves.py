"""Curves of a play's figures as one picture: a panel for each figure, a line for each method."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

PANEL = (340, 190)
COLUMNS = 3
MARGIN = 30
PAPER, INK, FRAME = (255, 255, 255), (40, 40, 44), (190, 194, 202)
COLORS = (
    *((30, 90, 200), (214, 96, 30), (30, 140, 80), (190, 40, 60), (130, 80, 180), (120, 90, 60), (220, 90, 170)),
    *((110, 116, 124), (160, 160, 20), (20, 160, 180), (20, 40, 90), (240, 160, 60), (90, 200, 120)),
)
"""One for each method there is."""
SMOOTH = 25
"""Lines are running means over this share of the steps (one in …)."""
UNSMOOTHED = ("distance", "spread")
Curves = Mapping[str, Sequence[float]]


def curves_picture(plays: Mapping[str, Curves], title: str) -> UInt8[np.ndarray, "H W 3"]:
    """A panel for each figure that any method has, in their order."""
    names = list(dict.fromkeys(name for curves in plays.values() for name in curves))
    width, height = PANEL
    rows = -(-len(names) // COLUMNS)
    font = ImageFont.load_default(12)
    top = 2 * MARGIN
    canvas = Image.new("RGB", (COLUMNS * width, top + rows * height), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, 8), title, fill=INK, font=font)
    x = MARGIN
    for method, color in zip(plays, COLORS, strict=False):
        draw.line([(x, MARGIN + 8), (x + 16, MARGIN + 8)], fill=color, width=3)
        draw.text((x + 21, MARGIN + 1), method, fill=INK, font=font)
        x += 36 + round(font.getlength(method))
    for index, name in enumerate(names):
        corner = (index % COLUMNS * width, top + index // COLUMNS * height)
        _panel(draw, font, corner, name, [curves.get(name, ()) for curves in plays.values()])
    return np.asarray(canvas).copy()


def smoothed(values: Sequence[float]) -> np.ndarray:
    """The running mean, NaN left out of it and kept where there is nothing else."""
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        return array
    window = max(1, len(array) // SMOOTH)
    known = np.isfinite(array)
    ones = np.ones(window)
    total = np.convolve(np.where(known, array, 0.0), ones)[: len(array)]
    count = np.convolve(known.astype(np.float64), ones)[: len(array)]
    return np.divide(total, count, out=np.full(len(array), np.nan), where=count > 0)


def _panel(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    corner: tuple[int, int],
    name: str,
    lines: Sequence[Sequence[float]],
) -> None:
    drawn = [np.asarray(v, dtype=np.float64) if name in UNSMOOTHED else smoothed(v) for v in lines]
    finite = np.concatenate([values[np.isfinite(values)] for values in drawn])
    if not len(finite):
        return
    low, high = min(0.0, float(finite.min())), float(finite.max())
    high = high if high > low else low + 1.0
    left, right = corner[0] + MARGIN, corner[0] + PANEL[0] - MARGIN // 2
    bottom, ceiling = corner[1] + PANEL[1] - MARGIN // 2, corner[1] + MARGIN
    longest = max(len(values) for values in drawn)
    draw.rectangle([left, ceiling, right, bottom], outline=FRAME)
    draw.text((left, ceiling - 18), f"{name}: {low:.3g} to {high:.3g}, {longest} steps", fill=INK, font=font)
    for values, color in zip(drawn, COLORS, strict=False):
        x = left + np.arange(len(values)) / max(longest - 1, 1) * (right - left)
        y = bottom - (values - low) / (high - low) * (bottom - ceiling)
        points = [(float(a), float(b)) for a, b in zip(x, y, strict=True) if np.isfinite(b)]
        if len(points) > 1:
            draw.line(points, fill=color, width=2)
