"""The starting splats lie evenly in the surface, face outward and inherit the surface's skinning."""

import math

import pytest
import torch

from avatar_gs.core.errors import UserError
from avatar_gs.geometry import quat_to_matrix
from avatar_gs.splats.config import SplatsConfig
from avatar_gs.splats.surface import neighbour_distance, sample_surface, surface_splats
from tests.splats.conftest import LENGTH, RADIUS


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_samples_lie_in_the_surface_with_outward_normals(tube, tube_weights):
    samples = sample_surface(tube, tube_weights, 500, generator())
    radius = samples.points[:, 1:].norm(dim=-1)
    # facets of 24 sides sink at most 1 - cos(pi / 24) below the circle
    assert radius.max() <= RADIUS + 1e-6 and radius.min() >= RADIUS * math.cos(math.pi / 24) - 1e-6
    radial = torch.nn.functional.normalize(samples.points * torch.tensor([0.0, 1.0, 1.0]), dim=-1)
    assert (samples.normals * radial).sum(-1).min() > math.cos(0.15)


def test_samples_are_area_weighted_and_denser_where_asked(tube, tube_weights):
    right = tube.vertices[tube.faces].mean(1)[:, 0] > 0
    even = sample_surface(tube, tube_weights, 1000, generator())
    dense = sample_surface(tube, tube_weights, 1000, generator(), torch.where(right, 4.0, 1.0))
    assert abs((even.points[:, 0] > 0).float().mean() - 0.5) < 0.04
    assert abs((dense.points[:, 0] > 0).float().mean() - 0.8) < 0.04


def test_samples_are_more_even_than_chance(tube, tube_weights):
    points = sample_surface(tube, tube_weights, 1000, generator()).points
    nearest = neighbour_distance(points, 1)
    # of independent points the standard deviation of the nearest neighbour's distance is .52 of its mean
    assert nearest.std() / nearest.mean() < 0.44


def test_skinning_is_interpolated_inside_triangles(tube, tube_weights):
    samples = sample_surface(tube, tube_weights, 300, generator())
    torch.testing.assert_close(samples.skinning[:, 1], samples.points[:, 0] / LENGTH + 0.5, atol=1e-5, rtol=0)
    torch.testing.assert_close(samples.skinning.sum(-1), torch.ones(300))


def test_disks_lie_flat_and_cover_the_surface(tube, tube_weights):
    config = SplatsConfig(count=800, opacity=0.8, color=0.25)
    model = surface_splats(config, tube, tube_weights, generator())
    scales = model.scales().detach()
    assert len(model) == 800 and model.params["skinning"].shape == (800, 55)
    assert (scales[:, 2] < 0.5 * scales[:, 0]).all()
    short_axis = quat_to_matrix(model.params["quats"].detach())[..., 2]
    torch.testing.assert_close(short_axis, model.params["normals"].data, atol=1e-5, rtol=0)
    spacing = math.sqrt(2 * math.pi * RADIUS * LENGTH / 800)
    assert 0.4 * spacing < scales[:, 0].median() < 1.2 * spacing
    torch.testing.assert_close(model.opacities().detach(), torch.full((800,), 0.8))
    torch.testing.assert_close(model.colors().detach(), torch.full((800, 3), 0.25))


def test_initial_splats_are_a_function_of_the_seed(tube, tube_weights):
    config = SplatsConfig(count=200)
    first, again, other = (surface_splats(config, tube, tube_weights, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first.params[name], again.params[name]) for name in first.params)
    assert not torch.equal(first.params["means"], other.params["means"])


@pytest.mark.parametrize("values", [{"count": 0}, {"opacity": 1.0}, {"thickness": 0.0}, {"max_scale": 1e-4}])
def test_invalid_settings_are_refused_by_name(values):
    with pytest.raises(UserError, match=f"splats.{next(iter(values))}="):
        SplatsConfig(**values)
