"""Front-to-back alpha blending of the tiles, and its gradient.

At a pixel, splats i in order of depth with alpha_i = min(0.999, opacity_i exp(-sigma_i)) give

    w_i = alpha_i T_i,   T_{i+1} = T_i (1 - alpha_i),   T_1 = 1,   picture = sum_i w_i f_i + T_end background

for the features f = (red, green, blue, depth). Splats with alpha < 1/255 or sigma < 0 are skipped, and the pixel
stops *before* the splat that would bring T to 1e-4 or less: all as in gsplat. A stopped pixel is marked by
the sign of its T.

Backward walks front to back once more. With g_i = v·f_i, the loss's gradient along a splat's features, and the
remainder r_i = sum_{j>i} w_j g_j + T_end v_T, which starts at the pixel's full sum and loses w_i g_i at each splat,

    dL/dalpha_i = T_i g_i - r_i / (1 - alpha_i),   dL/dsigma_i = -alpha_i dL/dalpha_i   (0 where alpha is clamped).

Each (row, tile) pair has a slot of its own for its sums over pixels; `gather` then adds up the slots of each row. Nothing is
accumulated by two threads, so the bits do not depend on their number.
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
    sum_lanes,
    sum_lanes_of_eight,
    take_number,
)
from avatar_gs.render.cpu.strips import (
    BATCH,
    BLOCK_HEIGHT,
    BLOCK_WIDTH,
    BLOCKS,
    COLUMNS,
    LANES,
    clip,
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

# Planes of a tile's state in the forward pass: T, then the four accumulated features.
FORWARD_PLANES = 5
# In the backward pass: T, the remainder r, then the gradients in the four features.
BACKWARD_PLANES = 6
SLOT = 12
"""Floats in a pair's slot: gradients in means2d x, y; conic A, B, C; opacity; red, green, blue; depth; |x|, |y|."""


@helper
def exp_minus_8(x):
    """exp(-8 x) for 0 <= x <= X_MAX, to a relative 2.5e-6."""
    p = ((((x * broadcast16(_P5) + broadcast16(_P4)) * x + broadcast16(_P3)) * x + broadcast16(_P2)) * x
         + broadcast16(_P1)) * x + broadcast16(_P0)  # fmt: skip
    p = p * p
    p = p * p
    return p * p


@helper
def _blend(x, opacity, transmittance):
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
def _offset(column, block, planes):
    return (column * BLOCKS + block) * planes * LANES


@helper
def _new_tile_scratch(planes):
    """A thread's own memory: state of the tile, alive bits, strips of a batch and where they end, eight floats."""
    return (
        np.empty(planes * TILE * TILE, np.float32),
        np.empty(COLUMNS, np.uint64),
        np.empty((BATCH * COLUMNS, 3), np.int32),
        np.empty(BATCH + 1, np.int32),
        np.empty(BLOCK_WIDTH, np.float32),
    )


# ------------------------------------------------------------------------------------------------ forward


@helper
def _draw(rows, m, tile_x, tile_y, strips, first_strip, end_strip, state):
    """Blend row m over its strips of the tile."""
    x, y = rows[m, X] - tile_x - _F32(0.5), rows[m, Y] - tile_y - _F32(0.5)
    qa, qb, qc = broadcast16(rows[m, QA]), broadcast16(rows[m, QB]), broadcast16(rows[m, QC])
    opacity, depth = broadcast16(rows[m, OPACITY]), broadcast16(rows[m, DEPTH])
    red, green, blue = broadcast16(rows[m, RED]), broadcast16(rows[m, GREEN]), broadcast16(rows[m, BLUE])
    down = broadcast16(_F32(BLOCK_HEIGHT))
    for n in range(first_strip, end_strip):
        column, top, bottom = strips[n, 0], strips[n, 1], strips[n, 2]
        dx = broadcast16(x - _F32(column * BLOCK_WIDTH)) - block_columns()
        dy = broadcast16(y - _F32(top * BLOCK_HEIGHT)) - block_rows()
        dx_qb, dx_dx_qa = dx * qb, dx * dx * qa
        for at in range(
            _offset(column, top, FORWARD_PLANES), _offset(column, bottom, FORWARD_PLANES), FORWARD_PLANES * LANES
        ):
            eighth = (dy * qc + dx_qb) * dy + dx_dx_qa
            _, _, weight, after, _ = _blend(eighth, opacity, load16(state, at))
            store(state, at + LANES, weight * red + load16(state, at + LANES))
            store(state, at + 2 * LANES, weight * green + load16(state, at + 2 * LANES))
            store(state, at + 3 * LANES, weight * blue + load16(state, at + 3 * LANES))
            store(state, at + 4 * LANES, weight * depth + load16(state, at + 4 * LANES))
            store(state, at, after)
            dy = dy - down


