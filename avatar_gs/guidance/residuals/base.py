"""What every method is given, and what it gives back. A method is one small file beside this one.

To add a method: write ``residuals/<method>.py`` with a class that follows ``Method`` and a
``build(config, prior, conditions)``, and add one line to ``Method`` in ``guidance/config.py`` and one to ``BUILDERS``
in ``guidance/distill.py``.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from avatar_gs.core.device import to_device
from avatar_gs.guidance.noise import Noised, independent
from avatar_gs.protocols import Prior


@dataclass(frozen=True)
class Context:
    """The circumstances of one step. ``progress`` in [0, 1] counts from the end of the warm-up.

    ``t``: each image's noise level, on the host. ``generators``: one an image, all the randomness there is.
    ``source``: the latents that an editing method starts from, of the same views (their prompt is the condition
    ``source``). ``cameras``: ``T_camera_world`` of each, flat.
    """

    conditions: Mapping[str, Float[Tensor, "B L d"]]
    buckets: Sequence[Hashable]
    step: int
    progress: float
    warming_up: bool
    t: Int[Tensor, " B"]
    generators: Sequence[torch.Generator] = ()
    source: Float[Tensor, "B c h w"] | None = None
    cameras: Float[Tensor, "B 16"] | None = None

    def asked(self, *names: str) -> dict[str, Float[Tensor, "B L d"]]:
        """The conditions of these names, each once."""
        return {name: self.conditions[name] for name in names}


@dataclass(frozen=True)
class Residual:
    """A method's answer, before the weight.

    ``delta``: the difference of noise predictions that becomes the gradient. ``eps_hat``: the guided prediction behind
    it, for a look at the clean picture (None: there is none). ``auxiliary``: what the method's own parameters learn
    from, with its graph. ``unweighted``: a gradient on the latents that w(t) does not touch. ``logs``: detached
    scalars.
    """

    delta: Float[Tensor, "B c h w"]
    eps_hat: Float[Tensor, "B c h w"] | None = None
    auxiliary: Float[Tensor, ""] | None = None
    unweighted: Float[Tensor, "B c h w"] | None = None
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

    def noise(
        self, z: Float[Tensor, "B c h w"], t: Int[Tensor, " B"], predict: "Predictor", context: Context
    ) -> Noised: ...

    def __call__(self, noised: Noised, predict: "Predictor", context: Context) -> Residual: ...


class Plain:
    """What most methods share: nothing to learn, and fresh noise."""

    warmup = 0.0
    learnable: Learnable | None = None

    def noise(
        self, z: Float[Tensor, "B c h w"], t: Int[Tensor, " B"], predict: "Predictor", context: Context
    ) -> Noised:
        return independent(predict.prior, z, t, context.generators)


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
        """A prediction for each condition; pictures outside ``where[name]`` are not computed and come back as zero.
        Masks are best on the CPU: the host would wait for others."""
        return self.together({name: (noised, cond) for name, cond in conditions.items()}, where)

    def together(
        self,
        asked: Mapping[str, tuple[Noised, Float[Tensor, "B L d"]]],
        where: Mapping[str, Bool[Tensor, " B"]] | None = None,
    ) -> dict[str, Float[Tensor, "B c h w"]]:
        """The same for noised latents that differ from name to name."""
        first = next(iter(asked.values()))[0]
        batch = len(first.t)
        picks = {name: picked((where or {}).get(name), first.t.device) for name in asked}

        def rows(name: str, value: Tensor) -> Tensor:
            pick = picks[name]
            return value if pick is None else value[pick]

        z_t = torch.cat([rows(name, noised.z_t) for name, (noised, _) in asked.items()])
        t = torch.cat([rows(name, noised.t) for name, (noised, _) in asked.items()])
        cond = torch.cat([rows(name, cond) for name, (_, cond) in asked.items()])
        control = None if self.control is None else torch.cat([rows(name, self.control) for name in asked])
        sizes = [batch if pick is None else len(pick) for pick in picks.values()]
        parts = self.prior.eps(z_t, t, cond, control).to(first.z_t).split(sizes)
        return {
            name: part if pick is None else _scatter(part, pick, batch)
            for (name, pick), part in zip(picks.items(), parts, strict=True)
        }


def picked(mask: Bool[Tensor, " B"] | None, device: torch.device) -> Int[Tensor, " b"] | None:
    """The indices of the images that a mask selects, on a device; None where it selects all of them. The host waits
    only for a mask that is on a GPU."""
    if mask is None:
        return None
    places = mask.cpu().nonzero().flatten()
    return None if len(places) == len(mask) else to_device(places, device)


def _scatter(part: Tensor, pick: Tensor, batch: int) -> Tensor:
    return part.new_zeros(batch, *part.shape[1:]).index_copy(0, pick, part)
