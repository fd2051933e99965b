"""The loss of a training as a picture and as a few numbers: single steps differ too much to be read."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, MARGIN = 480, 240, 34
PAPER, INK, FAINT, LINE = (255, 255, 255), (40, 40, 44), (205, 210, 220), (30, 90, 200)


def smoothed(losses: Sequence[float], points: int) -> list[float]:
    """The means of at most ``points`` equal stretches of the steps."""
    stretches = np.array_split(np.asarray(losses, dtype=np.float64), min(points, len(losses)))
    return [float(stretch.mean()) for stretch in stretches]


def loss_curve(losses: Sequence[float]) -> UInt8[np.ndarray, "H W 3"]:
    """Every step's loss as a dot, and a running mean over a twentieth of the steps as a line."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    values = np.asarray(losses, dtype=np.float64)
    top = float(values.max(initial=1e-9))
    x = np.linspace(MARGIN, WIDTH - MARGIN, len(values)) if len(values) > 1 else np.full(len(values), WIDTH / 2)

    def height(loss: np.ndarray) -> np.ndarray:
        return HEIGHT - MARGIN - loss / top * (HEIGHT - 2 * MARGIN)

    draw.line([(MARGIN, MARGIN), (MARGIN, HEIGHT - MARGIN), (WIDTH - MARGIN, HEIGHT - MARGIN)], fill=INK)
    for left, upper in zip(x, height(values), strict=True):
        draw.ellipse([left - 1, upper - 1, left + 1, upper + 1], fill=FAINT)
    window = max(1, len(values) // 20)
    if len(values) > window:
        mean = np.convolve(values, np.ones(window) / window, mode="valid")
        draw.line(list(zip(x[window - 1 :].tolist(), height(mean).tolist(), strict=True)), fill=LINE, width=2)
    draw.text((MARGIN, 8), f"loss of {len(values)} steps, from 0 to {top:.4g}", fill=INK, font=font)
    return np.asarray(canvas).copy()