@kernel
def _draw_tile(rows, rows_of_pairs, start, stop, tile_x, tile_y, tile_width, tile_height, state, alive, strips, ends):
    """Blend the pairs of one tile into ``state``; returns the pair at which every pixel had stopped."""
    zero, one = broadcast16(_F32(0)), broadcast16(_F32(1))
    for at in range(0, FORWARD_PLANES * TILE * TILE, FORWARD_PLANES * LANES):
        store(state, at, one)
        for plane in range(1, FORWARD_PLANES):
            store(state, at + plane * LANES, zero)
    start_alive(alive, tile_width, tile_height)
    for batch in range(start, stop, BATCH):
        batch_stop = min(stop, batch + BATCH)
        clip(rows, rows_of_pairs, batch, batch_stop, tile_x, tile_y, alive, strips, ends)
        for k in range(batch, batch_stop):
            if ends[k - batch] < ends[k - batch + 1]:
                _draw(rows, rows_of_pairs[k], tile_x, tile_y, strips, ends[k - batch], ends[k - batch + 1], state)
        if not update_alive(state, FORWARD_PLANES, alive):
            return batch_stop
    return stop


@helper
def _store_pixels(plane, at, count, values, edge):
    """Write the first ``count`` of eight values to a flat plane."""
    if count == BLOCK_WIDTH:
        store(plane, at, values)
    else:
        store(edge, 0, values)
        for i in range(count):
            plane[at + i] = edge[i]


@helper
def _load_pixels(plane, at, count, edge):
    """Eight values of a flat plane, of which those from ``count`` on are zero."""
    if count < BLOCK_WIDTH:
        store(edge, 0, broadcast8(_F32(0)))
        for i in range(count):
            edge[i] = plane[at + i]
        return load8(edge, 0)
    return load8(plane, at)


