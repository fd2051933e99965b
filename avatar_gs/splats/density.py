"""Densification and pruning for score distillation, on gsplat's operations.

gsplat's ``DefaultStrategy`` grows where the mean screen-space gradient exceeds 2e-4, a threshold for pixel losses. The
scale of a distillation gradient depends on prior, guidance and time step, so here a fixed *fraction* of the splats
grows: those with the largest gradient. Opacities are never reset, which would dissolve the avatar.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gsplat.strategy.ops import duplicate, remove, split
from jaxtyping import Bool, Float
from torch import Tensor
from torch.optim import Optimizer

from avatar_gs.core.errors import UserError
from avatar_gs.splats.config import DensityConfig
from avatar_gs.splats.model import GaussianModel
from avatar_gs.splats.neighbours import Points, components

STATISTICS = ("grad2d", "count")
"""gsplat's running sums: norms of screen-space gradients, and the number of images in which a splat was visible."""
DETACHED_NEIGHBOURS = 12
"""Nearest splats that are tested for contact."""
DETACHED_SIZE = 0.005
"""Groups of at most this fraction of the splats may be detached; a hand has several times as many."""
DETACHED_MOST = 0.1
"""If more than this fraction were detached, splats do not form a surface (yet), and none are."""


@dataclass(frozen=True)
class Refinement:
    """Numbers of splats that one refinement changed."""

    duplicated: int = 0
    split: int = 0
    pruned: int = 0


class DistillationStrategy:
    """Accumulates screen-space gradients in every step, and refines the model when it is due.

    Args:
        config: what to grow and prune.
        total_steps: of the run.
        model: as it starts; its median size is the unit of the config's sizes.
        agreed: maps a mask of splats to the one that all processes of a run use.
    """

    def __init__(
        self,
        config: DensityConfig,
        total_steps: int,
        model: GaussianModel,
        agreed: Callable[[Tensor], Tensor] = lambda mask: mask,
    ) -> None:
        self.config, self.agreed = config, agreed
        self.unit = model.scales().detach().amax(-1).median()
        self.start = round(config.start * total_steps)
        self.stop = round(config.stop * total_steps)
        self.prune_stop = round(config.prune_stop * total_steps)
        self.running: dict[str, Any] = {}

    def before_backward(self, info: dict[str, Any]) -> None:
        """Keep the gradient of the screen positions in the coming backward pass."""
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
        """Accumulate the gradients of a finished optimiser step, and refine if it is due.

        Must be called *after* the optimiser's step, because refinement replaces the parameters and drops gradients.

        Args:
            info: of the step's render; None if the step was skipped.
            split_seed: gsplat's ``split`` samples from torch's global generator, which is forked and seeded with this.

        Raises:
            UserError: if pruning would remove every splat.
        """
        if not self.config.enabled or step >= self.prune_stop:
            return Refinement()
        if info is not None and info["means2d"].grad is not None and step < self.stop:
            self.accumulate(info)
        if step < self.start or (step + 1) % self.config.every:
            return Refinement()
        duplicated = divided = 0
        if step < self.stop and self.running:
            with torch.random.fork_rng():
                torch.manual_seed(split_seed)
                duplicated, divided = self._grow(model, optimizers)
        pruned = self._prune(model, optimizers)
        self.running = {}
        return Refinement(duplicated, divided, pruned)

    @torch.no_grad()
    def accumulate(self, info: Mapping[str, Any]) -> None:
        """Add a step to gsplat's running sums.

        The result has the same bytes as gsplat's own, which gathers the visible splats and so synchronises with a GPU.
        """
        gradient = info["means2d"].grad.clone()
        gradient[..., 0] *= info["width"] / 2.0 * info["n_cameras"]
        gradient[..., 1] *= info["height"] / 2.0 * info["n_cameras"]
        visible = (info["radii"] > 0).all(dim=-1)
        norms = gradient.norm(dim=-1)
        for name in STATISTICS:
            self.running.setdefault(name, norms.new_zeros(norms.shape[1]))
        for norm, here in zip(norms, visible, strict=True):
            self.running["grad2d"] += norm.where(here, 0.0)
            self.running["count"] += here

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
            unwanted |= detached_splats(model.params["means"], sizes, self.config.prune_detached)
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
        """The unit of sizes, and the running sums; those are empty right after a refinement."""
        return {"unit": self.unit} | self.running

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the result of ``tensors``."""
        self.unit = tensors["unit"].to(self.unit.device).clone()
        self.running = {name: tensors[name].to(self.unit.device).clone() for name in STATISTICS if name in tensors}


def largest(values: Float[Tensor, " N"], count: int) -> Bool[Tensor, " N"]:
    """A mask of the ``count`` largest positive values; of equal ones the first."""
    mask = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    if count > 0:
        order = values.sort(descending=True, stable=True).indices[:count]
        mask[order] = values[order] > 0
    return mask


@torch.no_grad()
def detached_splats(means: Float[Tensor, "N 3"], sizes: Float[Tensor, " N"], reach: float) -> Bool[Tensor, " N"]:
    """A mask of the splats in small groups without contact to the rest.

    Args:
        means: in metres.
        sizes: longest standard deviations, in metres.
        reach: two splats are in contact if their distance is below this factor of the sum of their sizes.
    """
    count = len(means)
    distances, nearest = Points(means).nearest(means, DETACHED_NEIGHBOURS + 1)
    one, place = (distances <= reach * (sizes[:, None] + sizes[nearest])).nonzero().unbind(1)
    groups = components(count, one, nearest[one, place])
    loose = torch.bincount(groups, minlength=count)[groups] <= int(DETACHED_SIZE * count)
    return loose & (loose.double().mean() <= DETACHED_MOST)
