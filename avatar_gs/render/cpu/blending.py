"""Front-to-back alpha blending of the tiles.

At a pixel, splats i in order of depth with alpha_i = min(0.999, opacity_i exp(-sigma_i)) give

    w_i = alpha_i T_i,   T_{i+1} = T_i (1 - alpha_i),   T_1 = 1,   picture = sum_i w_i f_i + T_end background

for the features f = (red, green, blue, depth). Splats with alpha < 1/255 or sigma < 0 are skipped, and the pixel
stops *before* the splat that would bring T to 1e-4 or less: all as in gsplat. A stopped pixel is marked by
the sign of its T.

Depths are blended relative to that of the tile's nearest splat, its *reference*, which saves most of the digits that
the division by a small alpha would cost.
"""

import numpy as np

from avatar_gs.render.cpu.binning import BLUE, DEPTH, GREEN, OPACITY, QA, QB, QC, RED, TILE, X, Y
from avatar_gs.render.cpu.jit import helper, kernel
from avatar_gs.render.cpu.simd import (
    absolute,
    block_columns,
    block_rows,
    broadcast8,
    broadcast16,
    load8,
    load16,
    maximum,
    minimum,
    select,
    store,
    take_number,
)
from avatar_gs.render.cpu.strips import (
    BATCH,
    BLOCK_HEIGHT,
    BLOCK_WIDTH,
    LANES,
    clip,
    locate,
    new_scratch,
    offset,
    start_alive,
    update_alive,
)

_F32 = np.float32
ALPHA_CUT, ALPHA_MAX, T_STOP = _F32(1.0 / 255.0), _F32(0.999), _F32(1e-4)

# exp(-8 x) = p(x)^8 with a polynomial p of degree 5: the least-squares fit of exp(-x), in relative error, at 400
# Chebyshev nodes of [0, 0.695]. Beyond X_MAX, that is sigma > 5.56 > ln 255, nothing reaches ALPHA_CUT.
X_MAX = _F32(5.56 / 8)
_P0, _P1, _P2 = _F32(0.99999994), _F32(-0.99999267), _F32(0.49988452)
_P3, _P4, _P5 = _F32(-0.16598299), _F32(0.039789367), _F32(-0.005857543)

PLANES = 5
"""Planes of a tile's state: T, then the four blended features."""


@helper
def exp_minus_8(x):
    """exp(-8 x) for 0 <= x <= X_MAX, to a relative 2.5e-6."""
    p = ((((x * broadcast16(_P5) + broadcast16(_P4)) * x + broadcast16(_P3)) * x + broadcast16(_P2)) * x
         + broadcast16(_P1)) * x + broadcast16(_P0)  # fmt: skip
    p = p * p
    p = p * p
    return p * p


@helper
def blend(x, opacity, transmittance):
    """One splat over one block: unclamped alpha, alpha, weight, the block's next T, and where it was drawn."""
    zero = broadcast16(_F32(0))
    raw = opacity * exp_minus_8(minimum(x, broadcast16(X_MAX)))
    alpha = minimum(raw, broadcast16(ALPHA_MAX))
    weight = alpha * maximum(transmittance, zero)
    after = maximum(transmittance, zero) - weight
    reached = (alpha >= broadcast16(ALPHA_CUT)) & (x >= zero)
    drawn = reached & (after > broadcast16(T_STOP))
    after = select(drawn, after, select(reached, -absolute(transmittance), transmittance))
    return raw, alpha, select(drawn, weight, zero), after, drawn


@helper
def splat_vectors(row, tile):
    """Row fields for blending, broadcast: position in the tile's pixels (floats), exponent, opacity, features."""
    x = row[X] - np.float32(tile.x) - _F32(0.5)
    y = row[Y] - np.float32(tile.y) - _F32(0.5)
    exponent = (broadcast16(row[QA]), broadcast16(row[QB]), broadcast16(row[QC]))
    color = (broadcast16(row[RED]), broadcast16(row[GREEN]), broadcast16(row[BLUE]))
    return x, y, exponent, broadcast16(row[OPACITY]), color, broadcast16(row[DEPTH] - tile.reference)