@helper
def _write_tile(state, camera, x, y, width, height, background, rgb, alpha, depth, edge):
    """Compose the tile with its background and write its part of the pictures."""
    zero, one = broadcast8(_F32(0)), broadcast8(_F32(1))
    size = width * height
    for column in range(COLUMNS):
        count = min(BLOCK_WIDTH, width - x - column * BLOCK_WIDTH)
        for row in range(min(TILE, height - y)):
            if count > 0:
                at = _offset(column, row // BLOCK_HEIGHT, FORWARD_PLANES) + row % BLOCK_HEIGHT * BLOCK_WIDTH
                pixel = (y + row) * width + x + column * BLOCK_WIDTH
                left = absolute(load8(state, at))
                for channel in range(3):
                    value = load8(state, at + (1 + channel) * LANES) + left * broadcast8(background[camera, channel])
                    _store_pixels(rgb, (camera * 3 + channel) * size + pixel, count, value, edge)
                covered = one - left
                mean_depth = select(covered > zero, load8(state, at + 4 * LANES) / covered, zero)
                _store_pixels(alpha, camera * size + pixel, count, covered, edge)
                _store_pixels(depth, camera * size + pixel, count, mean_depth, edge)


@kernel
def draw(
    rows, rows_of_pairs, first, order, columns, tiles, width, height, background, counter, stops, rgb, alpha, depth
):
    """Draw tiles until none is left; every thread calls this with the same ``counter`` (int64 zero).

    Writes the flat pictures ``rgb [B 3 H W]``, ``alpha [B H W]`` and expected ``depth [B H W]``, and ``stops``, where each
    tile's list of pairs was left early.
    """
    state, alive, strips, ends, edge = _new_tile_scratch(FORWARD_PLANES)
    while True:
        number = take_number(counter)
        if number >= order.shape[0]:
            break
        tile = order[number]
        camera, x, y = tile // tiles, tile % tiles % columns * TILE, tile % tiles // columns * TILE
        stops[tile] = _draw_tile(
            rows, rows_of_pairs, first[tile], first[tile + 1], _F32(x), _F32(y), width - x, height - y,
            state, alive, strips, ends,
        )  # fmt: skip
        _write_tile(state, camera, x, y, width, height, background, rgb, alpha, depth, edge)


# ------------------------------------------------------------------------------------------------ backward


@helper
def _read_tile_gradients(state, camera, x, y, width, height, rgb, alpha, depth, v_rgb, v_alpha, v_depth, edge):
    """Start a tile's backward state from the pictures and the gradients in them.

    With D the blended depth, the picture's depth is d = D / alpha; hence v_D = v_d / alpha, and the remainder starts at
    v_rgb·rgb + v_D D + T v_T = v_rgb·rgb + v_d d / alpha - T v_alpha, where the background cancels.
    """
    zero, one = broadcast8(_F32(0)), broadcast8(_F32(1))
    size = width * height
    for column in range(COLUMNS):
        for row in range(TILE):
            at = _offset(column, row // BLOCK_HEIGHT, BACKWARD_PLANES) + row % BLOCK_HEIGHT * BLOCK_WIDTH
            count = min(BLOCK_WIDTH, width - x - column * BLOCK_WIDTH)
            if y + row >= height or count <= 0:
                for plane in range(BACKWARD_PLANES):
                    store(state, at + plane * LANES, zero)
                continue
            pixel = (y + row) * width + x + column * BLOCK_WIDTH
            covered = _load_pixels(alpha, camera * size + pixel, count, edge)
            v_d = select(covered > zero, _load_pixels(v_depth, camera * size + pixel, count, edge) / covered, zero)
            remainder = v_d * _load_pixels(depth, camera * size + pixel, count, edge)
            remainder = remainder - (one - covered) * _load_pixels(v_alpha, camera * size + pixel, count, edge)
            for channel in range(3):
                place = (camera * 3 + channel) * size + pixel
                v_channel = _load_pixels(v_rgb, place, count, edge)
                remainder = remainder + v_channel * _load_pixels(rgb, place, count, edge)
                store(state, at + (2 + channel) * LANES, v_channel)
            store(state, at, one)
            store(state, at + LANES, remainder)
            store(state, at + 5 * LANES, v_d)


@helper
def _draw_backward(rows, m, tile_x, tile_y, strips, first_strip, end_strip, state, slots, slot, magnitudes):
    """Sum row m's gradients over its strips of the tile into its slot.

    For s = -dL/dsigma, the gradients in means2d and conic need the moments of s over the pixels: sums of s, s dx, s dy,
    s dx², s dx dy, s dy². Those in dx alone are taken once a strip, as dx is the same along it.
    """
    x, y = rows[m, X] - tile_x - _F32(0.5), rows[m, Y] - tile_y - _F32(0.5)
    qa, qb, qc = broadcast16(rows[m, QA]), broadcast16(rows[m, QB]), broadcast16(rows[m, QC])
    opacity, depth = broadcast16(rows[m, OPACITY]), broadcast16(rows[m, DEPTH])
    red, green, blue = broadcast16(rows[m, RED]), broadcast16(rows[m, GREEN]), broadcast16(rows[m, BLUE])
    a, b, c = broadcast16(rows[m, QA] * _F32(16)), broadcast16(rows[m, QB] * _F32(8)), broadcast16(rows[m, QC] * _F32(16))
    down = broadcast16(_F32(BLOCK_HEIGHT))
    zero, one = broadcast16(_F32(0)), broadcast16(_F32(1))
    v_red, v_green, v_blue, v_depth = zero, zero, zero, zero
    s_1, s_x, s_y, s_xx, s_xy, s_yy, s_abs_x, s_abs_y = zero, zero, zero, zero, zero, zero, zero, zero
    for n in range(first_strip, end_strip):
        column, top, bottom = strips[n, 0], strips[n, 1], strips[n, 2]
        dx = broadcast16(x - _F32(column * BLOCK_WIDTH)) - block_columns()
        dy = broadcast16(y - _F32(top * BLOCK_HEIGHT)) - block_rows()
        dx_qb, dx_dx_qa = dx * qb, dx * dx * qa
        strip_1, strip_y = zero, zero
        for at in range(
            _offset(column, top, BACKWARD_PLANES), _offset(column, bottom, BACKWARD_PLANES), BACKWARD_PLANES * LANES
        ):
            eighth = (dy * qc + dx_qb) * dy + dx_dx_qa
            transmittance = load16(state, at)
            raw, alpha, weight, after, drawn = _blend(eighth, opacity, transmittance)
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

    minus_half = broadcast16(_F32(-0.5))
    sums = sum_lanes_of_eight(
        -(a * s_x + b * s_y), -(b * s_x + c * s_y), s_xx * minus_half, -s_xy, s_yy * minus_half,
        s_1 / opacity, v_red, v_green,
    )  # fmt: skip
    store(slots, slot, sums)
    slots[slot + 8], slots[slot + 9] = sum_lanes(v_blue), sum_lanes(v_depth)
    if magnitudes is not None:
        slots[slot + 10], slots[slot + 11] = sum_lanes(s_abs_x), sum_lanes(s_abs_y)


@helper
def _clear_slot(slots, slot):
    for i in range(SLOT):
        slots[slot + i] = 0


@kernel
def _draw_tile_backward(
    rows, rows_of_pairs, start, stop, tile_x, tile_y, tile_width, tile_height, state, alive, strips, ends, slots, magnitudes
):
    start_alive(alive, tile_width, tile_height)
    for batch in range(start, stop, BATCH):
        batch_stop = min(stop, batch + BATCH)
        clip(rows, rows_of_pairs, batch, batch_stop, tile_x, tile_y, alive, strips, ends)
        for k in range(batch, batch_stop):
            first_strip, end_strip = ends[k - batch], ends[k - batch + 1]
            if first_strip < end_strip:
                _draw_backward(
                    rows, rows_of_pairs[k], tile_x, tile_y, strips, first_strip, end_strip, state, slots, k * SLOT, magnitudes
                )  # fmt: skip
            else:
                _clear_slot(slots, k * SLOT)
        update_alive(state, BACKWARD_PLANES, alive)


@kernel
def draw_backward(
    rows, rows_of_pairs, first, order, columns, tiles, width, height, counter, stops, rgb, alpha, depth,
    v_rgb, v_alpha, v_depth, slots, magnitudes,
):  # fmt: skip
    """Fill ``slots [pairs * SLOT]`` from the gradients in the pictures of `draw`; called on every thread.

    ``magnitudes`` is None, or True to sum |dL/dmeans2d| over the pixels as well (gsplat's absgrad).
    """
    state, alive, strips, ends, edge = _new_tile_scratch(BACKWARD_PLANES)
    while True:
        number = take_number(counter)
        if number >= order.shape[0]:
            break
        tile = order[number]
        start, stop, end = first[tile], stops[tile], first[tile + 1]
        if start == end:
            continue
        camera, x, y = tile // tiles, tile % tiles % columns * TILE, tile % tiles // columns * TILE
        _read_tile_gradients(state, camera, x, y, width, height, rgb, alpha, depth, v_rgb, v_alpha, v_depth, edge)
        _draw_tile_backward(
            rows, rows_of_pairs, start, stop, _F32(x), _F32(y), width - x, height - y,
            state, alive, strips, ends, slots, magnitudes,
        )  # fmt: skip
        for k in range(stop, end):
            _clear_slot(slots, k * SLOT)


@kernel
def gather(
    start, stop, sources, first_slot, slots_of_rows, slots, v_means2d, v_conics, v_opacities, v_colors, v_depths, v_magnitudes
):  # fmt: skip
    """Sum the slots of rows ``start <= m < stop``, in order, into the gradients (``[B N, …]``) at ``sources[m]``."""
    sums = np.empty(SLOT, np.float32)
    for m in range(start, stop):
        sums[:] = 0
        for n in range(first_slot[m], first_slot[m + 1]):
            slot = slots_of_rows[n] * SLOT
            for k in range(SLOT):
                sums[k] += slots[slot + k]
        i = sources[m]
        v_means2d[i, 0], v_means2d[i, 1] = sums[0], sums[1]
        v_conics[i, 0], v_conics[i, 1], v_conics[i, 2] = sums[2], sums[3], sums[4]
        v_opacities[i] = sums[5]
        v_colors[i, 0], v_colors[i, 1], v_colors[i, 2] = sums[6], sums[7], sums[8]
        v_depths[i] = sums[9]
        if v_magnitudes is not None:
            v_magnitudes[i, 0], v_magnitudes[i, 1] = sums[10], sums[11]
