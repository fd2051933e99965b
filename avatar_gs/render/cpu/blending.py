"""Front-to-back alpha blending of the tiles, and its gradient.

At a pixel, splats i in order of depth with alpha_i = min(0.999, opacity_i exp(-sigma_i)) give

    w_i = alpha_i T_i,   T_{i+1} = T_i (1 - alpha_i),   T_1 = 1,   pixel = sum_i w_i f_i + T_end background

for the features f = (red, green, blue, depth). As in gsplat, splats with alpha < 1/255 or sigma < 0 are skipped, and
the pixel stops *before* the splat that would reduce T to 1e-4 or less. A stopped pixel has a negative T.

Depths are blended relative to that of the tile's nearest splat, its *reference*: dividing by a small alpha then loses
few digits.

The backward pass goes through the splats once more, front to back. With g_i = v·f_i, the loss's gradient along a
splat's features, and the remainder r_i = sum_{j>i} w_j g_j + T_end v_T, which starts at the pixel's full sum and loses
w_i g_i at each splat,

    dL/dalpha_i = T_i g_i - r_i / (1 - alpha_i),   dL/dsigma_i = -alpha_i dL/dalpha_i   (0 where alpha is clamped).

Each (row, tile) pair has its own slot for its sums over pixels; `gather` then sums the slots of each row. No two
threads accumulate into one number, so the bits do not depend on their number.
"""

import numpy as np

