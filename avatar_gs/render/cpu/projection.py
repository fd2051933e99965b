"""Projection of splats to screen ellipses, and its gradient, after gsplat's ``fully_fused_projection``.

For a splat with mean X, rotation R(q) and scales s, seen by a camera (W, t, fx, fy, cx, cy):

    p = W X + t                                     the mean in the camera frame; depth = p.z
    m = (fx p.x/p.z + cx, fy p.y/p.z + cy)          means2d, in pixels
    K = W R(q) diag(s)                              its axes in the camera frame, as columns
    J = [[fx/p.z, 0, -fx ax/p.z], [0, fy/p.z, -fy ay/p.z]]
    S = (J K) (J K)^T + BLUR I                      the screen covariance (EWA splatting, Zwicker et al. 2001)

ax and ay are p.x/p.z and p.y/p.z clamped to a window 15 % wider than the image, as in gsplat. The *conic* is S^-1,
stored as (A, B, C) with sigma = (A dx² + 2 B dx dy + C dy²)/2. A splat's radius in x is ceil(r sqrt(S.xx)) with r =
min(3.33, sqrt(2 ln(255 opacity))), where its alpha falls below 1/255; likewise in y. Radii of 0 mark culled splats.

The kernels compute in float64: scalar code is as fast, and the determinant of a needle's covariance stays accurate.
"""

import math
from typing import NamedTuple

import numpy as np

from avatar_gs.render.cpu.runtime import helper, kernel

BLUR = 0.3
"""Variance in px² added to every screen ellipse (gsplat's ``eps2d``)."""
ALPHA_CUT = 1.0 / 255.0
"""Contributions below this alpha are skipped."""
MAX_EXTENT = 3.33
"""Largest radius of a splat in standard deviations."""
WINDOW = 0.15
"""How far outside the image, in widths, the Jacobian's point of linearisation may lie."""


class Splats(NamedTuple):
    """Splats, or the gradients in them, as float32 arrays."""

    means: np.ndarray
    """``[N, 3]``"""
    quats: np.ndarray
    """``[N, 4]``, wxyz."""
    scales: np.ndarray
    """``[N, 3]``"""


class View(NamedTuple):
    """The cameras of a batch, of one image size."""

    cameras: np.ndarray
    """``[B, 16]``, of `pack_cameras`."""
    width: int
    height: int
    near: float
    far: float


class Projected(NamedTuple):
    """Projected (camera, splat) pairs, or the gradients in them (then ``radii`` stay those of the pairs)."""

    radii: np.ndarray
    """``[B N, 2]`` int32, 0 for culled splats."""
    means2d: np.ndarray
    """``[B N, 2]``"""
    depths: np.ndarray
    """``[B N]``"""
    conics: np.ndarray
    """``[B N, 3]``"""


# ---- 3-vectors and 3x3 matrices as tuples


@helper
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@helper
def _scaled(k, a):
    return (k * a[0], k * a[1], k * a[2])


@helper
def _combination(j, a, k, b):
    """j a + k b"""
    return (j * a[0] + k * b[0], j * a[1] + k * b[1], j * a[2] + k * b[2])


@helper
def _elementwise(a, b):
    return (a[0] * b[0], a[1] * b[1], a[2] * b[2])


@helper
def _row_times(v, m):
    """v^T M"""
    return (
        v[0] * m[0][0] + v[1] * m[1][0] + v[2] * m[2][0],
        v[0] * m[0][1] + v[1] * m[1][1] + v[2] * m[2][1],
        v[0] * m[0][2] + v[1] * m[1][2] + v[2] * m[2][2],
    )


@helper
def _product(a, b):
    """A B"""
    return (_row_times(a[0], b), _row_times(a[1], b), _row_times(a[2], b))


@helper
def _transposed(m):
    return ((m[0][0], m[1][0], m[2][0]), (m[0][1], m[1][1], m[2][1]), (m[0][2], m[1][2], m[2][2]))


@helper
def _read3(array, i):
    return (np.float64(array[i, 0]), np.float64(array[i, 1]), np.float64(array[i, 2]))


@helper
def _add3(array, i, v):
    array[i, 0] += v[0]
    array[i, 1] += v[1]
    array[i, 2] += v[2]


# ---- parts


@helper
def _read_quaternion(quats, i):
    """The unit quaternion (w, x, y, z) and the factor that normalised it (not finite for a zero quaternion)."""
    w, x, y, z = np.float64(quats[i, 0]), np.float64(quats[i, 1]), np.float64(quats[i, 2]), np.float64(quats[i, 3])
    factor = 1.0 / math.sqrt(w * w + x * x + y * y + z * z)
    return (w * factor, x * factor, y * factor, z * factor), factor


@helper
def _rotation(q):
    w, x, y, z = q
    return (
        (1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)),
        (2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x)),
        (2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y)),
    )


