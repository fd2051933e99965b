"""Compiled loops of the renderer: blend shapes, a textured z-buffer, ambient occlusion, light, transparent meshes."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

SRGB_TO_LINEAR = np.array(
    [(x / 255 / 12.92 if x <= 10 else ((x / 255 + 0.055) / 1.055) ** 2.4) for x in range(256)], np.float32
)
SKIN, CLOTH, HAIR, EYE = 1, 2, 3, 4
"""Materials, which reflect light differently."""


def kernel(function: Callable) -> Any:
    """Compile with numba, without the GIL, under run-time type checkers too (which wrap functions)."""
    return njit(cache=True, nogil=True, fastmath=True)(inspect.unwrap(function))


@kernel
def add_sparse(vertices, active, coefficients, starts, index, offsets):
    """Add ``coefficients[k]`` times each active blend shape to ``vertices`` [V, 3], in place."""
    for k in active:
        factor = coefficients[k]
        for row in range(starts[k], starts[k + 1]):
            vertex = index[row]
            for axis in range(3):
                vertices[vertex, axis] += factor * offsets[row, axis]


@kernel
def vertex_normals(vertices, faces):
    """Area-weighted unit normals [V, 3]."""
    normals = np.zeros_like(vertices)
    for t in range(faces.shape[0]):
        a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for k in (a, b, c):
            normals[k, 0] += nx
            normals[k, 1] += ny
            normals[k, 2] += nz
    for k in range(vertices.shape[0]):
        length = math.sqrt(normals[k, 0] ** 2 + normals[k, 1] ** 2 + normals[k, 2] ** 2) + 1e-12
        for axis in range(3):
            normals[k, axis] /= length
    return normals


@kernel
def _sample(texels, starts, sizes, level, u, v, to_linear, out):
    """Bilinear look-up of one mip level: linear RGB and alpha in [0, 1], into ``out`` [4]."""
    level = min(max(level, 0), sizes.shape[0] - 1)
    height, width = sizes[level, 0], sizes[level, 1]
    x, y = u * width - 0.5, (1 - v) * height - 0.5
    x0, y0 = math.floor(x), math.floor(y)
    fx, fy = x - x0, y - y0
    for channel in range(4):
        out[channel] = 0.0
    for j in range(2):
        for i in range(2):
            weight = (fx if i else 1 - fx) * (fy if j else 1 - fy)
            offset = starts[level] + (((y0 + j) % height) * width + (x0 + i) % width) * 4
            for channel in range(3):
                out[channel] += weight * to_linear[texels[offset + channel]]
            out[3] += weight * texels[offset + 3] / 255.0


@kernel
def _bounds(ax, bx, cx, size):
    """First and last pixel whose centre may be between three coordinates."""
    low, high = min(ax, bx, cx), max(ax, bx, cx)
    return max(0, math.ceil(low - 0.5)), min(size - 1, math.floor(high - 0.5))


@kernel
def _triangle(screen, faces, t, size):
    """Corners (x, y, inverse depth), twice the signed area, and pixel bounds x0, x1, y0, y1 of a triangle.

    The bounds are empty if the triangle is outside the image, degenerate, or partly behind the camera.
    """
    a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
    ax, ay, az = screen[a, 0], screen[a, 1], screen[a, 2]
    bx, by, bz = screen[b, 0], screen[b, 1], screen[b, 2]
    cx, cy, cz = screen[c, 0], screen[c, 1], screen[c, 2]
    area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
    x0, x1 = _bounds(ax, bx, cx, size)
    y0, y1 = _bounds(ay, by, cy, size)
    if az <= 0 or bz <= 0 or cz <= 0 or abs(area) < 1e-9 or x0 > x1 or y0 > y1:
        x0, x1, y0, y1 = 0, -1, 0, -1
    return (ax, ay, az, bx, by, bz, cx, cy, cz), area, (x0, x1, y0, y1)


@kernel
def _weights(corners, area, x, y):
    """Barycentric coordinates of the centre of pixel (x, y), and the inverse depth there."""
    ax, ay, az, bx, by, bz, cx, cy, cz = corners
    px, py = x + 0.5, y + 0.5
    w1 = ((px - ax) * (cy - ay) - (cx - ax) * (py - ay)) / area
    w2 = ((bx - ax) * (py - ay) - (px - ax) * (by - ay)) / area
    w0 = 1 - w1 - w2
    return w0, w1, w2, w0 * az + w1 * bz + w2 * cz


@kernel
def _texture_point(corners, weights, depth, uv, ta, tb, tc):
    """Perspective-correct barycentric coordinates, and texture coordinates u, v."""
    q0, q1, q2 = weights[0] * corners[2] / depth, weights[1] * corners[5] / depth, weights[2] * corners[8] / depth
    u = q0 * uv[ta, 0] + q1 * uv[tb, 0] + q2 * uv[tc, 0]
    v = q0 * uv[ta, 1] + q1 * uv[tb, 1] + q2 * uv[tc, 1]
    return q0, q1, q2, u, v


@kernel
def _mip_level(uv, a, b, c, sizes, area):
    """The level at which one texel is about one pixel."""
    texture_area = abs((uv[b, 0] - uv[a, 0]) * (uv[c, 1] - uv[a, 1]) - (uv[c, 0] - uv[a, 0]) * (uv[b, 1] - uv[a, 1]))
    ratio = texture_area * sizes[0, 0] * sizes[0, 1] / abs(area)
    return int(0.5 * math.log2(max(ratio, 1e-6)) + 0.2)


@kernel
def _albedo(texture, second, mix, level, u, v, to_linear, tint, stripe, out, other):
    """The colour of a point, into ``out``: a texture (or a mixture of two) times ``tint``.

    With a ``stripe`` colour (first entry at least 0), red is brightness and green the fraction of the stripe's colour.
    """
    texels, starts, sizes = texture
    _sample(texels, starts, sizes, level, u, v, to_linear, out)
    if mix > 0:
        texels, starts, sizes = second
        _sample(texels, starts, sizes, level, u, v, to_linear, other)
        for channel in range(3):
            out[channel] += mix * (other[channel] - out[channel])
    if stripe[0] >= 0:
        brightness, amount = out[0], out[1]
        for channel in range(3):
            out[channel] = brightness * (tint[channel] + amount * (stripe[channel] - tint[channel]))
    else:
        for channel in range(3):
            out[channel] *= tint[channel]


@kernel
def draw_opaque(
    screen, normals, faces, uv_faces, uv, texture, second, mix, to_linear, tint, stripe, part, material, alpha_min,
    inverse_depth, albedo, normal_map, parts, materials,
):  # fmt: skip
    """Render one mesh into the buffers [S, S, …], in place; texels with alpha below ``alpha_min`` are left out.

    Args:
        screen: [N, 3], pixels and inverse depth (1 / metres).
    """
    size = inverse_depth.shape[0]
    texel, other = np.zeros(4, np.float32), np.zeros(4, np.float32)
    for t in range(faces.shape[0]):
        corners, area, (x0, x1, y0, y1) = _triangle(screen, faces, t, size)
        if x0 > x1:
            continue
        a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
        ta, tb, tc = uv_faces[t, 0], uv_faces[t, 1], uv_faces[t, 2]
        level = _mip_level(uv, ta, tb, tc, texture[2], area)
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                w0, w1, w2, depth = _weights(corners, area, x, y)
                if w0 < -1e-6 or w1 < -1e-6 or w2 < -1e-6 or depth <= inverse_depth[y, x]:
                    continue
                q0, q1, q2, u, v = _texture_point(corners, (w0, w1, w2), depth, uv, ta, tb, tc)
                _albedo(texture, second, mix, level, u, v, to_linear, tint, stripe, texel, other)
                if texel[3] < alpha_min:
                    continue
                inverse_depth[y, x], parts[y, x], materials[y, x] = depth, part, material
                for k in range(3):
                    albedo[y, x, k] = texel[k]
                    normal_map[y, x, k] = q0 * normals[a, k] + q1 * normals[b, k] + q2 * normals[c, k]


@kernel
def draw_depth(screen, faces, inverse_depth):
    """Render the z-buffer [S, S] of one mesh, in place."""
    size = inverse_depth.shape[0]
    for t in range(faces.shape[0]):
        corners, area, (x0, x1, y0, y1) = _triangle(screen, faces, t, size)
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                w0, w1, w2, depth = _weights(corners, area, x, y)
                if w0 >= -1e-6 and w1 >= -1e-6 and w2 >= -1e-6:
                    inverse_depth[y, x] = max(inverse_depth[y, x], depth)


@kernel
def ambient_occlusion(inverse_depth, radius, offsets):
    """Ambient occlusion in screen space: openness [S, S] in [0.25, 1], at every second pixel.

    A pixel is occluded by pairs of opposite neighbours that are nearer to the camera.

    Args:
        radius: pixels times metres.
        offsets: [P, 2], positions of neighbours in units of the radius.
    """
    size = inverse_depth.shape[0]
    openness = np.ones((size, size), np.float32)
    for y in range(0, size, 2):
        for x in range(0, size, 2):
            if inverse_depth[y, x] <= 0:
                continue
            z = 1 / inverse_depth[y, x]
            reach, turn, closed = radius / z, ((x * 7 + y * 13) // 2 % 4) * 1.57, 0.0
            cosine, sine = math.cos(turn), math.sin(turn)
            for k in range(offsets.shape[0]):
                dx = (offsets[k, 0] * cosine - offsets[k, 1] * sine) * reach
                dy = (offsets[k, 0] * sine + offsets[k, 1] * cosine) * reach
                xa, ya, xb, yb = int(x + dx), int(y + dy), int(x - dx), int(y - dy)
                if min(xa, ya, xb, yb) < 0 or max(xa, ya, xb, yb) >= size:
                    continue
                za = 1 / inverse_depth[ya, xa] if inverse_depth[ya, xa] > 0 else z + 0.1
                zb = 1 / inverse_depth[yb, xb] if inverse_depth[yb, xb] > 0 else z + 0.1
                nearer = 0.5 * (min(max(z - za, -0.09), 0.09) + min(max(z - zb, -0.09), 0.09))
                if nearer > 0.001:
                    closed += min(1.0, 35 * nearer)
            value = 1 - 0.75 * closed / offsets.shape[0]
            for j in range(y, min(y + 2, size)):
                for i in range(x, min(x + 2, size)):
                    openness[j, i] = value
    return openness


@kernel
def _ambient(harmonics, x, y, z, channel):
    """Irradiance from the direction (x, y, z), of nine spherical harmonics [9, 3]."""
    h = harmonics
    return (
        0.282095 * h[0, channel]
        + 0.488603 * (h[1, channel] * y + h[2, channel] * z + h[3, channel] * x)
        + 1.092548 * (h[4, channel] * x * y + h[5, channel] * y * z + h[7, channel] * x * z)
        + 0.315392 * h[6, channel] * (3 * z * z - 1)
        + 0.546274 * h[8, channel] * (x * x - y * y)
    )


@kernel
def _lit(albedo, n, towards_camera, harmonics, key_direction, key_colour, openness, material, out):
    """Reflected light of a point, linear RGB, into ``out``: ambient light, a soft key light, little gloss."""
    along = n[0] * key_direction[0] + n[1] * key_direction[1] + n[2] * key_direction[2]
    hx, hy, hz = (
        key_direction[0] + towards_camera[0],
        key_direction[1] + towards_camera[1],
        key_direction[2] + towards_camera[2],
    )
    length = math.sqrt(hx * hx + hy * hy + hz * hz) + 1e-9
    half = max(0.0, (n[0] * hx + n[1] * hy + n[2] * hz) / length)
    facing = max(1e-3, n[0] * towards_camera[0] + n[1] * towards_camera[1] + n[2] * towards_camera[2])
    rim = (1 - facing) ** 5
    for k in range(3):
        wrap = 0.35
        if material == SKIN:
            wrap = 0.55 - 0.12 * k  # red light travels farther under the skin
        diffuse = max(0.0, (along + wrap) / (1 + wrap))
        ambient = max(0.02, _ambient(harmonics, n[0], n[1], n[2], k)) * openness
        value = albedo[k] * (ambient + key_colour[k] * diffuse)
        if material == SKIN:
            value += key_colour[k] * (0.05 * half**18 + 0.04 * half**60) + 0.03 * rim * ambient
        elif material == HAIR:
            value += albedo[k] * key_colour[k] * 0.5 * half**14 + 0.03 * half**30 * key_colour[k]
        elif material == EYE:
            value += key_colour[k] * 1.2 * half**200
        out[k] = value


@kernel
def shade(
    inverse_depth, albedo, normal_map, materials, openness, rays, rotation, harmonics, key_direction, key_colour, image
):  # fmt: skip
    """Light the buffers into ``image`` [S, S, 3] (linear), in place; pixels without a surface are left as they are.

    Args:
        rays: (cx, cy, fx, fy) in pixels.
        rotation: from world to camera.
    """
    size = inverse_depth.shape[0]
    n, towards, out = np.zeros(3, np.float32), np.zeros(3, np.float32), np.zeros(3, np.float32)
    for y in range(size):
        for x in range(size):
            if materials[y, x] == 0:
                continue
            _towards_camera(x, y, rays, rotation, towards)
            for k in range(3):
                n[k] = normal_map[y, x, k]
            _face_camera(n, towards)
            _lit(albedo[y, x], n, towards, harmonics, key_direction, key_colour, openness[y, x], materials[y, x], out)
            for k in range(3):
                image[y, x, k] = out[k]


@kernel
def _towards_camera(x, y, rays, rotation, out):
    """Unit world direction from the point at a pixel to the camera, into ``out``."""
    dx, dy = (x + 0.5 - rays[0]) / rays[2], (y + 0.5 - rays[1]) / rays[3]
    length = math.sqrt(dx * dx + dy * dy + 1)
    for k in range(3):
        out[k] = -(rotation[0, k] * dx + rotation[1, k] * dy + rotation[2, k]) / length


@kernel
def _face_camera(n, towards):
    """Normalise ``n`` in place and flip it towards the camera, since cloth and hair are visible from both sides."""
    length, facing = 0.0, 0.0
    for k in range(3):
        length += n[k] * n[k]
        facing += n[k] * towards[k]
    length = math.sqrt(length) + 1e-9
    if facing < 0:
        length = -length
    for k in range(3):
        n[k] /= length


@kernel
def blend(
    order, screen, normals, faces, uv_faces, uv, texture, to_linear, tint, stripe, part, material, tolerance,
    inverse_depth, rays, rotation, harmonics, key_direction, key_colour, image, cover, parts,
):  # fmt: skip
    """Blend the triangles of a transparent mesh over ``image`` [S, S, 3], in place.

    Args:
        order: triangles from far to near.
        tolerance: fraction of the depth by which a triangle may be behind the surface (brows lie in the skin).
        cover: [S, S], updated to the alpha of everything rendered.
        parts: updated to ``part`` where the alpha of this mesh exceeds one half.
    """
    size = inverse_depth.shape[0]
    texel, other = np.zeros(4, np.float32), np.zeros(4, np.float32)
    n, towards, out = np.zeros(3, np.float32), np.zeros(3, np.float32), np.zeros(3, np.float32)
    for index in range(order.shape[0]):
        t = order[index]
        corners, area, (x0, x1, y0, y1) = _triangle(screen, faces, t, size)
        if x0 > x1:
            continue
        a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
        ta, tb, tc = uv_faces[t, 0], uv_faces[t, 1], uv_faces[t, 2]
        level = _mip_level(uv, ta, tb, tc, texture[2], area)
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                w0, w1, w2, depth = _weights(corners, area, x, y)
                if w0 < 0 or w1 < 0 or w2 < 0 or depth * (1 + tolerance) <= inverse_depth[y, x]:
                    continue
                q0, q1, q2, u, v = _texture_point(corners, (w0, w1, w2), depth, uv, ta, tb, tc)
                _albedo(texture, texture, 0.0, level, u, v, to_linear, tint, stripe, texel, other)
                alpha = texel[3]
                if alpha < 0.02:
                    continue
                _towards_camera(x, y, rays, rotation, towards)
                for k in range(3):
                    n[k] = q0 * normals[a, k] + q1 * normals[b, k] + q2 * normals[c, k]
                _face_camera(n, towards)
                _lit(texel, n, towards, harmonics, key_direction, key_colour, 1.0, material, out)
                for k in range(3):
                    image[y, x, k] += alpha * (out[k] - image[y, x, k])
                cover[y, x] += alpha * (1 - cover[y, x])
                if alpha > 0.5:
                    parts[y, x] = part
