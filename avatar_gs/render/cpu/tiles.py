"""A tile's pixels as blocks of 16, and the blocks that each splat reaches.

A tile of 32 x 32 pixels has 4 columns of 16 blocks; a block is 8 pixels wide and 2 high, one SIMD vector. Blending
works in two phases: `clip` takes a batch of splats and writes, for each column that a splat's ellipse crosses, the
*segment* of blocks between its highest and lowest point there; then the blending loops run over segments without a
branch. A bit per block in ``alive`` marks blocks with a pixel that has not stopped; segments are trimmed to those.
"""

import math
from typing import NamedTuple

import numpy as np

from avatar_gs.render.cpu.binning import (
    DEPTH,
    DISCRIMINANT,
    FOUR_QC_Q,
    HALF_OVER_QC,
    HALF_WIDTH,
    QB,
    TILE,
    TOP_X,
    X,
    Y,
)
from avatar_gs.render.cpu.runtime import helper
from avatar_gs.render.cpu.simd import any_lane, broadcast16, leading_zeros, load16, trailing_zeros

LANES = 16
BLOCK_WIDTH, BLOCK_HEIGHT = 8, 2
COLUMNS = TILE // BLOCK_WIDTH
BLOCKS = TILE // BLOCK_HEIGHT
"""Blocks in one column."""
BATCH = 32
"""Splats clipped at a time."""

_U64 = np.uint64


class Tile(NamedTuple):
    """A tile's pairs ``start <= k < stop``, and its corner in pixels of its image."""

    camera: int
    x: int
    y: int
    columns: int
    """Columns of blocks inside the image."""
    height: int
    """Rows of pixels inside the image."""
    start: int
    stop: int
    reference: np.float32
    """Depth of its nearest splat; depths are blended relative to it."""


class Scratch(NamedTuple):
    """A thread's memory for its current tile."""

    state: np.ndarray
    """Planes of floats per pixel; the planes of one block lie together (which avoids 4 KB aliasing)."""
    alive: np.ndarray
    """``[COLUMNS]`` uint64: a bit per block."""
    segments: np.ndarray
    """``[BATCH * COLUMNS, 3]`` int32: column, first block, end block."""
    ends: np.ndarray
    """``[BATCH + 1]`` int32: the segments of the i-th splat of a batch are ``ends[i] <= n < ends[i + 1]``."""


@helper
def new_scratch(planes):
    return Scratch(
        np.empty(planes * TILE * TILE, np.float32),
        np.empty(COLUMNS, np.uint64),
        np.empty((BATCH * COLUMNS, 3), np.int32),
        np.empty(BATCH + 1, np.int32),
    )


@helper
def locate(bins, number):
    """The `Tile` of a number."""
    camera = number // bins.tiles
    place = number - camera * bins.tiles
    x, y = place % bins.columns * TILE, place // bins.columns * TILE
    start, stop = bins.first[number], bins.first[number + 1]
    reference = bins.rows[bins.rows_of_pairs[start], DEPTH] if start < stop else np.float32(0)
    columns, height = min(COLUMNS, (bins.width - x) // BLOCK_WIDTH), min(TILE, bins.height - y)
    return Tile(camera, x, y, columns, height, start, stop, reference)


@helper
def offset(column, block, planes):
    """Index of a block's first plane in ``Scratch.state``."""
    return (column * BLOCKS + block) * planes * LANES


@helper
def start_alive(tile, alive):
    """Mark all blocks with a pixel of the image (a tile at its border may extend beyond it)."""
    blocks = (tile.height + BLOCK_HEIGHT - 1) // BLOCK_HEIGHT
    for column in range(COLUMNS):
        alive[column] = ~_U64(0) >> _U64(64 - blocks) if column < tile.columns else _U64(0)


@helper
def update_alive(state, planes, alive):
    """Clear the bits of blocks without positive transmittance (plane 0 of ``state``); returns whether any is left."""
    left = _U64(0)
    zero = broadcast16(np.float32(0))
    for column in range(COLUMNS):
        pending, kept = alive[column], _U64(0)
        while pending != _U64(0):
            block = trailing_zeros(pending)
            pending &= pending - _U64(1)
            if any_lane(load16(state, offset(column, block, planes)) > zero):
                kept |= _U64(1) << _U64(block)
        alive[column] = kept
        left |= kept
    return left != _U64(0)


@helper
def _between(bits, first, end):
    """Only the bits ``first <= i < end`` (0 <= first < end <= 64)."""
    bits = (bits >> _U64(first)) << _U64(first)
    return (bits << _U64(64 - end)) >> _U64(64 - end)


@helper
def clip(bins, tile, start, stop, scratch):
    """Write the segments of the tile's pairs ``start <= k < stop``, at most `BATCH`.

    A pixel i has its centre at i + 1/2. Within a column, where dx (splat minus pixel) goes from ``low`` to ``high``,
    dy on the ellipse runs from ``(-root - QB dx) / 2 QC`` to ``(root - QB dx) / 2 QC`` with ``root = sqrt(DISCRIMINANT
    dx² + 4 QC q)``; its extremes over the column lie at dx = ∓TOP_X clamped to the column.
    """
    zero, half, side = np.float32(0), np.float32(0.5), np.float32(TILE)
    rows, alive, segments, ends = bins.rows, scratch.alive, scratch.segments, scratch.ends
    n = 0
    ends[0] = 0
    for k in range(start, stop):
        m = bins.rows_of_pairs[k]
        x, y = rows[m, X] - np.float32(tile.x), rows[m, Y] - np.float32(tile.y)
        qb, top_x = rows[m, QB], rows[m, TOP_X]
        discriminant, four_qc_q, half_over_qc = rows[m, DISCRIMINANT], rows[m, FOUR_QC_Q], rows[m, HALF_OVER_QC]
        left = np.int64(min(max(x - rows[m, HALF_WIDTH] + half, zero), side))
        right = np.int64(min(max(x + rows[m, HALF_WIDTH] + half, zero), side))
        for column in range(left // BLOCK_WIDTH, (right + BLOCK_WIDTH - 1) // BLOCK_WIDTH):
            living = alive[column]
            if living == _U64(0):
                continue
            high = x - np.float32(column * BLOCK_WIDTH) - half
            low = high - np.float32(BLOCK_WIDTH - 1)
            at_max, at_min = min(high, max(low, -top_x)), min(high, max(low, top_x))
            root_max = math.sqrt(max(discriminant * at_max * at_max + four_qc_q, zero))
            root_min = math.sqrt(max(discriminant * at_min * at_min + four_qc_q, zero))
            dy_max = (root_max - qb * at_max) * half_over_qc
            dy_min = (-root_min - qb * at_min) * half_over_qc
            top = np.int64(min(max(y - dy_max + half, zero), side))
            bottom = np.int64(min(max(y - dy_min + half, zero), side))
            if bottom <= top:
                continue
            living = _between(living, top // BLOCK_HEIGHT, (bottom + BLOCK_HEIGHT - 1) // BLOCK_HEIGHT)
            if living == _U64(0):
                continue
            segments[n, 0] = column
            segments[n, 1] = trailing_zeros(living)
            segments[n, 2] = 64 - leading_zeros(living)
            n += 1
        ends[k - start + 1] = n