@helper
def _rotation_gradient(q, g):
    """Gradient of a loss in the unit quaternion, from its gradient ``g`` in the rotation matrix."""
    w, x, y, z = q
    x_turn, y_turn, z_turn = g[2][1] - g[1][2], g[0][2] - g[2][0], g[1][0] - g[0][1]
    yz, xz, xy = g[2][1] + g[1][2], g[0][2] + g[2][0], g[1][0] + g[0][1]
    return (
        2.0 * (x * x_turn + y * y_turn + z * z_turn),
        2.0 * (w * x_turn + y * xy + z * xz - 2.0 * x * (g[1][1] + g[2][2])),
        2.0 * (w * y_turn + x * xy + z * yz - 2.0 * y * (g[0][0] + g[2][2])),
        2.0 * (w * z_turn + x * xz + y * yz - 2.0 * z * (g[0][0] + g[1][1])),
    )


@helper
def _read_camera(cameras, c):
    """Rotation, translation and (fx, fy, cx, cy) from a row of `pack_cameras`."""
    v = cameras[c]
    rotation = ((v[0], v[1], v[2]), (v[4], v[5], v[6]), (v[8], v[9], v[10]))
    return rotation, (v[3], v[7], v[11]), (v[12], v[13], v[14], v[15])


@helper
def _to_camera(rotation, translation, point):
    return (
        _dot(rotation[0], point) + translation[0],
        _dot(rotation[1], point) + translation[1],
        _dot(rotation[2], point) + translation[2],
    )


@helper
def _window(lens, width, height):
    """Limits (left, right, top, bottom) of p.x/p.z and p.y/p.z for the Jacobian."""
    fx, fy, cx, cy = lens
    return (
        -(cx + WINDOW * width) / fx,
        (width - cx + WINDOW * width) / fx,
        -(cy + WINDOW * height) / fy,
        (height - cy + WINDOW * height) / fy,
    )


@helper
def _clamp(value, low, high):
    return min(max(value, low), high)


@helper
def _screen_axes(axes, p, lens, window):
    """The two rows of J K."""
    inverse_z = 1.0 / p[2]
    jx, jy = lens[0] * inverse_z, lens[1] * inverse_z
    ax = _clamp(p[0] * inverse_z, window[0], window[1])
    ay = _clamp(p[1] * inverse_z, window[2], window[3])
    return _combination(jx, axes[0], -jx * ax, axes[2]), _combination(jy, axes[1], -jy * ay, axes[2])


# ---- kernels


