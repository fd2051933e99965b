"""Optimisers of the splats: one Adam for each parameter, as gsplat's densification wants them, with decaying rates."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Adam, Optimizer

from avatar_gs.core.device import all_finite
from avatar_gs.core.errors import UserError
from avatar_gs.splats.config import LearningRates
from avatar_gs.splats.model import TRAINABLE, GaussianModel

BETAS = (0.9, 0.99)
EPS = 1e-15
"""Splat gradients are tiny; Adam's usual 1e-8 would damp them."""
STATE_KEYS = ("step", "exp_avg", "exp_avg_sq")


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
    """Set every optimiser's rate for the share ``progress`` of the run that is done."""
    for name, optimizer in optimizers.items():
        optimizer.param_groups[0]["lr"] = learning_rate(getattr(rates, name), getattr(rates, f"{name}_final"), progress)


def step_all(optimizers: Mapping[str, Optimizer], damping: float = 0.0) -> None:
    """One step of every optimiser; gradients are dropped.

    With ``damping`` above 0 each splat goes only its ``relevance`` of the way: Adam's own steps are as long for a splat
    whose gradient is mere noise as for one that is pulled a hundred times harder.
    """
    held = [_parameter(optimizer).detach().clone() for optimizer in optimizers.values()] if damping else []
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if damping:
        share = relevance(optimizers["sh0"], damping)
        for optimizer, before in zip(optimizers.values(), held, strict=True):
            parameter = _parameter(optimizer).data
            parameter.copy_(torch.lerp(before, parameter, share.reshape(-1, *[1] * (before.dim() - 1))))


def relevance(optimizer: Optimizer, damping: float) -> Float[Tensor, " N"]:
    """How much each splat is meant: (g / (damping · r))², at most 1, with g² Adam's running mean of its squared
    gradient and r² the mean of these over all splats."""
    moments = optimizer.state[_parameter(optimizer)]["exp_avg_sq"].flatten(1).mean(1)
    return (moments / (damping**2 * moments.mean()).clamp_min(torch.finfo(moments.dtype).tiny)).clamp_max(1.0)


def _parameter(optimizer: Optimizer) -> Tensor:
    return optimizer.param_groups[0]["params"][0]


def zero_grad_all(optimizers: Mapping[str, Optimizer]) -> None:
    for optimizer in optimizers.values():
        optimizer.zero_grad(set_to_none=True)


def optimizer_tensors(optimizers: Mapping[str, Optimizer]) -> dict[str, Tensor]:
    """The moments and step counts as ``<parameter>/<key>``; nothing before the first step."""
    tensors = {}
    for name, optimizer in optimizers.items():
        state = optimizer.state.get(optimizer.param_groups[0]["params"][0], {})
        tensors |= {f"{name}/{key}": state[key] for key in STATE_KEYS if key in state}
    return tensors


def load_optimizer_tensors(optimizers: Mapping[str, Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Restore what ``optimizer_tensors`` gave.

    Raises:
        UserError: if the tensors do not fit the parameters.
    """
    for name in TRAINABLE:
        parameter = optimizers[name].param_groups[0]["params"][0]
        found = {key: tensors[f"{name}/{key}"] for key in STATE_KEYS if f"{name}/{key}" in tensors}
        if not found:
            continue
        if len(found) < len(STATE_KEYS) or any(found[key].shape != parameter.shape for key in STATE_KEYS[1:]):
            raise UserError(f"checkpoint: the optimiser state of '{name}' does not fit {tuple(parameter.shape)} splats")
        # Adam keeps its step count on the CPU; the moments follow the parameter
        moments = {key: found[key].to(parameter.device).clone() for key in STATE_KEYS[1:]}
        optimizers[name].state[parameter] = {"step": found["step"].cpu().clone(), **moments}


def gradients_are_finite(optimizers: Mapping[str, Optimizer], *others: Tensor) -> bool:
    """Whether every parameter has a finite gradient, and all of ``others`` is finite; the host waits for them once."""
    gradients = [_parameter(optimizer).grad for optimizer in optimizers.values()]
    there = [gradient for gradient in gradients if gradient is not None]
    return len(there) == len(gradients) and all_finite([*there, *others])