@helper
def offsets(x, y, column, block):
    """dx and dy, splat minus pixel, of the block's 16 pixels."""
    dx = broadcast16(x - _F32(column * BLOCK_WIDTH)) - block_columns()
    dy = broadcast16(y - _F32(block * BLOCK_HEIGHT)) - block_rows()
    return dx, dy


@helper
def _draw_splat(row, tile, strips, first_strip, end_strip, state):
    """Blend one splat over its strips of the tile."""
    x, y, (qa, qb, qc), opacity, (red, green, blue), depth = splat_vectors(row, tile)
    down = broadcast16(_F32(BLOCK_HEIGHT))
    for n in range(first_strip, end_strip):
        column, top, bottom = strips[n, 0], strips[n, 1], strips[n, 2]
        dx, dy = offsets(x, y, column, top)
        dx_qb, dx_dx_qa = dx * qb, dx * dx * qa
        for at in range(offset(column, top, PLANES), offset(column, bottom, PLANES), PLANES * LANES):
            eighth = (dy * qc + dx_qb) * dy + dx_dx_qa
            _, _, weight, after, _ = blend(eighth, opacity, load16(state, at))
            store(state, at + LANES, weight * red + load16(state, at + LANES))
            store(state, at + 2 * LANES, weight * green + load16(state, at + 2 * LANES))
            store(state, at + 3 * LANES, weight * blue + load16(state, at + 3 * LANES))
            store(state, at + 4 * LANES, weight * depth + load16(state, at + 4 * LANES))
            store(state, at, after)
            dy = dy - down


@kernel
def _draw_tile(bins, tile, scratch):
    """Blend the tile's pairs into the state; returns the pair before which all of its pixels had stopped."""
    state, ends = scratch.state, scratch.ends
    for at in range(0, PLANES * TILE * TILE, PLANES * LANES):
        store(state, at, broadcast16(_F32(1)))
        for plane in range(1, PLANES):
            store(state, at + plane * LANES, broadcast16(_F32(0)))
    start_alive(tile, scratch.alive)
    for batch in range(tile.start, tile.stop, BATCH):
        stop = min(tile.stop, batch + BATCH)
        clip(bins, tile, batch, stop, scratch)
        for k in range(batch, stop):
            first_strip, end_strip = ends[k - batch], ends[k - batch + 1]
            if first_strip < end_strip:
                _draw_splat(bins.rows[bins.rows_of_pairs[k]], tile, scratch.strips, first_strip, end_strip, state)
        if not update_alive(state, PLANES, scratch.alive):
            return stop
    return tile.stop


@helper
def _write_tile(bins, tile, state, background, rgb, alpha, depth):
    """Compose the tile with its background and write its part of the pictures."""
    zero, one = broadcast8(_F32(0)), broadcast8(_F32(1))
    size = bins.width * bins.height
    for column in range(tile.columns):
        for row in range(tile.height):
            at = offset(column, row // BLOCK_HEIGHT, PLANES) + row % BLOCK_HEIGHT * BLOCK_WIDTH
            pixel = (tile.y + row) * bins.width + tile.x + column * BLOCK_WIDTH
            left = absolute(load8(state, at))
            covered = one - left
            distance = broadcast8(tile.reference) + load8(state, at + 4 * LANES) / covered
            store(alpha, tile.camera * size + pixel, covered)
            store(depth, tile.camera * size + pixel, select(covered > zero, distance, zero))
            for channel in range(3):
                behind = left * broadcast8(background[tile.camera, channel])
                value = load8(state, at + (1 + channel) * LANES) + behind
                store(rgb, (tile.camera * 3 + channel) * size + pixel, value)


@kernel
def draw(bins, background, counter, stops, rgb, alpha, depth):
    """Draw tiles until none is left; every thread calls this with the same ``counter`` (an int64 zero).

    Writes the flat pictures ``rgb [B 3 H W]``, ``alpha [B H W]`` and expected ``depth [B H W]``, and to
    ``stops [B tiles]`` the pair up to which each tile was drawn. ``background [B, 3]``.
    """
    scratch = new_scratch(PLANES)
    while True:
        turn = take_number(counter)
        if turn >= bins.order.shape[0]:
            break
        number = bins.order[turn]
        tile = locate(bins, number)
        stops[number] = _draw_tile(bins, tile, scratch)
        _write_tile(bins, tile, scratch.state, background, rgb, alpha, depth)
