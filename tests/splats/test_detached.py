"""Detached splats are found at any density; those of the body, also of a hand, are kept."""

import pytest
import torch

from avatar_gs.lab.metrics.views import neutral_body
from avatar_gs.splats.config import SplatsConfig
from avatar_gs.splats.density import detached_splats
from avatar_gs.splats.surface import surface_splats

REACH = 1.5


@pytest.fixture
def surface(tube, tube_weights):
    model = surface_splats(SplatsConfig(count=2000), tube, tube_weights, torch.Generator().manual_seed(0))
    return model.params["means"].detach(), model.scales().detach().amax(-1)


def with_group(surface, count, away):
    """The surface, and ``count`` such splats close to each other, ``away`` metres from all of it."""
    means, sizes = surface
    corner = means.amax(0) + away / 3**0.5
    group = corner + 1e-3 * torch.rand(count, 3, generator=torch.Generator().manual_seed(1))
    return torch.cat([means, group]), torch.cat([sizes, sizes.median().repeat(count)])


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_only_small_separate_groups_are_detached_at_any_scale(surface, count, scale):
    means, sizes = with_group(surface, count, away=0.3)
    found = detached_splats(scale * means, scale * sizes, REACH)
    assert found.nonzero().flatten().tolist() == list(range(len(means) - count, len(means)))


def test_a_group_as_large_as_a_limb_stays(surface):
    means, sizes = with_group(surface, 100, away=0.3)
    assert not detached_splats(means, sizes, REACH).any()


def test_only_splats_inside_the_head_of_a_body_are_detached():
    """Of the mouth's cavity the first splats see a few flecks, which nothing outside touches."""
    body = neutral_body(torch.device("cpu"))
    model = surface_splats(SplatsConfig(), body.rest(), body.weights, torch.Generator().manual_seed(0))
    loose = detached_splats(model.params["means"], model.scales().amax(-1), REACH)
    assert loose.float().mean() < 0.005
    eyes = body.rest().joints[23:25].amin(0)
    places = model.params["means"].detach()[loose]
    assert bool((places[:, 1] < eyes[1]).all()) and bool((places[:, 2] < eyes[2]).all()), "below and behind the eyes"
    assert set(model.params["skinning"][loose].argmax(1).tolist()) <= {15}, "of the head joint: no limb, no eye"


def test_groups_in_contact_are_not_detached(surface):
    means, sizes = surface
    near = means[:1] + torch.tensor([[1.5 * float(sizes[0]), 0.0, 0.0]])
    assert not detached_splats(torch.cat([means, near]), torch.cat([sizes, sizes[:1]]), REACH).any()


def test_nothing_is_detached_if_splats_form_no_surface(surface):
    means, sizes = surface
    assert not detached_splats(means, 1e-3 * sizes, REACH).any()


def test_a_single_splat_is_not_detached():
    assert not detached_splats(torch.zeros(1, 3), torch.ones(1), REACH).any()
