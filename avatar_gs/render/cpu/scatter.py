"""Sums of values that visible points carry, by cell of an image."""

import numpy as np
from numpy.typing import NDArray

from avatar_gs.render.cpu.runtime import kernel


@kernel
def scatter_visible(
    points: NDArray[np.float32],
    values: NDArray[np.float32],
    projection: NDArray[np.float32],
    depth: NDArray[np.float32],
    behind: float,
    on_background: bool,
    total: NDArray[np.float32],
    count: NDArray[np.int32],
) -> None:
    """Add each visible point's values to ``total`` at its cell, and one to ``count``.

    Args:
        points: [P, 3], world metres.
        values: [P, c].
        projection: [3, 4], from world points to (u z, v z, z), where u and v are fractions of the image.
        depth: [D, D], metres, 0 where it is empty.
        behind: metres that a point may lie behind the surface.
        on_background: whether points before an empty background are visible.
        total: [size, size, c].
        count: [size, size].
    """
    size, rows, columns = count.shape[0], depth.shape[0], depth.shape[1]
    for index in range(points.shape[0]):
        x, y, z = points[index, 0], points[index, 1], points[index, 2]
        w = projection[2, 0] * x + projection[2, 1] * y + projection[2, 2] * z + projection[2, 3]
        if w <= 1e-6:
            continue
        u = (projection[0, 0] * x + projection[0, 1] * y + projection[0, 2] * z + projection[0, 3]) / w
        v = (projection[1, 0] * x + projection[1, 1] * y + projection[1, 2] * z + projection[1, 3]) / w
        if u < 0 or u >= 1 or v < 0 or v >= 1:
            continue
        surface = depth[min(int(v * rows), rows - 1), min(int(u * columns), columns - 1)]
        if w > surface + behind and not (on_background and surface == 0):
            continue
        if surface == 0 and not on_background:
            continue
        row, column = min(int(v * size), size - 1), min(int(u * size), size - 1)
        count[row, column] += 1
        for channel in range(values.shape[1]):
            total[row, column, channel] += values[index, channel]
