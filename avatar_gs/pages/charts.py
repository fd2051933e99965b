"""Curves as small SVG images in the page: a value of every kept step, and a running mean."""

import math
from collections.abc import Sequence

from avatar_gs.pages.html import text

WIDTH, HEIGHT = 320, 150
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 10, 22
MEAN = 20
"""The running mean is over this fraction of the points (one twentieth)."""


def chart(name: str, steps: Sequence[float], values: Sequence[float | None]) -> str:
    """An SVG element; empty for fewer than two values.

    Args:
        name: what is drawn, any text.
        steps: where each value is.
        values: None where there is none.
    """
    points = [(step, value) for step, value in zip(steps, values, strict=False) if value is not None]
    if len(points) < 2 or points[0][0] == points[-1][0]:
        return ""
    low, high = _range([value for _, value in points])
    first, last = points[0][0], points[-1][0]

    def place(step: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * (step - first) / (last - first)
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)
        return f"{x:.1f},{y:.1f}"

    def line(kind: str, chosen: Sequence[tuple[float, float]]) -> str:
        return f'<polyline class="{kind}" points="{" ".join(place(*point) for point in chosen)}"/>'

    title = f"{name}: {_short(points[0][1])} at step {first:g}, {_short(points[-1][1])} at step {last:g}"
    floor = HEIGHT - BOTTOM
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{text(title)}</title>'
        f'<path class="axis" d="M{LEFT} {TOP}V{floor}H{WIDTH - RIGHT}"/>'
        f"{line('values', points)}{line('mean', _running_mean(points))}"
        f'<text class="left" x="{LEFT - 6}" y="{TOP + 8}">{_short(high)}</text>'
        f'<text class="left" x="{LEFT - 6}" y="{floor}">{_short(low)}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 6}">{first:g}</text>'
        f'<text class="left" x="{WIDTH - RIGHT}" y="{HEIGHT - 6}">step {last:g}</text></svg>'
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(0.0, *values), max(values)
    return (low, high) if high > low else (low, low + 1.0)


def _running_mean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    window = max(1, len(points) // MEAN)
    means = []
    for end in range(window, len(points) + 1):
        part = points[end - window : end]
        means.append((sum(step for step, _ in part) / window, math.fsum(value for _, value in part) / window))
    return means


def _short(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
