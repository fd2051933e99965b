"""From projected splats to the depth-sorted list of splats of every tile.

Visible (camera, splat) pairs become packed *rows* of `ROW` floats, one cache line each, in order of camera, then depth (ties:
by index). Then every row is entered in the list of each tile that its ellipse's bounding box touches: a counting
sort in two passes over chunks of rows, so that chunks can run on different threads and still give one order.
"""

import math
from dataclasses import dataclass

import numpy as np

from avatar_gs.render.cpu.jit import helper, kernel
from avatar_gs.render.cpu.threads import run_chunks, thread_count

TILE = 32
"""Side of a tile in pixels."""

# Fields of a row. The exponent is kept as sigma/8 = QA dx² + QB dx dy + QC dy² (see blending.exp_minus_8).
ROW = 16
X, Y, QA, QB, QC, OPACITY, RED, GREEN, BLUE, DEPTH = range(10)
# The ellipse sigma/8 = q on which alpha is 1/255, for clipping it to strips of pixels (see strips.clip):
TOP_X, DISCRIMINANT, FOUR_QC_Q, HALF_HEIGHT, HALF_WIDTH, HALF_OVER_QC = range(10, 16)


@dataclass(frozen=True)
class Bins:
    """``pairs`` (row, tile) pairs, sorted by tile and then by depth.

    ``sources [M]`` is each row's index ``camera * N + splat``; ``rows_of_pairs[first[t]:first[t + 1]]`` are the rows of
    tile t; ``slots[first_slot[m]:first_slot[m + 1]]`` are the positions of row m's pairs; ``order`` lists the tiles
    from the longest to the shortest.
    """

    rows: np.ndarray
    sources: np.ndarray
    rows_of_pairs: np.ndarray
    first: np.ndarray
    slots: np.ndarray
    first_slot: np.ndarray
    order: np.ndarray
    columns: int
    """Tiles across one picture."""
    tiles: int
    """Tiles in one picture."""

    @property
    def pairs(self) -> int:
        return len(self.rows_of_pairs)


@kernel
def _depth_keys(start, stop, radii, depths, keys, visible):
    """Sort keys of pictures ``start <= c < stop``: the depth's bits (it is positive), then the splat's index."""
    for camera in range(start, stop):
        count = 0
        for splat in range(depths.shape[1]):
            if radii[camera, splat, 0] > 0:
                bits = np.uint64(np.float32(depths[camera, splat]).view(np.uint32))
                keys[camera, count] = (bits << np.uint64(32)) | np.uint64(splat)
                count += 1
        visible[camera] = count


def _sort_pictures(start: int, stop: int, keys: np.ndarray, visible: np.ndarray) -> None:
    for camera in range(start, stop):
        keys[camera, : visible[camera]].sort()


@kernel
def _pack(start, stop, sources, means2d, conics, depths, opacities, colors, rows):
    count = opacities.shape[0]
    for m in range(start, stop):
        i = sources[m]
        splat = i % count
        qa, qb, qc = conics[i, 0] / 16.0, conics[i, 1] / 8.0, conics[i, 2] / 16.0
        opacity = np.float64(opacities[splat])
        # A hair larger than the ellipse itself, so that rounding loses no pixel.
        q = (math.log(min(max(opacity * 255.0, 1.0), 255.0)) + 1e-3) / 8.0
        discriminant = qb * qb - 4.0 * qa * qc
        half_height = math.sqrt(-4.0 * qa * q / discriminant)
        rows[m, X], rows[m, Y] = means2d[i, 0], means2d[i, 1]
        rows[m, QA], rows[m, QB], rows[m, QC], rows[m, OPACITY] = qa, qb, qc, opacity
        rows[m, RED], rows[m, GREEN], rows[m, BLUE] = colors[splat, 0], colors[splat, 1], colors[splat, 2]
        rows[m, DEPTH] = depths[i]
        rows[m, TOP_X] = qb * half_height / (2.0 * qa)
        rows[m, DISCRIMINANT], rows[m, FOUR_QC_Q] = discriminant, 4.0 * qc * q
        rows[m, HALF_HEIGHT], rows[m, HALF_WIDTH] = half_height, math.sqrt(-4.0 * qc * q / discriminant)
        rows[m, HALF_OVER_QC] = 0.5 / qc


@helper
def _touched(low, high, tiles):
    """First and one past the last of ``tiles`` tiles that the pixels ``low``…``high`` touch."""
    limit = np.float32(tiles)
    zero = np.float32(0)
    first = np.int64(min(max(math.floor(low / np.float32(TILE)), zero), limit))
    last = np.int64(min(max(math.floor(high / np.float32(TILE)) + np.float32(1), zero), limit))
    return first, last


