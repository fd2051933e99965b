"""Smooth curves through keys, for motions made by hand."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicSpline, PchipInterpolator

Key = int | float | Sequence[float]


def cycle(phase: Float[np.ndarray, " F"], *keys: tuple[float, Key]) -> np.ndarray:
    """A periodic curve through ``(phase, value)`` keys (cubic spline); phases from 0 to below 1, in order."""
    times = np.array([time for time, _ in keys])
    values = np.array([value for _, value in keys], dtype=float)
    closed = CubicSpline(np.append(times, times[0] + 1), np.concatenate([values, values[:1]]), bc_type="periodic")
    return closed((phase - times[0]) % 1.0 + times[0])


def ease(time: Float[np.ndarray, " F"], *keys: tuple[float, Key]) -> np.ndarray:
    """A curve through ``(time, value)`` keys that rests at equal keys and never overshoots (monotone cubic)."""
    times = np.array([key for key, _ in keys])
    values = np.array([value for _, value in keys], dtype=float)
    curve = PchipInterpolator(times, values, axis=0)
    return curve(np.clip(time, times[0], times[-1]))


def bump(phase: Float[np.ndarray, " F"], start: float, end: float) -> Float[np.ndarray, " F"]:
    """0 outside ``start`` to ``end`` (fractions of a cycle, may pass 1), rising smoothly to 1 in the middle."""
    inside = ((phase - start) % 1.0) / (end - start)
    return np.where(inside < 1, np.sin(np.pi * np.clip(inside, 0, 1)) ** 2, 0.0)
