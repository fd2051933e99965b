"""Smoothing removes what one splat shows alone, and leaves edges, flat colours and a crowd's small features."""

import pytest
import torch

from avatar_gs.core.errors import UserError
from avatar_gs.splats.config import SmoothingConfig, SplatsConfig
from avatar_gs.splats.model import GaussianModel, rgb_to_sh
from avatar_gs.splats.smoothing import CORNER, ColorSmoother, nearest, pull
from avatar_gs.splats.surface import surface_splats

RATE = 0.05
STEPS = 200


@pytest.fixture
def model(tube, tube_weights):
    return surface_splats(SplatsConfig(count=800), tube, tube_weights, torch.Generator().manual_seed(0))


def paint(model, rgb):
    with torch.no_grad():
        model.params["sh0"][:, 0] = rgb_to_sh(rgb)


def smoothed(model, steps=STEPS, **config):
    smoother = ColorSmoother(SmoothingConfig(strength=0.5, **config), model)
    for _ in range(steps):
        smoother.step(model, RATE)
    return model.colors().detach()


def test_the_step_is_along_minus_the_gradient_of_the_variation():
    generator = torch.Generator().manual_seed(0)
    colors = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    neighbours = torch.randint(12, (12, 4), generator=generator)
    around = colors[neighbours]
    own = colors.clone().requires_grad_()
    variation = ((around - own[:, None]).square() + CORNER**2).sqrt().mean(1).sum()
    (gradient,) = torch.autograd.grad(variation, own)
    torch.testing.assert_close(pull(colors, neighbours), -gradient)


def test_a_uniform_colour_is_unchanged(model):
    paint(model, torch.tensor([0.9, 0.2, 0.3]).expand(len(model), 3))
    before = model.colors().detach().clone()
    assert torch.equal(smoothed(model), before)


def test_a_single_outlier_is_removed_and_its_neighbours_are_kept(model):
    colors = torch.full((len(model), 3), 0.8)
    colors[100] = torch.tensor([0.2, 0.8, 0.5])
    paint(model, colors)
    change = (smoothed(model) - 0.8).abs().amax(-1)
    assert change[100] < 0.05
    assert change.max() < 0.05, "nothing else has taken up its colour"


def test_an_edge_between_two_colours_is_kept(model):
    left = model.params["means"][:, :1].detach() < 0
    red, blue = torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.8])
    paint(model, torch.where(left, red, blue))
    after = smoothed(model)
    is_red = (after - red).norm(dim=-1) < (after - blue).norm(dim=-1)
    assert (is_red == left[:, 0]).float().mean() > 0.98
    assert (after - torch.where(left, red, blue)).abs().mean() < 0.02


def test_steps_follow_the_learning_rate(model):
    paint(model, torch.rand(len(model), 3, generator=torch.Generator().manual_seed(0)))
    before = model.params["sh0"].detach().clone()
    ColorSmoother(SmoothingConfig(strength=0.5), model).step(model, RATE)
    change = (model.params["sh0"] - before).abs().amax()
    assert 0.2 * RATE < change <= 0.5 * RATE
    ColorSmoother(SmoothingConfig(strength=0.0), model).step(model, RATE)
    assert torch.equal((model.params["sh0"] - before).abs().amax(), change)


def test_dense_splats_are_smoothed_less(model):
    means, normals = model.params["means"].detach().clone(), model.params["normals"].detach()
    crowd = means[:, 0] > 0
    means[crowd] = torch.stack([means[crowd, 0] / 2, *means[crowd, 1:].unbind(-1)], -1)
    _, strength = nearest(means, normals, SmoothingConfig())
    assert strength[crowd].median() < 0.9 * strength[~crowd].median()
    _, strength = nearest(means, normals, SmoothingConfig(detail=0.0))
    assert (strength == 1).all()


def test_two_sides_of_a_thin_surface_are_not_neighbours():
    grid = torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij"), -1).flatten(0, 1) * 0.01
    front = torch.cat([grid, torch.zeros(64, 1)], -1)
    means = torch.cat([front, front + torch.tensor([0.0, 0.0, 0.003])])
    normals = torch.tensor([0.0, 0.0, 1.0]).expand(128, 3).clone()
    normals[:64] *= -1
    index, _ = nearest(means, normals, SmoothingConfig(neighbours=8))
    assert ((index < 64) == (torch.arange(128) < 64)[:, None]).all()


def test_fewer_splats_than_neighbours(model):
    few = GaussianModel({name: value[:1] for name, value in model.tensors().items()})
    before = few.colors().detach().clone()
    assert torch.equal(smoothed(few), before)


def test_a_restored_smoother_has_the_same_neighbours(model):
    smoother = ColorSmoother(SmoothingConfig(), model)
    kept = {name: value.clone() for name, value in smoother.tensors().items()}
    with torch.no_grad():
        model.params["means"] += 0.05 * torch.randn(len(model), 3, generator=torch.Generator().manual_seed(1))
    paint(model, torch.rand(len(model), 3, generator=torch.Generator().manual_seed(0)))
    copy, fresh = GaussianModel(model.tensors()), GaussianModel(model.tensors())
    ColorSmoother(SmoothingConfig(), fresh).step(fresh, RATE)
    restored = ColorSmoother(SmoothingConfig(), copy)
    restored.load_tensors(kept)
    restored.step(copy, RATE)
    smoother.step(model, RATE)
    assert torch.equal(copy.params["sh0"], model.params["sh0"])
    assert not torch.equal(fresh.params["sh0"], model.params["sh0"]), "the neighbours are part of what a run depends on"


@pytest.mark.parametrize("values", [{"strength": 2.0}, {"neighbours": 0}, {"detail": -1.0}])
def test_invalid_settings_are_refused_by_name(values):
    with pytest.raises(UserError, match=f"splats.smoothing.{next(iter(values))}="):
        SmoothingConfig(**values)
