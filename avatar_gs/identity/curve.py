"""The loss of a training as a plot and as a few numbers."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WIDTH, HEIGHT = 480, 240
FAINT, LINE = "#cdd2dc", "#1e5ac8"


def smoothed(losses: Sequence[float], points: int) -> list[float]:
    """Means of at most ``points`` equal stretches of the steps."""
    stretches = np.array_split(np.asarray(losses, dtype=np.float64), min(points, len(losses)))
    return [float(stretch.mean()) for stretch in stretches]


def loss_curve(losses: Sequence[float]) -> UInt8[np.ndarray, "H W 3"]:
    """Plot of every step's loss as a dot, and of a running mean over a twentieth of the steps as a line."""
    values = np.asarray(losses, dtype=np.float64)
    canvas = FigureCanvasAgg(Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100, layout="constrained"))
    axes = canvas.figure.add_subplot()
    axes.plot(np.arange(1, len(values) + 1), values, ".", color=FAINT, markersize=3)
    window = max(1, len(values) // 20)
    if len(values) > window:
        mean = np.convolve(values, np.ones(window) / window, mode="valid")
        axes.plot(np.arange(window, len(values) + 1), mean, color=LINE)
    axes.set(xlabel="step", ylabel="loss", ylim=(0, 1.05 * max(float(values.max(initial=0)), 1e-9)))
    axes.spines[["top", "right"]].set_visible(False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
