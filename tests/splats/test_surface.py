"""Which part of the surface can be seen, and how far splats have left it."""

import math

import torch

from avatar_gs.splats.config import SplatsConfig
from avatar_gs.splats.surface import RestSurface, areas_and_normals, exposed_faces, surface_splats


def sphere(radius, rings=40):
    """Triangles of a sphere with outward normals."""
    polar = torch.linspace(0, math.pi, rings + 1)[:, None]
    turn = torch.linspace(0, 2 * math.pi, 2 * rings + 1)[None]
    parts = [polar.sin() * turn.cos(), polar.sin() * turn.sin(), polar.cos().expand(-1, 2 * rings + 1)]
    grid = radius * torch.stack(parts, -1)
    a, b, c, d = grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]
    triangles = torch.cat([torch.stack([a, b, c], -2).flatten(0, 1), torch.stack([a, c, d], -2).flatten(0, 1)])
    areas, _ = areas_and_normals(triangles)
    return triangles[areas > 1e-9]


def test_areas_and_normals_of_a_sphere():
    triangles = sphere(0.1)
    areas, normals = areas_and_normals(triangles)
    assert abs(areas.sum() / (4 * math.pi * 0.01) - 1) < 0.01
    assert (normals * torch.nn.functional.normalize(triangles.mean(1), dim=-1)).sum(-1).min() > 0.99


def test_inner_faces_are_not_exposed():
    outer, inner = sphere(0.1), sphere(0.05, 20)
    exposed = exposed_faces(torch.cat([outer, inner]))
    assert exposed[: len(outer)].all() and not exposed[len(outer) :].any()


def test_rest_surface_measures_the_distance_of_splats(tube, tube_weights):
    model = surface_splats(SplatsConfig(count=200), tube, tube_weights, torch.Generator().manual_seed(0))
    surface = RestSurface(tube)
    inner = model.params["means"][:, 0].detach().abs() < 0.45
    with torch.no_grad():
        model.params["means"] += 0.04 * model.params["normals"]
        model.params["means"][:, 0] += 0.03  # along the surface: no distance, once the anchors are renewed
    surface.refresh(model)
    torch.testing.assert_close(
        model.surface_distance()[inner].detach(), torch.full((int(inner.sum()),), 0.04), atol=2e-3, rtol=0
    )
