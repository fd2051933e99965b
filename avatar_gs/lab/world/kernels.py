"""Compiled loops of the mini world, and the one rule that both the mesh and its painting need: where hair grows."""

import inspect
from collections.abc import Callable
from typing import Any

from numba import njit


def kernel(function: Callable) -> Any:
    """Compiled, and runs without the GIL. (Run-time type checkers wrap functions, which numba cannot compile.)"""
    return njit(cache=True, nogil=True)(inspect.unwrap(function))


@kernel
def on_scalp(ax, y, z, head_y, hairline_y, side_z, low_y):
    """Whether a rest-pose point of the head (``ax`` is its distance from the middle plane) lies under hair."""
    if abs(ax - 0.083) < 0.012 and abs(y - head_y - 0.029) < 0.033 and -0.01 < z < 0.06:
        return False  # the ear
    crown = y > hairline_y and (z < 0.02 or y > hairline_y + 2.8 * ax * ax)
    return crown or (z < side_z - 1.1 * max(0.0, head_y - y) and y > low_y)
