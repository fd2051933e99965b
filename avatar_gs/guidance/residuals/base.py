"""What every method is given, and what it gives back. A method is one small file beside this one.

To add a method: write ``residuals/<method>.py`` with a class that follows ``Method`` and a
``build(config, prior, conditions)``, and add one line to ``Method`` in ``guidance/config.py`` and one to ``BUILDERS``
in ``guidance/distill.py``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from avatar_gs.guidance.noise import Noised
from avatar_gs.types import Prior


@dataclass(frozen=True)
class Context:
    """The circumstances of one step. ``progress`` in [0, 1] counts from the end of the warm-up."""

    conditions: Mapping[str, Float[Tensor, "B L d"]]
    buckets: Sequence[str]
    step: int
    progress: float
    warming_up: bool


@dataclass(frozen=True)
class Residual:
    """A method's answer, before the weight.

    ``delta``: the difference of noise predictions that becomes the gradient. ``eps_hat``: the guided prediction behind
    it, for a look at the clean picture (None: there is none). ``auxiliary``: what the method's own parameters learn
    from, with its graph. ``logs``: detached scalars.
    """

    delta: Float[Tensor, "B c h w"]
    eps_hat: Float[Tensor, "B c h w"] | None = None
    auxiliary: Float[Tensor, ""] | None = None
    logs: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)


@runtime_checkable
class Learnable(Protocol):
    """A method's own parameters with their optimiser; the state is tensors only."""

    def update(self, loss: Float[Tensor, ""]) -> None: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


@runtime_checkable
class Method(Protocol):
    """The only code that belongs to one method. It runs without gradients and may enable them for its learnable."""

    warmup: float
    """The share of the run in which only ``learnable`` learns."""
    learnable: Learnable | None

    def __call__(self, noised: Noised, predict: "Predictor", context: Context) -> Residual: ...


class Predictor:
    """The prior under the pose maps of this step: noise predictions for named conditions, in ONE batched call."""

    def __init__(self, prior: Prior, control: Float[Tensor, "B H W 3"] | None) -> None:
        self.prior = prior
        self.control = control

    def __call__(
        self,
        noised: Noised,
        conditions: Mapping[str, Float[Tensor, "B L d"]],
        where: Mapping[str, Bool[Tensor, " B"]] | None = None,
    ) -> dict[str, Float[Tensor, "B c h w"]]:
        """A prediction for each condition; pictures outside ``where[name]`` are not computed and come back as zero."""
        everything = torch.ones(len(noised.t), dtype=torch.bool)
        picks = {name: (where or {}).get(name, everything).cpu().nonzero().flatten() for name in conditions}
        index = torch.cat(list(picks.values())).to(noised.t.device)
        cond = torch.cat([conditions[name][pick.to(noised.t.device)] for name, pick in picks.items()])
        control = None if self.control is None else self.control[index]
        eps = self.prior.eps(noised.z_t[index], noised.t[index], cond, control).to(noised.z_t)
        parts = eps.split([len(pick) for pick in picks.values()])
        return {
            name: part if len(pick) == len(noised.t) else _scatter(part, pick, len(noised.t))
            for (name, pick), part in zip(picks.items(), parts, strict=True)
        }


def _scatter(part: Tensor, pick: Tensor, batch: int) -> Tensor:
    return part.new_zeros(batch, *part.shape[1:]).index_copy(0, pick.to(part.device), part)