@helper
def _tile_box(rows, m, columns, tiles):
    x, y, half_width, half_height = rows[m, X], rows[m, Y], rows[m, HALF_WIDTH], rows[m, HALF_HEIGHT]
    left, right = _touched(x - half_width, x + half_width, columns)
    top, bottom = _touched(y - half_height, y + half_height, tiles // columns)
    return left, right, top, bottom


@kernel
def _count_pairs(start, stop, bounds, rows, sources, splats, columns, tiles, pairs_of_chunk, pairs_of_row):
    """Pairs in each tile (``[chunks, B * tiles]``) and of each row, for chunks ``start <= k < stop`` of rows."""
    for chunk in range(start, stop):
        for m in range(bounds[chunk], bounds[chunk + 1]):
            left, right, top, bottom = _tile_box(rows, m, columns, tiles)
            base = sources[m] // splats * tiles
            pairs_of_row[m] = max(right - left, 0) * max(bottom - top, 0)
            for tile_y in range(top, bottom):
                for tile_x in range(left, right):
                    pairs_of_chunk[chunk, base + tile_y * columns + tile_x] += 1


@kernel
def _enter_pairs(start, stop, bounds, rows, sources, splats, columns, tiles, cursors, first_slot, rows_of_pairs, slots):
    """The second pass: ``cursors`` holds where each chunk's pairs of each tile begin."""
    for chunk in range(start, stop):
        for m in range(bounds[chunk], bounds[chunk + 1]):
            left, right, top, bottom = _tile_box(rows, m, columns, tiles)
            base = sources[m] // splats * tiles
            slot = first_slot[m]
            for tile_y in range(top, bottom):
                for tile_x in range(left, right):
                    tile = base + tile_y * columns + tile_x
                    position = cursors[chunk, tile]
                    cursors[chunk, tile] = position + 1
                    rows_of_pairs[position] = m
                    slots[slot] = position
                    slot += 1


def _sorted_sources(radii: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """Indices ``camera * N + splat`` of the visible splats, by camera and depth."""
    pictures, splats = depths.shape
    keys, visible = np.empty((pictures, splats), np.uint64), np.empty(pictures, np.int64)
    run_chunks(_depth_keys, pictures, radii, depths, keys, visible)
    run_chunks(_sort_pictures, pictures, keys, visible)
    indices = [(keys[c, : visible[c]] & np.uint64(0xFFFFFFFF)).astype(np.int64) + c * splats for c in range(pictures)]
    return np.concatenate(indices)


def bin_splats(
    radii: np.ndarray,
    means2d: np.ndarray,
    conics: np.ndarray,
    depths: np.ndarray,
    opacities: np.ndarray,
    colors: np.ndarray,
    width: int,
    height: int,
) -> Bins:
    """Sort and bin what `projection.project` left visible: arrays ``[B, N, …]``, opacities ``[N]``, colors ``[N, 3]``."""
    pictures, splats = depths.shape
    columns = -(-width // TILE)
    tiles = columns * -(-height // TILE)
    sources = _sorted_sources(radii, depths)
    count = len(sources)
    rows = np.empty((count, ROW), np.float32)
    flat = (means2d.reshape(-1, 2), conics.reshape(-1, 3), depths.reshape(-1))
    run_chunks(_pack, count, sources, *flat, opacities, colors, rows)

    chunks = thread_count()
    bounds = np.linspace(0, count, chunks + 1).astype(np.int64)
    cursors = np.zeros((chunks, pictures * tiles), np.int64)
    first_slot = np.zeros(count + 1, np.int64)
    where = (bounds, rows, sources, splats, columns, tiles, cursors)
    run_chunks(_count_pairs, chunks, *where, first_slot[1:])
    np.cumsum(first_slot, out=first_slot)
    lengths = cursors.sum(axis=0)
    first = np.concatenate([[0], np.cumsum(lengths)])
    cursors[:] = first[:-1] + np.cumsum(cursors, axis=0) - cursors
    rows_of_pairs, slots = np.empty(first[-1], np.int32), np.empty(first[-1], np.int64)
    run_chunks(_enter_pairs, chunks, *where, first_slot, rows_of_pairs, slots)
    order = np.argsort(-lengths, kind="stable")
    return Bins(rows, sources, rows_of_pairs, first, slots, first_slot, order, columns, tiles)
