"""Learning rates decay as configured, and optimiser states survive a checkpoint."""

import pytest
import torch

from avatar_gs.errors import UserError
from avatar_gs.splats.config import LearningRates, SplatsConfig
from avatar_gs.splats.init import surface_splats
from avatar_gs.splats.model import GaussianModel
from avatar_gs.splats.optim import (
    build_optimizers,
    gradients_are_finite,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rates,
    step_all,
)


@pytest.fixture
def model(tube, tube_weights):
    return surface_splats(SplatsConfig(count=50), tube, tube_weights, torch.Generator().manual_seed(0))


def take_step(model, optimizers, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.trainable().values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    step_all(optimizers)


def test_rates_decay_exponentially(model):
    rates = LearningRates(means=1e-2, means_final=1e-4, quats=0.0, quats_final=0.0)
    optimizers = build_optimizers(model, rates)
    set_learning_rates(optimizers, rates, 0.5)
    assert optimizers["means"].param_groups[0]["lr"] == pytest.approx(1e-3)
    assert optimizers["quats"].param_groups[0]["lr"] == 0.0
    assert learning_rate(3.0, 0.3, 1.0) == pytest.approx(0.3)


def test_a_reloaded_optimiser_takes_the_same_steps(model):
    rates = LearningRates()
    optimizers = build_optimizers(model, rates)
    take_step(model, optimizers, 1)
    copy = GaussianModel(model.tensors())
    resumed = build_optimizers(copy, rates)
    load_optimizer_tensors(resumed, {name: value.clone() for name, value in optimizer_tensors(optimizers).items()})
    take_step(model, optimizers, 2)
    take_step(copy, resumed, 2)
    assert all(torch.equal(copy.params[name], model.params[name]) for name in model.params)


def test_a_state_of_other_splats_is_refused(model):
    optimizers = build_optimizers(model, LearningRates())
    take_step(model, optimizers, 1)
    tensors = optimizer_tensors(optimizers)
    tensors["means/exp_avg"] = torch.zeros(3, 3)
    with pytest.raises(UserError, match="means"):
        load_optimizer_tensors(optimizers, tensors)


def test_non_finite_and_missing_gradients_are_seen(model):
    optimizers = build_optimizers(model, LearningRates())
    assert not gradients_are_finite(optimizers)
    for parameter in model.trainable().values():
        parameter.grad = torch.zeros_like(parameter)
    assert gradients_are_finite(optimizers)
    model.params["quats"].grad[3, 1] = float("nan")
    assert not gradients_are_finite(optimizers)


def test_rates_that_cannot_decay_are_refused():
    with pytest.raises(UserError, match=r"splats\.lr\.means_final"):
        LearningRates(means=0.0)
