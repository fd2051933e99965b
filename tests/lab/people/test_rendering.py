"""The renderer of people against closed forms."""

import numpy as np
import pytest
import torch

from avatar_gs.geometry import look_at
from avatar_gs.lab.people import kernels, samples
from avatar_gs.lab.people.assets import mip_pyramid
from avatar_gs.lab.people.rendering import SUPERSAMPLE, Layer, Light, Part, project, render, to_linear, to_srgb
from avatar_gs.types import Cameras

SIZE = 32
WHITE = np.zeros((9, 3), np.float32)
WHITE[0] = 1 / 0.282095
UNLIT = Light(WHITE, np.array([0, 0, 1], np.float32), np.zeros(3, np.float32))
"""Ambient light of 1 from everywhere, no key light."""


def camera(distance=2.0, focal=40.0):
    """A camera on the z axis that looks at the origin."""
    T = look_at(torch.tensor([[0.0, 0.0, distance]]), torch.zeros(1, 3))
    K = torch.tensor([[[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1.0]]])
    return Cameras(T, K, SIZE, SIZE)


def square(half=0.4, z=0.0, pixels=None, **how):
    """A square across the z axis that faces the camera."""
    corners = np.array([[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    texture = mip_pyramid(np.full((8, 8, 4), 255, np.uint8) if pixels is None else pixels)
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    normals = kernels.vertex_normals(corners, faces)
    return Layer(Part.TOP, kernels.CLOTH, corners, normals, faces, faces, uv, texture, **how)


def draw(*layers, background=0.0, light=UNLIT):
    return render(layers, camera(), 0, light, np.full(3, background))


def test_parts_depth_and_alpha_of_a_square():
    drawn = draw(square(half=0.4))
    half = 0.4 * 40 / 2 * SUPERSAMPLE
    centres = np.abs(np.arange(SIZE * SUPERSAMPLE) + 0.5 - SIZE * SUPERSAMPLE / 2)
    inside = (centres[:, None] < half) & (centres[None] < half)
    assert np.array_equal(drawn.parts == Part.TOP, inside)
    assert np.allclose(drawn.depth[inside], 2.0, atol=1e-5) and np.isinf(drawn.depth[~inside]).all()
    assert drawn.alpha.max() == 1 and drawn.alpha.min() == 0


def test_the_nearer_mesh_hides_the_other_in_any_order():
    near, far = square(0.2, z=0.5, tint=np.array([1, 0, 0], np.float32)), square(0.4)
    for layers in ((near, far), (far, near)):
        drawn = draw(*layers)
        assert drawn.depth[SIZE, SIZE] == pytest.approx(1.5, abs=1e-5)
        assert drawn.image[SIZE // 2, SIZE // 2].tolist() == [drawn.image[SIZE // 2, SIZE // 2, 0], 0, 0]


def test_white_light_from_everywhere_shows_the_albedo():
    colour = (200.0, 100.0, 50.0)
    drawn = draw(square(tint=to_linear(colour)))
    # a little rim light is cloth's own
    assert np.abs(drawn.image[SIZE // 2, SIZE // 2].astype(int) - colour).max() <= 3


def test_stripes_have_the_other_colour():
    pixels = np.full((8, 8, 4), 255, np.uint8)
    pixels[:, :, 1] = 0
    pixels[:4, :, 1] = 255  # rows are from the top
    drawn = draw(square(0.6, pixels=pixels, tint=to_linear((255.0, 0.0, 0.0)), stripe=to_linear((0.0, 0.0, 255.0))))
    assert drawn.image[SIZE // 4, SIZE // 2, 2] > 200 > 50 > drawn.image[SIZE // 4, SIZE // 2, 0]
    assert drawn.image[3 * SIZE // 4, SIZE // 2, 0] > 200 > 50 > drawn.image[3 * SIZE // 4, SIZE // 2, 2]


def test_transparent_layers_are_blended_by_their_alpha():
    pixels = np.full((8, 8, 4), 255, np.uint8)
    pixels[..., 3] = 102
    drawn = draw(square(pixels=pixels, solid=False, blended=True), background=0.25)
    linear = 0.25 + 0.4 * (1 - 0.25)
    assert np.abs(drawn.image[SIZE // 2, SIZE // 2].astype(int) - to_srgb(np.full((1, 1, 3), linear))[0, 0]).max() <= 1
    assert drawn.alpha[SIZE // 2, SIZE // 2] == pytest.approx(0.4, abs=1e-3)
    assert (drawn.parts == Part.BACKGROUND).all(), "less than half of a pixel"


def test_a_second_texture_is_mixed_in():
    black = mip_pyramid(np.full((8, 8, 4), (0, 0, 0, 255), np.uint8))
    mixed = draw(square(second=black, mix=0.75)).image[SIZE // 2, SIZE // 2]
    assert np.abs(mixed.astype(int) - to_srgb(np.full((1, 1, 3), 0.25))[0, 0]).max() <= 2


def test_points_behind_the_camera_are_not_drawn():
    assert project(np.array([[0, 0, 3.0]], np.float32), *(t[0].numpy() for t in (camera().T_camera_world, camera().K)))[
        0, 2
    ] == 0  # fmt: skip
    assert (draw(square(z=2.5)).parts == Part.BACKGROUND).all()


def test_a_plane_is_open_to_the_sky_and_a_corner_is_not():
    offsets = np.array([[0.3, 0.1], [0.7, -0.4]], np.float32)
    plane = np.full((64, 64), 0.5, np.float32)
    assert (kernels.ambient_occlusion(plane, 8.0, offsets) == 1).all()
    groove = plane.copy()
    groove[:, 28:36] = 1 / 2.05
    assert kernels.ambient_occlusion(groove, 16.0, offsets)[20:44, 30:34].mean() < 0.9


def test_light_is_turned_about_the_vertical_axis():
    rng = np.random.default_rng(0)
    harmonics, angle = rng.normal(size=(9, 3)), 0.7
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    directions = rng.normal(size=(20, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    before = samples._basis(directions) @ harmonics
    after = samples._basis(directions @ turn.T) @ samples._turned(harmonics, angle)
    assert np.allclose(before, after)
    assert np.allclose(samples._turned(harmonics, 2 * np.pi), harmonics)


def test_the_kernel_and_numpy_agree_on_the_harmonics():
    rng = np.random.default_rng(1)
    harmonics = rng.normal(size=(9, 3))
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    expected = (samples._basis(direction[None]) @ harmonics)[0]
    assert np.allclose([kernels._ambient(harmonics, *direction, channel) for channel in range(3)], expected)


def test_bytes_of_srgb_come_back():
    values = list(range(0, 226, 5))
    linear = np.stack([to_linear((float(value),) * 3) for value in values])[None]
    assert np.abs(to_srgb(linear)[0, :, 0].astype(int) - values).max() <= 1


def test_mip_levels_average_and_colours_under_alpha_zero_do_not_bleed():
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[::2] = (200, 100, 50, 255)
    pixels[1::2] = (0, 255, 0, 0)
    texture = mip_pyramid(pixels)
    assert texture.sizes.tolist() == [[16, 16], [8, 8], [4, 4]]
    second = texture.texels[texture.starts[1] : texture.starts[2]].reshape(8, 8, 4)
    assert np.abs(second[..., :3].astype(int) - (200, 100, 50)).max() <= 2
    assert np.abs(second[..., 3].astype(int) - 127).max() <= 1
