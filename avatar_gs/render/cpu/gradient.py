"""The gradient of `blending`, one tile at a time.

The forward pass is walked once more, front to back. With g_i = v·f_i, the loss's gradient along a splat's features, and
the remainder r_i = sum_{j>i} w_j g_j + T_end v_T, which starts at the pixel's full sum and loses w_i g_i at each splat,

    dL/dalpha_i = T_i g_i - r_i / (1 - alpha_i),   dL/dsigma_i = -alpha_i dL/dalpha_i   (0 where alpha is clamped).

Each (row, tile) pair has a slot of its own for its sums over pixels; `gather` then adds up the slots of each row.
Nothing is accumulated by two threads, so the bits do not depend on their number.
"""

import numpy as np

from avatar_gs.render.cpu.binning import QA, QB, QC, TILE
from avatar_gs.render.cpu.blending import ALPHA_MAX, blend, offsets, splat_vectors
from avatar_gs.render.cpu.jit import helper, kernel
from avatar_gs.render.cpu.simd import (
    absolute,
    broadcast8,
    broadcast16,
    load8,
    load16,
    maximum,
    select,
    store,
    sum_lanes,
    sum_lanes_of_eight,
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
PLANES = 6
"""Planes of a tile's state: T, the remainder r, then the gradients in the four features."""
SLOT = 12
"""Floats in a pair's slot: gradients in means2d x, y; conic A, B, C; opacity; red, green, blue; depth; |x|, |y|."""


@helper
def _read_tile(bins, tile, state, pictures, gradients):
    """Start a tile's state from the pictures (rgb, alpha, depth) and the gradients in them.

    The picture's depth is d = z0 + D / alpha with D the blended depth beyond the reference z0. Hence v_D = v_d / alpha,
    and the remainder starts at v_rgb·rgb + v_D D + T v_T = v_rgb·rgb + v_d (d - z0) / alpha - T v_alpha: the
    background cancels.
    """
    rgb, alpha, depth = pictures
    v_rgb, v_alpha, v_depth = gradients
    zero, one = broadcast8(_F32(0)), broadcast8(_F32(1))
    size = bins.width * bins.height
    for at in range(0, PLANES * TILE * TILE, BLOCK_WIDTH):
        store(state, at, zero)
    for column in range(tile.columns):
        for row in range(tile.height):
            at = offset(column, row // BLOCK_HEIGHT, PLANES) + row % BLOCK_HEIGHT * BLOCK_WIDTH
            pixel = (tile.y + row) * bins.width + tile.x + column * BLOCK_WIDTH
            flat = tile.camera * size + pixel
            covered = load8(alpha, flat)
            v_d = select(covered > zero, load8(v_depth, flat) / covered, zero)
            remainder = v_d * (load8(depth, flat) - broadcast8(tile.reference)) - (one - covered) * load8(v_alpha, flat)
            for channel in range(3):
                flat = (tile.camera * 3 + channel) * size + pixel
                v_channel = load8(v_rgb, flat)
                remainder = remainder + v_channel * load8(rgb, flat)
                store(state, at + (2 + channel) * LANES, v_channel)
            store(state, at, one)
            store(state, at + LANES, remainder)
            store(state, at + 5 * LANES, v_d)


@helper
def _splat_gradient(row, tile, strips, first_strip, end_strip, state, slots, slot, magnitudes):
    """Sum one splat's gradients over its strips of the tile into its slot.

    For s = -dL/dsigma, the gradients in means2d and conic need the moments of s over the pixels: sums of s, s dx, s dy,
    s dx², s dx dy, s dy². Those in dx alone are taken once a strip, as dx is the same along it.
    """
    x, y, (qa, qb, qc), opacity, (red, green, blue), depth = splat_vectors(row, tile)
    a, b, c = broadcast16(row[QA] * _F32(16)), broadcast16(row[QB] * _F32(8)), broadcast16(row[QC] * _F32(16))
    down = broadcast16(_F32(BLOCK_HEIGHT))
    zero, one = broadcast16(_F32(0)), broadcast16(_F32(1))
    v_red, v_green, v_blue, v_depth = zero, zero, zero, zero
    s_1, s_x, s_y, s_xx, s_xy, s_yy, s_abs_x, s_abs_y = zero, zero, zero, zero, zero, zero, zero, zero
    for n in range(first_strip, end_strip):
        column, top, bottom = strips[n, 0], strips[n, 1], strips[n, 2]
        dx, dy = offsets(x, y, column, top)
        dx_qb, dx_dx_qa = dx * qb, dx * dx * qa
        strip_1, strip_y = zero, zero
        for at in range(offset(column, top, PLANES), offset(column, bottom, PLANES), PLANES * LANES):
            eighth = (dy * qc + dx_qb) * dy + dx_dx_qa
            transmittance = load16(state, at)
            raw, alpha, weight, after, drawn = blend(eighth, opacity, transmittance)
            g_red, g_green = load16(state, at + 2 * LANES), load16(state, at + 3 * LANES)
            g_blue, g_depth = load16(state, at + 4 * LANES), load16(state, at + 5 * LANES)
            v_red, v_green = v_red + weight * g_red, v_green + weight * g_green
            v_blue, v_depth = v_blue + weight * g_blue, v_depth + weight * g_depth
            along = red * g_red + (green * g_green + (blue * g_blue + depth * g_depth))
            remainder = load16(state, at + LANES) - weight * along
            v_alpha = maximum(transmittance, zero) * along - remainder / (one - alpha)
            s = select(drawn & (raw <= broadcast16(ALPHA_MAX)), raw * v_alpha, zero)
            store(state, at, after)
            store(state, at + LANES, remainder)
            s_dy = s * dy
            strip_1, strip_y, s_yy = strip_1 + s, strip_y + s_dy, s_yy + s_dy * dy
            if magnitudes is not None:
                s_abs_x = s_abs_x + absolute(s * (a * dx + b * dy))
                s_abs_y = s_abs_y + absolute(s * (b * dx + c * dy))
            dy = dy - down
        strip_x = strip_1 * dx
        s_1, s_x, s_y = s_1 + strip_1, s_x + strip_x, s_y + strip_y
        s_xx, s_xy = s_xx + strip_x * dx, s_xy + strip_y * dx

    half = broadcast16(_F32(0.5))
    v_x, v_y = -(a * s_x + b * s_y), -(b * s_x + c * s_y)
    v_a, v_b, v_c, v_opacity = -(s_xx * half), -s_xy, -(s_yy * half), s_1 / opacity
    store(slots, slot, sum_lanes_of_eight(v_x, v_y, v_a, v_b, v_c, v_opacity, v_red, v_green))
    slots[slot + 8], slots[slot + 9] = sum_lanes(v_blue), sum_lanes(v_depth)
    if magnitudes is not None:
        slots[slot + 10], slots[slot + 11] = sum_lanes(s_abs_x), sum_lanes(s_abs_y)


@helper
def _clear_slot(slots, slot):
    for i in range(SLOT):
        slots[slot + i] = 0


@kernel
def _tile_gradient(bins, tile, stop, scratch, slots, magnitudes):
    """Fill the slots of the tile's pairs; those from ``stop`` on were not drawn."""
    state, ends = scratch.state, scratch.ends
    start_alive(tile, scratch.alive)
    for batch in range(tile.start, stop, BATCH):
        batch_stop = min(stop, batch + BATCH)
        clip(bins, tile, batch, batch_stop, scratch)
        for k in range(batch, batch_stop):
            first_strip, end_strip = ends[k - batch], ends[k - batch + 1]
            if first_strip < end_strip:
                row = bins.rows[bins.rows_of_pairs[k]]
                _splat_gradient(row, tile, scratch.strips, first_strip, end_strip, state, slots, k * SLOT, magnitudes)
            else:
                _clear_slot(slots, k * SLOT)
        update_alive(state, PLANES, scratch.alive)
    for k in range(stop, tile.stop):
        _clear_slot(slots, k * SLOT)


@kernel
def draw_backward(bins, counter, stops, pictures, gradients, slots, magnitudes):
    """Fill ``slots [pairs * SLOT]``; every thread calls this with the same ``counter`` (an int64 zero).

    ``pictures`` and ``gradients`` are the three flat arrays that `blending.draw` wrote and the loss's gradients in
    them. ``magnitudes`` is None, or True to sum |dL/dmeans2d| over the pixels as well (gsplat's absgrad).
    """
    scratch = new_scratch(PLANES)
    while True:
        turn = take_number(counter)
        if turn >= bins.order.shape[0]:
            break
        number = bins.order[turn]
        tile = locate(bins, number)
        if tile.start < tile.stop:
            _read_tile(bins, tile, scratch.state, pictures, gradients)
            _tile_gradient(bins, tile, stops[number], scratch, slots, magnitudes)


@kernel
def gather(start, stop, bins, slots, v_means2d, v_conics, v_opacities, v_colors, v_depths, v_magnitudes):
    """Sum the slots of rows ``start <= m < stop``, in order, into the gradients ``[B N, …]`` of their sources."""
    sums = np.empty(SLOT, np.float32)
    for m in range(start, stop):
        sums[:] = 0
        for n in range(bins.first_slot[m], bins.first_slot[m + 1]):
            slot = bins.slots[n] * SLOT
            for k in range(SLOT):
                sums[k] += slots[slot + k]
        i = bins.sources[m]
        v_means2d[i, 0], v_means2d[i, 1] = sums[0], sums[1]
        v_conics[i, 0], v_conics[i, 1], v_conics[i, 2] = sums[2], sums[3], sums[4]
        v_opacities[i] = sums[5]
        v_colors[i, 0], v_colors[i, 1], v_colors[i, 2] = sums[6], sums[7], sums[8]
        v_depths[i] = sums[9]
        if v_magnitudes is not None:
            v_magnitudes[i, 0], v_magnitudes[i, 1] = sums[10], sums[11]
