"""Optimiser state as named tensors: training resumes with the same numbers."""

import pytest
import torch

from avatar_gs.core.errors import UserError
from avatar_gs.core.optim_state import load_optimizer_tensors, optimizer_tensors


def adam(steps=0):
    parameters = {name: torch.full((3,), start, requires_grad=True) for name, start in {"a": 1.0, "b": 2.0}.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1)
    for _ in range(steps):
        step(optimizer, parameters)
    return optimizer, parameters


def step(optimizer, parameters):
    optimizer.zero_grad()
    parameters["a"].square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("key", ["adam.{moment}.{name}", "{name}/{moment}"])
def test_restored_optimiser_takes_the_same_steps(key):
    optimizer, parameters = adam(steps=3)
    tensors = optimizer_tensors(optimizer, parameters, key)
    resumed, copies = adam()
    with torch.no_grad():
        copies["a"].copy_(parameters["a"])
    load_optimizer_tensors(resumed, copies, tensors, key)
    step(optimizer, parameters)
    step(resumed, copies)
    assert torch.equal(copies["a"], parameters["a"])


def test_parameters_without_a_step_have_no_tensors():
    assert optimizer_tensors(*adam()) == {}
    assert set(optimizer_tensors(*adam(steps=1))) == {"adam.step.a", "adam.exp_avg.a", "adam.exp_avg_sq.a"}


def test_loading_forgets_the_state_of_parameters_without_tensors():
    optimizer, parameters = adam(steps=2)
    load_optimizer_tensors(optimizer, parameters, {})
    assert not optimizer.state


def test_state_that_does_not_fit_is_an_error():
    optimizer, parameters = adam(steps=1)
    tensors = optimizer_tensors(optimizer, parameters)
    with pytest.raises(UserError, match="'a' does not fit"):
        load_optimizer_tensors(optimizer, parameters, tensors | {"adam.exp_avg.a": torch.zeros(4)})
    del tensors["adam.step.a"]
    with pytest.raises(UserError, match="'a' does not fit"):
        load_optimizer_tensors(optimizer, parameters, tensors)
