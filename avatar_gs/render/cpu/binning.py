"""From projected splats to the depth-sorted list of splats of every tile.

Visible (camera, splat) pairs become packed *rows* of `ROW` floats, one cache line each, in order of camera, then depth
(ties: by index). Then every row is entered in the list of each tile that its ellipse's bounding box touches: a counting
sort in two passes over chunks of rows, whose order does not depend on the threads that run them.
"""

import math
from typing import NamedTuple

import numpy as np

from avatar_gs.render.cpu.projection import Projected
from avatar_gs.render.cpu.runtime import helper, kernel, run_chunks, thread_count

TILE = 32
"""Side of a tile in pixels."""

# Fields of a row. The exponent is kept as sigma/8 = QA dx² + QB dx dy + QC dy² (see `blending.exp_minus_8`).
ROW = 16
X, Y, QA, QB, QC, OPACITY, RED, GREEN, BLUE, DEPTH = range(10)
# The ellipse sigma/8 = q on which alpha is 1/255, for clipping it to segments of blocks (see `tiles.clip`):
TOP_X, DISCRIMINANT, FOUR_QC_Q, HALF_HEIGHT, HALF_WIDTH, HALF_OVER_QC = range(10, 16)


class Bins(NamedTuple):
    """Rows, and the (row, tile) *pairs* sorted by tile and then by depth; kernels take it whole.

    Tiles of all images are numbered consecutively: ``camera * tiles + tile_y * columns + tile_x``.
    """

    rows: np.ndarray
    """``[M, ROW]`` float32"""
    sources: np.ndarray
    """``[M]``: each row's index ``camera * N + splat``."""
    rows_of_pairs: np.ndarray
    first: np.ndarray
    """The pairs of tile t are ``first[t] <= k < first[t + 1]``."""
    slots: np.ndarray
    """The pairs of row m are ``slots[first_slot[m]:first_slot[m + 1]]``."""
    first_slot: np.ndarray
    order: np.ndarray
    """The tiles, longest list first."""
    columns: int
    """Tiles in a row of an image."""
    tiles: int
    """Tiles in an image."""
    width: int
    """Of the images in memory, a multiple of 8 pixels."""
    height: int


@kernel
def _depth_keys(start, stop, radii, depths, keys, visible):
    """Sort keys of images ``start <= c < stop``: the bits of the (positive) depth, then the splat's index."""
    for camera in range(start, stop):
        count = 0
        for splat in range(depths.shape[1]):
            if radii[camera, splat, 0] > 0:
                bits = np.uint64(np.float32(depths[camera, splat]).view(np.uint32))
                keys[camera, count] = (bits << np.uint64(32)) | np.uint64(splat)
                count += 1
        visible[camera] = count


def _sort_keys(start: int, stop: int, keys: np.ndarray, visible: np.ndarray) -> None:
    for camera in range(start, stop):
        keys[camera, : visible[camera]].sort()


@helper
def _pack_row(row, x, y, conic, depth, opacity, color):
    a, b, c = conic
    qa, qb, qc = np.float64(a) / 16.0, np.float64(b) / 8.0, np.float64(c) / 16.0
    # Slightly larger than the ellipse, so that rounding loses no pixel.
    q = (math.log(min(max(opacity * 255.0, 1.0), 255.0)) + 1e-3) / 8.0
    discriminant = qb * qb - 4.0 * qa * qc
    half_height = math.sqrt(-4.0 * qa * q / discriminant)
    row[X], row[Y], row[QA], row[QB], row[QC], row[OPACITY] = x, y, qa, qb, qc, opacity
    row[RED], row[GREEN], row[BLUE], row[DEPTH] = color[0], color[1], color[2], depth
    row[TOP_X], row[DISCRIMINANT], row[FOUR_QC_Q] = qb * half_height / (2.0 * qa), discriminant, 4.0 * qc * q
    row[HALF_HEIGHT], row[HALF_WIDTH] = half_height, math.sqrt(-4.0 * qc * q / discriminant)
    row[HALF_OVER_QC] = 0.5 / qc


@helper
def _touched(low, high, tiles):
    """First and one past the last of ``tiles`` tiles that the pixels ``low``…``high`` touch."""
    limit, zero, one = np.float32(tiles), np.float32(0), np.float32(1)
    first = np.int32(min(max(low * np.float32(1 / TILE), zero), limit))
    last = np.int32(min(max(high * np.float32(1 / TILE) + one, zero), limit))
    return first, last


