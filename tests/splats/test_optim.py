"""Learning rates decay as configured, and optimiser states survive a checkpoint."""

import pytest
import torch

from avatar_gs.core.errors import UserError
from avatar_gs.splats.config import LearningRates, SplatsConfig
from avatar_gs.splats.model import GaussianModel
from avatar_gs.splats.optim import (
    build_optimizers,
    gradients_are_finite,
    learning_rate,
    load_optimizer_states,
    optimizer_states,
    set_learning_rates,
    step_all,
)
from avatar_gs.splats.surface import surface_splats


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
    load_optimizer_states(resumed, {name: value.clone() for name, value in optimizer_states(optimizers).items()})
    take_step(model, optimizers, 2)
    take_step(copy, resumed, 2)
    assert all(torch.equal(copy.params[name], model.params[name]) for name in model.params)


def test_a_state_of_other_splats_is_refused(model):
    optimizers = build_optimizers(model, LearningRates())
    take_step(model, optimizers, 1)
    tensors = optimizer_states(optimizers)
    tensors["means/exp_avg"] = torch.zeros(3, 3)
    with pytest.raises(UserError, match="means"):
        load_optimizer_states(optimizers, tensors)


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


def moved_by_weak_and_strong(model, damping):
    """How far the first half of the splats goes, pulled a twentieth as hard as the other half: by parameter, the two
    means over some steps."""
    before = {name: value.clone() for name, value in model.tensors().items()}
    weak = torch.arange(len(model)) < len(model) // 2
    optimizers = build_optimizers(model, LearningRates())
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.trainable().values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            parameter.grad[weak] *= 0.05
        step_all(optimizers, damping)
    moved = {name: (model.params[name].detach() - before[name]).abs() for name in model.trainable()}
    return {name: (float(far[weak].mean()), float(far[~weak].mean())) for name, far in moved.items()}


def test_damping_holds_splats_with_small_gradients(model):
    copy = GaussianModel({name: value.clone() for name, value in model.tensors().items()})
    free, damped = moved_by_weak_and_strong(model, 0.0), moved_by_weak_and_strong(copy, 0.5)
    for name, (weak, strong) in damped.items():
        assert free[name][0] > 0.5 * free[name][1], "Adam moves both as far"
        assert weak < 0.1 * strong and 0.5 * free[name][1] < strong < 1.1 * free[name][1], name


def test_damped_splats_without_a_gradient_are_unchanged(model):
    before = {name: value.clone() for name, value in model.tensors().items()}
    optimizers = build_optimizers(model, LearningRates())
    for parameter in model.trainable().values():
        parameter.grad = torch.zeros_like(parameter)
    step_all(optimizers, 0.5)
    assert all(torch.equal(model.params[name], before[name]) for name in model.params)
