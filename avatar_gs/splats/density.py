"""Densification and pruning for score distillation, on gsplat's own operations.

gsplat's ``DefaultStrategy`` grows where the mean screen-space gradient exceeds 2e-4, a threshold for pixel losses. The
scale of a distillation gradient depends on prior, guidance and time step, so here the *share* of splats that grow is
fixed, and they are those of the largest gradient. Opacities are never reset: that would dissolve the avatar.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gsplat.strategy import DefaultStrategy
from gsplat.strategy.ops import duplicate, remove, split
from jaxtyping import Bool, Float
from torch import Tensor
from torch.optim import Optimizer

from avatar_gs.core.errors import UserError
from avatar_gs.splats.config import DensityConfig
from avatar_gs.splats.model import GaussianModel
from avatar_gs.splats.neighbours import Points, components

STATISTICS = ("grad2d", "count")
"""gsplat's running sums: screen gradient, and in how many pictures a splat was seen."""


@dataclass(frozen=True)
class Refinement:
    """What one refinement did, in splats."""

    duplicated: int = 0
    split: int = 0
    pruned: int = 0


class DistillationStrategy(DefaultStrategy):
    """Accumulates gsplat's statistics every step and refines the model when the step is due."""

    def __init__(
        self,
        config: DensityConfig,
        total_steps: int,
        model: GaussianModel,
        agreed: Callable[[Tensor], Tensor] = lambda mask: mask,
    ) -> None:
        """``model`` as it starts: its median size is the unit of the config's sizes. ``agreed`` gives the masks of what
        grows and what goes that all processes of a run follow."""
        super().__init__()
        self.config, self.agreed = config, agreed
        self.unit = model.scales().detach().amax(-1).median()
        self.start = round(config.start * total_steps)
        self.stop = round(config.stop * total_steps)
        self.prune_stop = round(config.prune_stop * total_steps)
        self.running: dict[str, Any] = self.initialize_state()

    def before_backward(self, info: dict[str, Any]) -> None:
        """Keep the screen positions' gradient of the backward pass to come."""
        if info["means2d"].requires_grad:
            info["means2d"].retain_grad()

    def after_step(
        self,
        model: GaussianModel,
        optimizers: dict[str, Optimizer],
        step: int,
        info: Mapping[str, Any] | None,
        split_seed: int,
    ) -> Refinement:
        """Take in the gradients of a finished optimiser step (``info`` is None where it was skipped); refine if due.

        Must come *after* the optimiser's step, because refinement replaces the parameters and drops gradients.
        gsplat's ``split`` draws from torch's global generator, which is therefore forked and seeded.

        Raises:
            UserError: if pruning would leave no splat.
        """
        if not self.config.enabled or step >= self.prune_stop:
            return Refinement()
        if info is not None and info["means2d"].grad is not None and step < self.stop:
            self._update_state(model.params, self.running, dict(info))
        if step < self.start or (step + 1) % self.config.every:
            return Refinement()
        duplicated = divided = 0
        if step < self.stop and self.running["grad2d"] is not None:
            with torch.random.fork_rng():
                torch.manual_seed(split_seed)
                duplicated, divided = self._grow(model, optimizers)
        pruned = self._prune(model, optimizers)
        self.running = self.initialize_state()
        return Refinement(duplicated, divided, pruned)

    @torch.no_grad()
    def _update_state(self, params: Any, state: dict[str, Any], info: dict[str, Any], packed: bool = False) -> None:
        """gsplat's running sums, splat by splat: gsplat itself gathers the splats that are seen, for whose number the
        host waits. Adds in the same order, so to the same bytes."""
        gradient = info["means2d"].grad.clone()
        gradient[..., 0] *= info["width"] / 2.0 * info["n_cameras"]
        gradient[..., 1] *= info["height"] / 2.0 * info["n_cameras"]
        seen = (info["radii"] > 0).all(dim=-1)
        lengths = gradient.norm(dim=-1)
        for name in STATISTICS:
            if state[name] is None:
                state[name] = lengths.new_zeros(lengths.shape[1])
        for length, here in zip(lengths, seen, strict=True):
            state["grad2d"] += length.where(here, 0.0)
            state["count"] += here

    @torch.no_grad()
    def _grow(self, model: GaussianModel, optimizers: dict[str, Optimizer]) -> tuple[int, int]:
        gradient = self.running["grad2d"] / self.running["count"].clamp_min(1)
        chosen = largest(gradient, min(round(self.config.grow_share * len(model)), self.config.max_splats - len(model)))
        is_large = model.scales().amax(-1) > self.config.split_scale * self.unit
        to_duplicate, to_split = self.agreed(chosen & ~is_large), self.agreed(chosen & is_large)
        duplicated, divided = int(to_duplicate.sum()), int(to_split.sum())
        if duplicated:
            duplicate(params=model.params, optimizers=optimizers, state=self.running, mask=to_duplicate)
            to_split = torch.cat([to_split, to_split.new_zeros(duplicated)])
        if divided:
            split(params=model.params, optimizers=optimizers, state=self.running, mask=to_split)
        return duplicated, divided

    @torch.no_grad()
    def _prune(self, model: GaussianModel, optimizers: dict[str, Optimizer]) -> int:
        unwanted = (
            (model.opacities() < self.config.prune_opacity)
            | (model.scales().amax(-1) > self.config.prune_scale * self.unit)
            | (model.surface_distance() > self.config.prune_distance)
        )
        if self.config.prune_detached:
            sizes = model.scales().amax(-1)
            unwanted |= detached(model.params["means"], sizes, self.config.prune_detached)
        unwanted = self.agreed(unwanted)
        pruned = int(unwanted.sum())
        if pruned == len(model):
            raise UserError(
                "density: pruning would remove every splat (all below prune_opacity="
                f"{self.config.prune_opacity}, above prune_scale={self.config.prune_scale} or beyond prune_distance="
                f"{self.config.prune_distance} m); lower these limits, or splats.lr.opacities"
            )
        if pruned:
            remove(params=model.params, optimizers=optimizers, state=self.running, mask=unwanted)
        return pruned

    def tensors(self) -> dict[str, Tensor]:
        """The unit of sizes and the running statistics, which are empty right after a refinement."""
        statistics = {name: self.running[name] for name in STATISTICS if self.running[name] is not None}
        return {"unit": self.unit} | statistics

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what ``tensors`` gave."""
        self.unit = tensors["unit"].to(self.unit.device).clone()
        statistics = {name: tensors[name].to(self.unit.device).clone() for name in STATISTICS if name in tensors}
        self.running = self.initialize_state() | statistics


def largest(values: Float[Tensor, " N"], count: int) -> Bool[Tensor, " N"]:
    """A mask of the ``count`` largest positive values; of equal ones the first."""
    mask = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    if count > 0:
        order = values.sort(descending=True, stable=True).indices[:count]
        mask[order] = values[order] > 0
    return mask


NEIGHBOURS = 12
SMALL = 0.005
"""A group of at most this share of the splats is taken for loose; a hand has several times as many."""
SCATTERED = 0.1
"""Where more than this share would be loose, splats do not make up a surface (yet), and none is."""


@torch.no_grad()
def detached(means: Float[Tensor, "N 3"], sizes: Float[Tensor, " N"], reach: float) -> Bool[Tensor, " N"]:
    """Which splats belong to a small group apart from all the rest.

    Two splats touch if they are less than ``reach`` times the sum of their ``sizes`` (the longest standard deviation,
    metres) apart; of each splat, the ``NEIGHBOURS`` nearest are looked at.
    """
    count = len(means)
    distances, nearest = Points(means).nearest(means, NEIGHBOURS + 1)
    one, place = (distances <= reach * (sizes[:, None] + sizes[nearest])).nonzero().unbind(1)
    groups = components(count, one, nearest[one, place])
    loose = torch.bincount(groups, minlength=count)[groups] <= int(SMALL * count)
    return loose & (loose.double().mean() <= SCATTERED)
