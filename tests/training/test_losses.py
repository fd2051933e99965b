"""Each regulariser is zero where nothing is wrong and pushes the right way where something is."""

import pytest
import torch

from avatar_gs.errors import UserError
from avatar_gs.splats.config import SplatsConfig
from avatar_gs.splats.init import surface_splats
from avatar_gs.training.config import LossesConfig, OptimizeConfig
from avatar_gs.training.losses import haze, oversize, regularisers, sparsity, stray


@pytest.fixture
def model(body):
    return surface_splats(SplatsConfig(count=200), body.rest(), body.weights, torch.Generator().manual_seed(0))


def test_a_fresh_avatar_is_not_pushed(model):
    unit = model.scales().detach().amax(-1).median()
    assert stray(model, 0.05) == 0
    assert oversize(model, 1.6 * unit) == 0


def test_strayed_splats_are_drawn_back_and_fade(model):
    with torch.no_grad():
        model.params["means"][5] += 0.1 * model.params["normals"][5]
    stray(model, 0.05).backward()
    gradient = model.params["means"].grad
    assert (gradient[5] * model.params["normals"][5]).sum() > 0 and model.params["opacities"].grad[5] > 0
    assert gradient.count_nonzero() == gradient[5].count_nonzero()


def test_oversized_splats_shrink(model):
    unit = model.scales().detach().amax(-1).median()
    with torch.no_grad():
        model.params["scales"][7, 1] = (10 * unit).log()
    oversize(model, unit).backward()
    assert model.params["scales"].grad[7, 1] > 0
    assert model.params["scales"].grad[7, 0] == 0, "only the longest axis"


def test_alpha_terms():
    alpha = torch.tensor([0.0, 0.25, 0.75, 1.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(haze(alpha.view(1, 2, 2, 1)), alpha)
    assert gradient[1] > 0 > gradient[2], "away from one half"
    (gradient,) = torch.autograd.grad(sparsity(alpha.view(1, 2, 2, 1)), alpha)
    assert (gradient >= 0).all() and gradient[3] > 0.9


def test_only_weighted_losses_are_computed(model):
    alpha = torch.rand(1, 4, 4, 1)
    unit = torch.tensor(0.01)
    off = LossesConfig(opacity=0.0, haze=0.0, scale=0.0, distance=0.0)
    assert regularisers(off, model, alpha, unit) == {}
    losses = regularisers(LossesConfig(opacity=2.0, haze=0.0, scale=0.0, distance=0.0), model, alpha, unit)
    assert losses == {"opacity": 2 * sparsity(alpha)}


@pytest.mark.parametrize("values", [{"steps": 0}, {"batch": 0}, {"supersample": 99}, {"pose_spread": -1.0}])
def test_absurd_settings_are_refused_by_name(values):
    with pytest.raises(UserError, match=f"optimize.{next(iter(values))}="):
        OptimizeConfig(**values)
