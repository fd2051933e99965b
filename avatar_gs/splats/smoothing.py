"""Smoothing of colours over neighbouring splats, against speckles.

A latent prior is blind to the finest detail: there, the colour gradient is mostly noise, which Adam normalises to
full-size steps, and colours drift apart. After each of Adam's steps, colours therefore take a smaller step down their
total variation over neighbouring splats (Rudin, Osher and Fatemi 1992). It is decoupled from Adam as in decoupled
weight decay (Loshchilov and Hutter 2019), because within the loss, its effect would depend on the unknown scale of the
guidance gradient. Total variation removes single outliers and keeps edges between two colours.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatar_gs.splats.config import SmoothingConfig
from avatar_gs.splats.model import GaussianModel
from avatar_gs.splats.neighbours import Points

CORNER = 0.05
"""Difference in SH units (0.014 of a colour) below which the absolute value is smoothed (Charbonnier et al. 1994)."""
NORMAL_REACH = 0.02
"""Metres per unit of normal in distances: splats on opposite surfaces are at least twice this far apart, so that the
two sides of a finger are not neighbours."""
KEYS = {"neighbours": "neighbours", "strength": "share"}
"""Keys in checkpoints by attribute."""


class ColorSmoother:
    """Each splat's neighbours, and the smoothing step. ``refresh`` after splats were added, removed or moved far."""

    def __init__(self, config: SmoothingConfig, model: GaussianModel) -> None:
        self.config = config
        self.neighbours: Int[Tensor, "N K"]
        self.strength: Float[Tensor, " N"]
        self.refresh(model)

    @torch.no_grad()
    def refresh(self, model: GaussianModel) -> None:
        """Find every splat's neighbours (about 10 ms for 8000 splats on a CPU)."""
        if self.config.strength:
            means, normals = model.params["means"].detach(), model.params["normals"].detach()
            self.neighbours, self.strength = nearest(means, normals, self.config)

    @torch.no_grad()
    def step(self, model: GaussianModel, learning_rate: float) -> None:
        """One step of ``strength`` times the colours' ``learning_rate``, smaller where splats lie close together."""
        if self.config.strength:
            colors = model.params["sh0"][:, 0]
            step = self.config.strength * learning_rate * self.strength[:, None]
            colors += step * pull(colors, self.neighbours)

    def tensors(self) -> dict[str, Tensor]:
        """The state that the next steps depend on; empty if it is off."""
        return {key: getattr(self, name) for name, key in KEYS.items()} if self.config.strength else {}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the result of ``tensors``."""
        for name, key in KEYS.items() if self.config.strength else ():
            setattr(self, name, tensors[key].to(getattr(self, name).device).clone())


def nearest(
    means: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"], config: SmoothingConfig
) -> tuple[Int[Tensor, "N K"], Float[Tensor, " N"]]:
    """Neighbours and strength of each splat.

    Returns:
        Indices of the splat itself and its ``neighbours`` nearest ones (or all, if there are fewer), and the fraction
        of the full strength: (mean distance to them / the median of this over all splats), at most 1, to the power
        ``detail``.
    """
    places = torch.cat([means, NORMAL_REACH * normals], -1)
    distances, index = Points(places).nearest(places, config.neighbours + 1)
    spacing = distances.float().mean(-1).clamp_min(1e-6)
    return index, (spacing / spacing.median()).clamp(max=1) ** config.detail


def pull(colors: Float[Tensor, "N C"], neighbours: Int[Tensor, "N K"]) -> Float[Tensor, "N C"]:
    """The direction in which each colour's mean difference to its neighbours decreases; each channel within ±1.

    Minus the gradient of ``mean_k sqrt(d_k² + CORNER²)``, d_k the difference to the k-th neighbour.
    """
    difference = colors[neighbours] - colors[:, None]
    return (difference / (difference.square() + CORNER**2).sqrt()).mean(1)
