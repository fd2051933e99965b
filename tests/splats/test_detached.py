"""What hangs in the air is found whatever its grain; what makes up the body, a hand too, is left alone."""

import pytest
import torch

from avatar_gs.splats.config import SplatsConfig
from avatar_gs.splats.detached import detached
from avatar_gs.splats.init import surface_splats

REACH = 1.5


@pytest.fixture
def surface(tube, tube_weights):
    model = surface_splats(SplatsConfig(count=2000), tube, tube_weights, torch.Generator().manual_seed(0))
    return model.params["means"].detach(), model.scales().detach().amax(-1)


def with_group(surface, count, away):
    """The surface, and ``count`` splats of its kind close to each other, ``away`` metres from all of it."""
    means, sizes = surface
    corner = means.amax(0) + away / 3**0.5
    group = corner + 1e-3 * torch.rand(count, 3, generator=torch.Generator().manual_seed(1))
    return torch.cat([means, group]), torch.cat([sizes, sizes.median().repeat(count)])


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_exactly_small_groups_apart_are_detached_at_any_scale(surface, count, scale):
    means, sizes = with_group(surface, count, away=0.3)
    found = detached(scale * means, scale * sizes, REACH)
    assert found.nonzero().flatten().tolist() == list(range(len(means) - count, len(means)))


def test_a_group_as_large_as_a_limb_stays(surface):
    means, sizes = with_group(surface, 100, away=0.3)
    assert not detached(means, sizes, REACH).any()


def test_what_touches_stays(surface):
    means, sizes = surface
    near = means[:1] + torch.tensor([[1.5 * float(sizes[0]), 0.0, 0.0]])
    assert not detached(torch.cat([means, near]), torch.cat([sizes, sizes[:1]]), REACH).any()


def test_nothing_is_detached_where_there_is_no_surface(surface):
    means, sizes = surface
    assert not detached(means, 1e-3 * sizes, REACH).any()


def test_a_single_splat_is_no_group_apart():
    assert not detached(torch.zeros(1, 3), torch.ones(1), REACH).any()
