"""Diffuse shading in closed form, its gradients by finite differences, and lit views drawn as a batch would be."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from avatar_gs.core.errors import UserError
from avatar_gs.geometry import look_at
from avatar_gs.render.config import ShadingConfig
from avatar_gs.render.rasterize import rasterize
from avatar_gs.render.shading import (
    Lighting,
    Shade,
    camera_positions,
    lambert,
    orientation_penalty,
    rasterize_shaded,
    sample_light_positions,
    sample_lighting,
    shade_splats,
    shortest_axes,
)
from avatar_gs.types import Cameras, Gaussians

AMBIENT, DIFFUSE = 0.1, 0.9


def cameras(*eyes: tuple[float, ...], size: int = 32) -> Cameras:
    """Cameras at these places that look at the origin."""
    at = torch.tensor(eyes, dtype=torch.float32)
    K = torch.tensor([[float(size), 0, size / 2], [0, float(size), size / 2], [0, 0, 1]]).repeat(len(at), 1, 1)
    return Cameras(look_at(at, torch.zeros_like(at)), K, size, size)


def some_splats(count: int = 40) -> Gaussians:
    random = torch.Generator().manual_seed(1)
    return Gaussians(
        means=0.3 * torch.randn(count, 3, generator=random),
        quats=torch.randn(count, 4, generator=random),
        scales=torch.tensor([0.08, 0.06, 0.01]).repeat(count, 1),
        opacities=torch.full((count,), 0.7),
        colors=torch.rand(count, 3, generator=random),
    )


def lit(shade: Shade, *positions: tuple[float, float, float]) -> Lighting:
    return Lighting(shade, torch.tensor(positions), AMBIENT, DIFFUSE)


def test_lambert_in_closed_form():
    albedo = torch.tensor([[0.8, 0.4, 0.2]]).repeat(4, 1)
    normals = normalize(torch.tensor([[0.0, 0, 1], [0, 0, -1], [1, 0, 0], [0, 3**0.5, 1]]), dim=-1)
    light = torch.tensor([0.0, 0.0, 5.0])
    found = lambert(albedo, normals, torch.zeros(4, 3), light, AMBIENT, DIFFUSE)
    expected = torch.tensor([AMBIENT + DIFFUSE, AMBIENT, AMBIENT, AMBIENT + DIFFUSE / 2])[:, None] * albedo
    torch.testing.assert_close(found, expected)


def test_distance_dims_nothing_and_the_light_is_a_point():
    normal, albedo = torch.tensor([[0.0, 0, 1]]).repeat(2, 1), torch.ones(2, 3)
    points = torch.tensor([[0.0, 0, 0], [1.0, 0, 0]])
    near, far = (lambert(albedo, normal, points, torch.tensor([0, 0, z]), 0.0, 1.0) for z in (1.0, 100.0))
    torch.testing.assert_close(near[:, 0], torch.tensor([1.0, 0.5**0.5]))
    assert far[0, 0] == 1 and 0.999 < far[1, 0] < 1


def test_textureless_is_lit_white_and_the_albedo_is_left_alone():
    splats, normals = some_splats(), shortest_axes(some_splats().quats, some_splats().scales)
    light = (1.0, 2.0, 3.0)
    white = shade_splats(splats, normals, lit(Shade.TEXTURELESS, light), 0).colors
    expected = lambert(torch.ones(40, 3), normals, splats.means, torch.tensor(light), AMBIENT, DIFFUSE)
    torch.testing.assert_close(white, expected)
    colored = shade_splats(splats, normals, lit(Shade.LAMBERTIAN, light), 0).colors
    torch.testing.assert_close(colored, white * splats.colors)
    assert shade_splats(splats, normals, lit(Shade.ALBEDO, light), 0) is splats


def test_shading_has_the_gradient_of_its_finite_differences():
    """In double precision, from quaternions and positions to colours."""
    random = torch.Generator().manual_seed(3)
    quats = torch.randn(12, 4, generator=random, dtype=torch.float64, requires_grad=True)
    points = torch.randn(12, 3, generator=random, dtype=torch.float64, requires_grad=True)
    albedo = torch.rand(12, 3, generator=random, dtype=torch.float64, requires_grad=True)
    scales = torch.tensor([[0.3, 0.1, 0.2]], dtype=torch.float64).repeat(12, 1)
    light = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)

    def colours(quats, points, albedo):
        return lambert(albedo, shortest_axes(quats, scales), points, light, AMBIENT, DIFFUSE)

    assert torch.autograd.gradcheck(colours, (quats, points, albedo))


def test_points_facing_away_from_the_light_give_normals_no_gradient():
    normals = torch.tensor([[0.0, 0.6, 0.8], [0.0, 0.6, -0.8]], requires_grad=True)
    colours = lambert(torch.ones(2, 3), normals, torch.zeros(2, 3), torch.tensor([0.0, 0, 2]), AMBIENT, DIFFUSE)
    colours.sum().backward()
    assert normals.grad is not None
    assert normals.grad[0].abs().max() > 0.1 and not normals.grad[1].any()


def test_the_shortest_axis_of_each_splat():
    identity = torch.tensor([[1.0, 0, 0, 0]]).repeat(3, 1)
    scales = torch.tensor([[1.0, 2, 3], [2, 1, 3], [3, 2, 1]])
    torch.testing.assert_close(shortest_axes(identity, scales), torch.eye(3))
    quarter = torch.tensor([[0.5**0.5, 0.5**0.5, 0, 0]])  # about x: z becomes -y
    torch.testing.assert_close(shortest_axes(quarter, scales[2:]), torch.tensor([[0.0, -1, 0]]), atol=1e-6, rtol=0)


def test_views_rendered_one_by_one_equal_a_batch():
    """With ambient light alone: images, alpha, and what densification reads, gradients of screen positions too."""
    views, background = cameras((0, 0, 2), (2, 0.5, 0), (-1, 1, -2)), torch.rand(3, 3)
    weights = torch.randn(3, 32, 32, 3, generator=torch.Generator().manual_seed(5))
    sky = Lighting(Shade.LAMBERTIAN, torch.zeros(3, 3), ambient=1.0, diffuse=0.0)

    def one_by_one(splats):
        return rasterize_shaded(splats, shortest_axes(splats.quats, splats.scales), sky, views, background)

    results = []
    for draw in (lambda splats: rasterize(splats, views, background), one_by_one):
        splats = some_splats()
        splats.means.requires_grad_(True)
        render = draw(splats)
        if render.info["means2d"].grad_fn is not None:
            render.info["means2d"].retain_grad()
        (render.rgb * weights).sum().backward()
        results.append((render, splats.means.grad))
    (batch, gradient), (single, other) = results
    for name in ("rgb", "alpha", "depth"):
        assert torch.equal(getattr(batch, name), getattr(single, name)), name
    torch.testing.assert_close(gradient, other)
    assert torch.equal(batch.info["means2d"].grad, single.info["means2d"].grad)
    assert batch.info["means2d"].grad.abs().max() > 0
    assert torch.equal(batch.info["radii"], single.info["radii"])
    assert single.info["n_cameras"] == 3 == batch.info["n_cameras"]


def test_only_visible_splats_that_face_away_are_penalised():
    """A wide flat splat before the camera: its weight times the squared cosine."""
    view = cameras((0, 0, 2))
    splat = Gaussians(
        means=torch.zeros(1, 3),
        quats=torch.tensor([[1.0, 0, 0, 0]], requires_grad=True),
        scales=torch.tensor([[5.0, 5.0, 0.01]]),
        opacities=torch.tensor([0.8], requires_grad=True),
        colors=torch.zeros(1, 3),
    )
    axis = shortest_axes(splat.quats, splat.scales)
    assert orientation_penalty(splat, axis, view).abs().max() == 0
    centre = orientation_penalty(splat, -axis, view)[0, 16, 16]
    torch.testing.assert_close(centre, torch.tensor(0.8), atol=1e-3, rtol=0)
    turned = normalize(torch.tensor([[0.0, 1.0, -1.0]]), dim=-1)
    torch.testing.assert_close(
        orientation_penalty(splat, turned, view)[0, 16, 16], torch.tensor(0.4), atol=1e-3, rtol=0
    )
    hidden = Gaussians(*(torch.cat([value, value]).detach() for value in vars(splat).values()))
    hidden.means[1, 2] = -1.0
    opaque = replace(hidden, opacities=torch.tensor([0.999, 0.8]))
    behind = orientation_penalty(opaque, torch.tensor([[0.0, 0, 1], [0, 0, -1]]), view)
    assert behind[0, 16, 16] < 0.002, "what stands behind is not seen"


def test_the_orientation_penalty_turns_normals_and_fades_nothing():
    splats = some_splats()
    leaves = [splats.quats, splats.means, splats.scales, splats.opacities]
    for leaf in leaves:
        leaf.requires_grad_(True)
    orientation_penalty(
        splats, shortest_axes(splats.quats, splats.scales), cameras((0, 0, 2), (0, 2, 0.1))
    ).sum().backward()
    assert splats.quats.grad is not None and splats.quats.grad.abs().max() > 0
    assert all(leaf.grad is None for leaf in leaves[1:])


def test_lights_stand_near_their_cameras():
    """Distances in the configured band; directions as the normal distribution around the camera has them."""
    config, centre = ShadingConfig(spread=0.5, distance_min=0.5, distance_max=1.0), torch.tensor([0.0, 1.0, 0.0])
    views = cameras(*[(0.0, 0.0, 2.0)] * 4000)
    lights = sample_light_positions(config, views, torch.zeros(4000, 3), torch.Generator().manual_seed(0))
    distance = lights.norm(dim=-1)
    assert distance.min() >= 1.0 and distance.max() <= 2.0
    torch.testing.assert_close(distance.mean(), torch.tensor(1.5), atol=0.02, rtol=0)
    assert (lights[:, 2] > 0).float().mean() > 0.95, "on the camera's side of the avatar"
    torch.testing.assert_close((lights / distance[:, None])[:, :2].mean(0), torch.zeros(2), atol=0.03, rtol=0)
    exact = sample_light_positions(
        replace(config, spread=0.0, distance_min=1.0), views, centre.expand(4000, 3), torch.Generator()
    )
    torch.testing.assert_close(exact[0], torch.tensor([0.0, 0.0, 2.0]), atol=1e-5, rtol=0)


def test_camera_positions():
    eyes = torch.tensor([[0.0, 0, 2], [1, 2, 3]])
    torch.testing.assert_close(camera_positions(cameras((0, 0, 2), (1, 2, 3))), eyes)


def test_the_fractions_of_lit_and_white_steps():
    config, view, centre = (
        ShadingConfig(probability=0.75, textureless=0.5, warmup=0.1),
        cameras((0, 0, 2)),
        torch.zeros(1, 3),
    )

    def shades(progress):
        drawn = [sample_lighting(config, progress, view, centre, torch.Generator().manual_seed(s)) for s in range(600)]
        return [None if lighting is None else lighting.shade for lighting in drawn]

    after = shades(0.5)
    assert abs(after.count(None) / 600 - 0.25) < 0.06
    assert abs(after.count(Shade.TEXTURELESS) / 600 - 0.375) < 0.06
    assert set(shades(0.05)) == {None}, "the warm-up is not lit"
    assert set(shades(0.1)) != {None}
    off = [sample_lighting(ShadingConfig(), 1.0, view, centre, torch.Generator().manual_seed(s)) for s in range(20)]
    assert set(off) == {None}


@pytest.mark.parametrize(
    "wrong",
    [{"probability": 1.2}, {"textureless": -0.1}, {"warmup": 2.0}, {"ambient": -1.0}, {"spread": float("nan")}],
)
def test_impossible_light_is_refused_in_one_line(wrong):
    with pytest.raises(UserError, match=rf"^optimize\.shading\.{next(iter(wrong))}=[^\n]*$"):
        ShadingConfig(**wrong)


def test_a_light_farther_than_its_farthest_is_refused():
    with pytest.raises(UserError, match=r"distance_min/distance_max=2\.0/1\.0"):
        ShadingConfig(distance_min=2.0, distance_max=1.0)