@kernel
def _pack(
    start,
    stop,
    bounds,
    sources,
    projected,
    opacities,
    colors,
    columns,
    tiles,
    rows,
    boxes,
    pairs_of_chunk,
    pairs_of_row,
):
    """Pack the rows of chunks ``start <= k < stop``, find their boxes of tiles, count pairs by row and by tile."""
    _, means2d, depths, conics = projected
    splats = opacities.shape[0]
    for chunk in range(start, stop):
        for m in range(bounds[chunk], bounds[chunk + 1]):
            i = sources[m]
            camera = i // splats
            splat = i - camera * splats
            row = rows[m]
            conic = (conics[i, 0], conics[i, 1], conics[i, 2])
            color = (colors[splat, 0], colors[splat, 1], colors[splat, 2])
            _pack_row(row, means2d[i, 0], means2d[i, 1], conic, depths[i], np.float64(opacities[splat]), color)
            left, right = _touched(row[X] - row[HALF_WIDTH], row[X] + row[HALF_WIDTH], columns)
            top, bottom = _touched(row[Y] - row[HALF_HEIGHT], row[Y] + row[HALF_HEIGHT], tiles // columns)
            corner = camera * tiles + top * columns + left
            boxes[m, 0], boxes[m, 1], boxes[m, 2] = corner, max(right - left, 0), max(bottom - top, 0)
            pairs_of_row[m] = boxes[m, 1] * boxes[m, 2]
            for down in range(boxes[m, 2]):
                for across in range(boxes[m, 1]):
                    pairs_of_chunk[chunk, corner + down * columns + across] += 1


@kernel
def _enter_pairs(start, stop, bounds, boxes, columns, cursors, first_slot, rows_of_pairs, slots):
    """The second pass: ``cursors [chunks, tiles]`` is where each chunk's pairs of each tile begin."""
    for chunk in range(start, stop):
        for m in range(bounds[chunk], bounds[chunk + 1]):
            slot = first_slot[m]
            for down in range(boxes[m, 2]):
                for across in range(boxes[m, 1]):
                    tile = boxes[m, 0] + down * columns + across
                    position = cursors[chunk, tile]
                    cursors[chunk, tile] = position + 1
                    rows_of_pairs[position] = m
                    slots[slot] = position
                    slot += 1


def _sorted_sources(radii: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """Indices ``camera * N + splat`` of the visible splats, by camera and depth."""
    images, splats = depths.shape
    keys, visible = np.empty((images, splats), np.uint64), np.empty(images, np.int64)
    run_chunks(_depth_keys, images, radii, depths, keys, visible)
    run_chunks(_sort_keys, images, keys, visible)
    indices = [(keys[c, : visible[c]] & np.uint64(0xFFFFFFFF)).astype(np.int64) + c * splats for c in range(images)]
    return np.concatenate(indices)


def bin_splats(
    projected: Projected, opacities: np.ndarray, colors: np.ndarray, images: int, width: int, height: int
) -> Bins:
    """Sort and bin the splats that `projection.project` left visible.

    Args:
        projected: of `projection.project`, B images of N splats.
        opacities, colors: ``[N]`` and ``[N, 3]``.
        images: B.
        width, height: of the images in memory, pixels.
    """
    columns = -(-width // TILE)
    tiles = columns * -(-height // TILE)
    sources = _sorted_sources(
        projected.radii.reshape(images, len(opacities), 2), projected.depths.reshape(images, len(opacities))
    )
    count = len(sources)
    chunks = thread_count()
    bounds = np.linspace(0, count, chunks + 1).astype(np.int64)
    rows, boxes = np.empty((count, ROW), np.float32), np.empty((count, 3), np.int32)
    cursors, first_slot = np.zeros((chunks, images * tiles), np.int64), np.zeros(count + 1, np.int64)
    run_chunks(
        _pack,
        chunks,
        bounds,
        sources,
        projected,
        opacities,
        colors,
        columns,
        tiles,
        rows,
        boxes,
        cursors,
        first_slot[1:],
    )
    np.cumsum(first_slot, out=first_slot)
    lengths = cursors.sum(axis=0)
    first = np.concatenate([[0], np.cumsum(lengths)])
    cursors[:] = first[:-1] + np.cumsum(cursors, axis=0) - cursors
    rows_of_pairs, slots = np.empty(first[-1], np.int32), np.empty(first[-1], np.int64)
    run_chunks(_enter_pairs, chunks, bounds, boxes, columns, cursors, first_slot, rows_of_pairs, slots)
    order = np.argsort(-lengths, kind="stable")
    return Bins(rows, sources, rows_of_pairs, first, slots, first_slot, order, columns, tiles, width, height)
