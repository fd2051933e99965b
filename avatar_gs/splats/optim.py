"""Optimisers of the splats: one Adam per parameter, as gsplat's densification requires, with decaying rates."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Adam, Optimizer

from avatar_gs.core.device import all_finite
from avatar_gs.core.optim_state import load_optimizer_tensors, optimizer_tensors
from avatar_gs.splats.config import LearningRates
from avatar_gs.splats.model import GaussianModel

BETAS = (0.9, 0.99)
EPS = 1e-15
"""Splat gradients are tiny; Adam's usual 1e-8 would damp them."""
KEY = "{name}/{moment}"
"""Names of the optimisers' tensors in checkpoints."""


def build_optimizers(model: GaussianModel, rates: LearningRates) -> dict[str, Optimizer]:
    """One Adam by the name of each trainable parameter, at the first step's rates."""
    optimizers: dict[str, Optimizer] = {
        name: Adam([parameter], lr=getattr(rates, name), betas=BETAS, eps=EPS, foreach=False)
        for name, parameter in model.trainable().items()
    }
    set_learning_rates(optimizers, rates, 0.0)
    return optimizers


def learning_rate(start: float, end: float, progress: float) -> float:
    """Exponential decay from ``start`` to ``end`` as ``progress`` goes from 0 to 1; 0 stays 0."""
    return start * (end / start) ** progress if start > 0 else 0.0


def set_learning_rates(optimizers: Mapping[str, Optimizer], rates: LearningRates, progress: float) -> None:
    """Set every optimiser's rate for a fraction of the run, 0 to 1."""
    for name, optimizer in optimizers.items():
        optimizer.param_groups[0]["lr"] = learning_rate(getattr(rates, name), getattr(rates, f"{name}_final"), progress)


def step_all(optimizers: Mapping[str, Optimizer], damping: float = 0.0) -> None:
    """One step of every optimiser; gradients are dropped.

    Args:
        damping: above 0, each splat moves only its ``relevance`` of the step: Adam takes full-size steps also for
            splats with a gradient that is mere noise.
    """
    before = [_parameter(optimizer).detach().clone() for optimizer in optimizers.values()] if damping else []
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if damping:
        fraction = relevance(optimizers["sh0"], damping)
        for optimizer, old in zip(optimizers.values(), before, strict=True):
            parameter = _parameter(optimizer).data
            parameter.copy_(torch.lerp(old, parameter, fraction.reshape(-1, *[1] * (old.dim() - 1))))


def relevance(optimizer: Optimizer, damping: float) -> Float[Tensor, " N"]:
    """Relevance of each splat: (its RMS gradient / (damping × the RMS gradient of all))², at most 1.

    Squared gradients are Adam's running means.
    """
    moments = optimizer.state[_parameter(optimizer)]["exp_avg_sq"].flatten(1).mean(1)
    return (moments / (damping**2 * moments.mean()).clamp_min(torch.finfo(moments.dtype).tiny)).clamp_max(1.0)


def zero_grad_all(optimizers: Mapping[str, Optimizer]) -> None:
    """Drop all gradients."""
    for optimizer in optimizers.values():
        optimizer.zero_grad(set_to_none=True)


def optimizer_states(optimizers: Mapping[str, Optimizer]) -> dict[str, Tensor]:
    """The moments and step counts as ``<parameter>/<moment>``; nothing before the first step."""
    tensors = {}
    for name, optimizer in optimizers.items():
        tensors |= optimizer_tensors(optimizer, {name: _parameter(optimizer)}, KEY)
    return tensors


def load_optimizer_states(optimizers: Mapping[str, Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Restore the result of ``optimizer_states``.

    Raises:
        UserError: if the tensors do not fit the parameters.
    """
    for name, optimizer in optimizers.items():
        load_optimizer_tensors(optimizer, {name: _parameter(optimizer)}, tensors, KEY)


def gradients_are_finite(optimizers: Mapping[str, Optimizer], *others: Tensor) -> bool:
    """Whether every parameter has a finite gradient and all ``others`` are; synchronises with the device once."""
    gradients = [_parameter(optimizer).grad for optimizer in optimizers.values()]
    there = [gradient for gradient in gradients if gradient is not None]
    return len(there) == len(gradients) and all_finite([*there, *others])


def _parameter(optimizer: Optimizer) -> Tensor:
    return optimizer.param_groups[0]["params"][0]
