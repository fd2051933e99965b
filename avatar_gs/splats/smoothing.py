"""Colours without speckles: each splat's colour is drawn towards those of its neighbours.

A latent prior does not see the finest grain of a picture, so it does not correct it: there, the gradient of a colour is
noise, of which Adam makes steps as long as any, and colours drift apart. After each of Adam's steps, colours therefore
take a shorter one down their total variation over neighbouring splats (Rudin, Osher and Fatemi 1992), apart from Adam
as in decoupled weight decay (Loshchilov and Hutter 2019): within the loss, it would count by the unknown scale of the
guidance's gradient. Total variation removes what one splat shows alone, and leaves an edge between two colours.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatar_gs.splats.config import SmoothingConfig
from avatar_gs.splats.model import GaussianModel
from avatar_gs.splats.neighbours import Points

CORNER = 0.05
"""Differences (SH units; 0.014 of a colour) below which the absolute value is rounded off (Charbonnier et al. 1994)."""
NORMAL_REACH = 0.02
"""Metres: splats on surfaces that face opposite ways count as at least twice this far apart, so that the two sides of
a finger are no neighbours."""
KEYS = ("neighbours", "share")


class ColorSmoother:
    """Knows each splat's neighbours, and makes the step. ``refresh`` it whenever splats came, went or moved far."""

    def __init__(self, config: SmoothingConfig, model: GaussianModel) -> None:
        self.config = config
        self.neighbours: Int[Tensor, "N K"]
        self.share: Float[Tensor, " N"]
        self.refresh(model)

    @torch.no_grad()
    def refresh(self, model: GaussianModel) -> None:
        """Look up every splat's neighbours again (some 10 ms for 8000 splats on a CPU)."""
        if self.config.strength:
            means, normals = model.params["means"].detach(), model.params["normals"].detach()
            self.neighbours, self.share = nearest(means, normals, self.config)

    @torch.no_grad()
    def step(self, model: GaussianModel, learning_rate: float) -> None:
        """One step of ``strength`` times the colours' ``learning_rate``, shorter where splats lie close."""
        if self.config.strength:
            colors = model.params["sh0"][:, 0]
            length = self.config.strength * learning_rate * self.share[:, None]
            colors += length * pull(colors, self.neighbours)

    def tensors(self) -> dict[str, Tensor]:
        """What the next steps depend on; empty where it is switched off."""
        return {name: getattr(self, name) for name in KEYS} if self.config.strength else {}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what ``tensors`` gave."""
        for name in KEYS if self.config.strength else ():
            setattr(self, name, tensors[name].to(getattr(self, name).device).clone())


def nearest(
    means: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"], config: SmoothingConfig
) -> tuple[Int[Tensor, "N K"], Float[Tensor, " N"]]:
    """Each splat's ``neighbours`` nearest ones and itself (fewer if there are not so many), and its share of the full
    strength: its mean distance to them over the median of all splats', at most 1, to the power ``detail``."""
    places = torch.cat([means, NORMAL_REACH * normals], -1)
    distances, index = Points(places).nearest(places, config.neighbours + 1)
    spacing = distances.float().mean(-1).clamp_min(1e-6)
    share = (spacing / spacing.median()).clamp(max=1) ** config.detail
    return index, share


def pull(colors: Float[Tensor, "N C"], neighbours: Int[Tensor, "N K"]) -> Float[Tensor, "N C"]:
    """The direction in which each colour's mean difference to its neighbours falls; each channel within ±1.

    It is minus the gradient of ``mean_k sqrt(d_k² + CORNER²)``, d_k the difference to the k-th neighbour.
    """
    difference = colors[neighbours] - colors[:, None]
    return (difference / (difference.square() + CORNER**2).sqrt()).mean(1)