from avatar_gs.render.cpu.binning import BLUE, DEPTH, GREEN, OPACITY, QA, QB, QC, RED, TILE, X, Y
from avatar_gs.render.cpu.projection import ALPHA_CUT
from avatar_gs.render.cpu.runtime import helper, kernel
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
    sum_lanes,
    sum_lanes_of_eight,
    take_number,
)
from avatar_gs.render.cpu.tiles import (
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
ALPHA_MAX = 0.999
"""Largest alpha of a splat."""
T_STOP = 1e-4
"""Transmittance at which a pixel stops."""
_ALPHA_CUT, _ALPHA_MAX, _T_STOP = _F32(ALPHA_CUT), _F32(ALPHA_MAX), _F32(T_STOP)

# exp(-8 x) = p(x)^8 with a polynomial p of degree 5: the least-squares fit of exp(-x), in relative error, at 400
# Chebyshev nodes of [0, 0.695]. Beyond X_MAX, that is sigma > 5.56 > ln 255, alpha is below ALPHA_CUT.
X_MAX = _F32(5.56 / 8)
_P0, _P1, _P2 = _F32(0.99999994), _F32(-0.99999267), _F32(0.49988452)
_P3, _P4, _P5 = _F32(-0.16598299), _F32(0.039789367), _F32(-0.005857543)

PLANES = 5
"""Planes of a tile's state: T, then the four blended features."""
GRADIENT_PLANES = 6
"""Planes of a tile's state in the backward pass: T, the remainder r, then the gradients in the four features."""


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
    """Blend one splat into a block: unclamped alpha, alpha, weight, the next T, and the mask of its pixels."""
    zero = broadcast16(_F32(0))
    raw = opacity * exp_minus_8(minimum(x, broadcast16(X_MAX)))
    alpha = minimum(raw, broadcast16(_ALPHA_MAX))
    weight = alpha * maximum(transmittance, zero)
    after = maximum(transmittance, zero) - weight
    reached = (alpha >= broadcast16(_ALPHA_CUT)) & (x >= zero)
    blended = reached & (after > broadcast16(_T_STOP))
    after = select(blended, after, select(reached, -absolute(transmittance), transmittance))
    return raw, alpha, select(blended, weight, zero), after, blended


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
def _blend_splat(row, tile, segments, first_segment, end_segment, state):
    """Blend one splat into its segments of the tile."""
    x, y, (qa, qb, qc), opacity, (red, green, blue), depth = splat_vectors(row, tile)
    down = broadcast16(_F32(BLOCK_HEIGHT))
    for n in range(first_segment, end_segment):
        column, top, bottom = segments[n, 0], segments[n, 1], segments[n, 2]
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
def _blend_tile(bins, tile, scratch):
    """Blend the tile's pairs into the state; returns the pair at which all of its pixels had stopped."""
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
            first_segment, end_segment = ends[k - batch], ends[k - batch + 1]
            if first_segment < end_segment:
                _blend_splat(
                    bins.rows[bins.rows_of_pairs[k]], tile, scratch.segments, first_segment, end_segment, state
                )
        if not update_alive(state, PLANES, scratch.alive):
            return stop
    return tile.stop


@helper
def _write_tile(bins, tile, state, background, rgb, alpha, depth):
    """Compose the tile with its background and write its part of the images."""
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
def render_tiles(bins, background, counter, stops, rgb, alpha, depth):
    """Render tiles until none is left; every thread calls this with the same ``counter`` (an int64 zero).

    Writes the flat images ``rgb [B 3 H W]``, ``alpha [B H W]`` and expected ``depth [B H W]``, and to ``stops [B
    tiles]`` the pair at which each tile stopped. ``background [B, 3]``.
    """
    scratch = new_scratch(PLANES)
    while True:
        turn = take_number(counter)
        if turn >= bins.order.shape[0]:
            break
        number = bins.order[turn]
        tile = locate(bins, number)
        stops[number] = _blend_tile(bins, tile, scratch)
        _write_tile(bins, tile, scratch.state, background, rgb, alpha, depth)


# ---- gradient

SLOT = 12
"""Floats in a pair's slot: gradients in means2d x, y; conic A, B, C; opacity; red, green, blue; depth; |x|, |y|."""


@helper
def _read_tile(bins, tile, state, images, gradients):
    """Initialise a tile's state from the images (rgb, alpha, depth) and the gradients in them.

    The image's depth is d = z0 + D / alpha with D the blended depth beyond the reference z0. Hence v_D = v_d / alpha,
    and the remainder starts at v_rgb·rgb + v_D D + T v_T = v_rgb·rgb + v_d (d - z0) / alpha - T v_alpha: the
    background cancels.
    """
    rgb, alpha, depth = images
    v_rgb, v_alpha, v_depth = gradients
    zero, one = broadcast8(_F32(0)), broadcast8(_F32(1))
    size = bins.width * bins.height
    for at in range(0, GRADIENT_PLANES * TILE * TILE, BLOCK_WIDTH):
        store(state, at, zero)
    for column in range(tile.columns):
        for row in range(tile.height):
            at = offset(column, row // BLOCK_HEIGHT, GRADIENT_PLANES) + row % BLOCK_HEIGHT * BLOCK_WIDTH
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
def _splat_gradient(row, tile, segments, first_segment, end_segment, state, slots, slot, magnitudes):
    """Sum one splat's gradients over its segments of the tile into its slot.

    For s = -dL/dsigma, the gradients in means2d and conic need the moments of s over the pixels: sums of s, s dx, s dy,
    s dx², s dx dy, s dy². Those in dx alone are computed once per segment, as dx is constant along it.
    """
    x, y, (qa, qb, qc), opacity, (red, green, blue), depth = splat_vectors(row, tile)
    a, b, c = broadcast16(row[QA] * _F32(16)), broadcast16(row[QB] * _F32(8)), broadcast16(row[QC] * _F32(16))
    down = broadcast16(_F32(BLOCK_HEIGHT))
    zero, one = broadcast16(_F32(0)), broadcast16(_F32(1))
    v_red, v_green, v_blue, v_depth = zero, zero, zero, zero
    s_1, s_x, s_y, s_xx, s_xy, s_yy, s_abs_x, s_abs_y = zero, zero, zero, zero, zero, zero, zero, zero
    for n in range(first_segment, end_segment):
        column, top, bottom = segments[n, 0], segments[n, 1], segments[n, 2]
        dx, dy = offsets(x, y, column, top)
        dx_qb, dx_dx_qa = dx * qb, dx * dx * qa
        segment_1, segment_y = zero, zero
        for at in range(
            offset(column, top, GRADIENT_PLANES), offset(column, bottom, GRADIENT_PLANES), GRADIENT_PLANES * LANES
        ):
            eighth = (dy * qc + dx_qb) * dy + dx_dx_qa
            transmittance = load16(state, at)
            raw, alpha, weight, after, blended = blend(eighth, opacity, transmittance)
            g_red, g_green = load16(state, at + 2 * LANES), load16(state, at + 3 * LANES)
            g_blue, g_depth = load16(state, at + 4 * LANES), load16(state, at + 5 * LANES)
            v_red, v_green = v_red + weight * g_red, v_green + weight * g_green
            v_blue, v_depth = v_blue + weight * g_blue, v_depth + weight * g_depth
            along = red * g_red + (green * g_green + (blue * g_blue + depth * g_depth))
            remainder = load16(state, at + LANES) - weight * along
            v_alpha = maximum(transmittance, zero) * along - remainder / (one - alpha)
            s = select(blended & (raw <= broadcast16(_ALPHA_MAX)), raw * v_alpha, zero)
            store(state, at, after)
            store(state, at + LANES, remainder)
            s_dy = s * dy
            segment_1, segment_y, s_yy = segment_1 + s, segment_y + s_dy, s_yy + s_dy * dy
            if magnitudes is not None:
                s_abs_x = s_abs_x + absolute(s * (a * dx + b * dy))
                s_abs_y = s_abs_y + absolute(s * (b * dx + c * dy))
            dy = dy - down
        segment_x = segment_1 * dx
        s_1, s_x, s_y = s_1 + segment_1, s_x + segment_x, s_y + segment_y
        s_xx, s_xy = s_xx + segment_x * dx, s_xy + segment_y * dx

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
    """Fill the slots of the tile's pairs; those from ``stop`` on were not blended."""
    state, ends = scratch.state, scratch.ends
    start_alive(tile, scratch.alive)
    for batch in range(tile.start, stop, BATCH):
        batch_stop = min(stop, batch + BATCH)
        clip(bins, tile, batch, batch_stop, scratch)
        for k in range(batch, batch_stop):
            first_segment, end_segment = ends[k - batch], ends[k - batch + 1]
            if first_segment < end_segment:
                row = bins.rows[bins.rows_of_pairs[k]]
                _splat_gradient(
                    row, tile, scratch.segments, first_segment, end_segment, state, slots, k * SLOT, magnitudes
                )
            else:
                _clear_slot(slots, k * SLOT)
        update_alive(state, GRADIENT_PLANES, scratch.alive)
    for k in range(stop, tile.stop):
        _clear_slot(slots, k * SLOT)


@kernel
def render_tiles_backward(bins, counter, stops, images, gradients, slots, magnitudes):
    """Fill ``slots [pairs * SLOT]``; every thread calls this with the same ``counter`` (an int64 zero).

    ``images`` are the three flat arrays that `render_tiles` wrote, ``gradients`` the loss's gradients in them.
    ``magnitudes`` is None, or True to also sum |dL/dmeans2d| over the pixels (gsplat's absgrad).
    """
    scratch = new_scratch(GRADIENT_PLANES)
    while True:
        turn = take_number(counter)
        if turn >= bins.order.shape[0]:
            break
        number = bins.order[turn]
        tile = locate(bins, number)
        if tile.start < tile.stop:
            _read_tile(bins, tile, scratch.state, images, gradients)
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