def pack_cameras(T_camera_world: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Float64 rows ``[B, 16]``: the upper three rows of the pose, then fx, fy, cx, cy."""
    lens = np.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], axis=1)
    return np.concatenate([T_camera_world[:, :3].reshape(-1, 12), lens], axis=1).astype(np.float64)


@kernel
def project(start, stop, splats, opacities, view, projected):
    """Project the (camera, splat) pairs ``start <= i < stop``, with camera ``i // N`` and splat ``i % N``.

    Writes rows i of ``projected``, all zero for culled splats: outside ``near``…``far`` or the image, too transparent,
    or not finite.
    """
    means, quats, scales = splats
    cameras, width, height, near, far = view
    radii, means2d, depths, conics = projected
    count = means.shape[0]
    for i in range(start, stop):
        splat = i % count
        radii[i, 0] = radii[i, 1] = 0
        means2d[i, 0] = means2d[i, 1] = depths[i] = conics[i, 0] = conics[i, 1] = conics[i, 2] = 0.0
        rotation, translation, lens = _read_camera(cameras, i // count)
        p = _to_camera(rotation, translation, _read3(means, splat))
        opacity = np.float64(opacities[splat])
        # Conditions are written so that a NaN fails them.
        if not (p[2] >= near and p[2] <= far and opacity >= ALPHA_CUT):
            continue
        q, _ = _read_quaternion(quats, splat)
        turned = _product(rotation, _rotation(q))
        s = _read3(scales, splat)
        axes = (_elementwise(turned[0], s), _elementwise(turned[1], s), _elementwise(turned[2], s))
        u, v = _screen_axes(axes, p, lens, _window(lens, width, height))
        xx, xy, yy = _dot(u, u) + BLUR, _dot(u, v), _dot(v, v) + BLUR
        inverse = 1.0 / (xx * yy - xy * xy)
        a, b, c = np.float32(yy * inverse), np.float32(-xy * inverse), np.float32(xx * inverse)
        # A needle so long that its conic is singular in float32 cannot be drawn.
        if not (np.float64(a) * c - np.float64(b) * b > 1e-30 and a < 1e6 and c < 1e6):
            continue
        extent = min(MAX_EXTENT, math.sqrt(2.0 * math.log(opacity / ALPHA_CUT)))
        x, y = lens[0] * p[0] / p[2] + lens[2], lens[1] * p[1] / p[2] + lens[3]
        rx, ry = math.ceil(extent * math.sqrt(xx)), math.ceil(extent * math.sqrt(yy))
        if not (x + rx > 0 and x - rx < width and y + ry > 0 and y - ry < height and rx > 0 and ry > 0):
            continue
        radii[i, 0], radii[i, 1] = min(rx, 1e9), min(ry, 1e9)
        means2d[i, 0], means2d[i, 1], depths[i] = x, y, p[2]
        conics[i, 0], conics[i, 1], conics[i, 2] = a, b, c


@helper
def _covariance_gradient(conic, g):
    """-P G P for the symmetric matrices of a conic P and its gradient: (xx, xy + yx, yy)."""
    a, b, c = conic
    g0, g1, g2 = g[0], 0.5 * g[1], g[2]
    p00, p01, p10, p11 = a * g0 + b * g1, a * g1 + b * g2, b * g0 + c * g1, b * g1 + c * g2
    return -(p00 * a + p01 * b), -2.0 * (p00 * b + p01 * c), -(p10 * b + p11 * c)


@helper
def _position_gradient(p, lens, window, v_mean2d, v_depth, v_jx, v_jxz, v_jy, v_jyz):
    """Gradient in p, through means2d, the depth, and the four entries of J."""
    fx, fy = lens[0], lens[1]
    inverse_z = 1.0 / p[2]
    inverse_zz = inverse_z * inverse_z
    ratio_x, ratio_y = p[0] * inverse_z, p[1] * inverse_z
    ax, ay = _clamp(ratio_x, window[0], window[1]), _clamp(ratio_y, window[2], window[3])
    v_x = fx * inverse_z * v_mean2d[0]
    v_y = fy * inverse_z * v_mean2d[1]
    v_z = v_depth - (fx * ratio_x * v_mean2d[0] + fy * ratio_y * v_mean2d[1]) * inverse_z
    v_z -= (fx * v_jx + fy * v_jy) * inverse_zz
    # J.xz = -fx ax / z: where ax is not clamped it moves with p as well.
    v_z += (fx * ax * v_jxz + fy * ay * v_jyz) * inverse_zz
    if ax == ratio_x:
        v_x -= fx * inverse_zz * v_jxz
        v_z += fx * ax * inverse_zz * v_jxz
    if ay == ratio_y:
        v_y -= fy * inverse_zz * v_jyz
        v_z += fy * ay * inverse_zz * v_jyz
    return (v_x, v_y, v_z)


@kernel
def project_backward(start, stop, splats, view, conics, v_projected, v_splats):
    """Gradients of splats ``start <= i < stop``, summed over the cameras in order (so: deterministic).

    Adds to rows of ``v_splats``; ``v_projected`` holds the gradients in the output of `project`, and its radii.
    """
    means, quats, scales = splats
    cameras, width, height, _, _ = view
    radii, v_means2d, v_depths, v_conics = v_projected
    v_means, v_quats, v_scales = v_splats
    count = means.shape[0]
    for splat in range(start, stop):
        for camera in range(cameras.shape[0]):
            i = camera * count + splat
            if radii[i, 0] == 0:
                continue
            rotation, translation, lens = _read_camera(cameras, camera)
            window = _window(lens, width, height)
            p = _to_camera(rotation, translation, _read3(means, splat))
            q, factor = _read_quaternion(quats, splat)
            turned = _product(rotation, _rotation(q))
            s = _read3(scales, splat)
            axes = (_elementwise(turned[0], s), _elementwise(turned[1], s), _elementwise(turned[2], s))
            u, v = _screen_axes(axes, p, lens, window)

            v_xx, v_xy, v_yy = _covariance_gradient(_read3(conics, i), _read3(v_conics, i))
            v_u, v_v = _combination(2.0 * v_xx, u, v_xy, v), _combination(2.0 * v_yy, v, v_xy, u)
            v_jx, v_jxz = _dot(v_u, axes[0]), _dot(v_u, axes[2])
            v_jy, v_jyz = _dot(v_v, axes[1]), _dot(v_v, axes[2])

            jx, jy = lens[0] / p[2], lens[1] / p[2]
            jxz = -jx * _clamp(p[0] / p[2], window[0], window[1])
            jyz = -jy * _clamp(p[1] / p[2], window[2], window[3])
            v_axes = (_scaled(jx, v_u), _scaled(jy, v_v), _combination(jxz, v_u, jyz, v_v))
            v_turned = (_elementwise(v_axes[0], s), _elementwise(v_axes[1], s), _elementwise(v_axes[2], s))
            columns, v_columns = _transposed(turned), _transposed(v_axes)
            v_s = (_dot(columns[0], v_columns[0]), _dot(columns[1], v_columns[1]), _dot(columns[2], v_columns[2]))
            _add3(v_scales, splat, v_s)

            v_q = _rotation_gradient(q, _product(_transposed(rotation), v_turned))
            along = v_q[0] * q[0] + v_q[1] * q[1] + v_q[2] * q[2] + v_q[3] * q[3]
            for k in range(4):
                v_quats[splat, k] += (v_q[k] - along * q[k]) * factor

            v_mean2d = (np.float64(v_means2d[i, 0]), np.float64(v_means2d[i, 1]))
            v_p = _position_gradient(p, lens, window, v_mean2d, np.float64(v_depths[i]), v_jx, v_jxz, v_jy, v_jyz)
            _add3(v_means, splat, _row_times(v_p, rotation))
