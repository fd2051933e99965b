"""Regularisers: what the prior does not see, or sees too late."""

from jaxtyping import Float
from torch import Tensor

from avatar_gs.splats.model import GaussianModel
from avatar_gs.training.config import LossesConfig

SCALE_SLACK = 2.0
"""Splats may grow to so many times the median size at the start before they are held back."""


def sparsity(alpha: Float[Tensor, "B H W 1"]) -> Float[Tensor, ""]:
    """DreamFusion's opacity regulariser, summed over pixels and averaged over views."""
    return (alpha.square() + 0.01).sqrt().sum() / len(alpha)


def haze(alpha: Float[Tensor, "B H W 1"]) -> Float[Tensor, ""]:
    """How far pixels are from solid or empty, summed over pixels and averaged over views."""
    return (alpha * (1 - alpha)).sum() / len(alpha)


def oversize(model: GaussianModel, unit: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The excess of splats' longest axis over ``SCALE_SLACK * unit`` (metres), in units, squared and summed."""
    return (model.scales().amax(-1) / unit - SCALE_SLACK).relu().square().sum()


def stray(model: GaussianModel, margin: float) -> Float[Tensor, ""]:
    """Opacity times the distance from the body's surface beyond ``margin`` (metres), in margins, summed.

    It draws a splat back and makes it fade: one that the pictures want there keeps its opacity against it.
    """
    return (model.opacities() * (model.surface_distance() / margin - 1).relu()).sum()


def regularisers(
    config: LossesConfig, model: GaussianModel, alpha: Float[Tensor, "B H W 1"], unit: Float[Tensor, ""]
) -> dict[str, Float[Tensor, ""]]:
    """The weighted losses that are switched on, by name."""
    losses = {}
    if config.opacity:
        losses["opacity"] = config.opacity * sparsity(alpha)
    if config.haze:
        losses["haze"] = config.haze * haze(alpha)
    if config.scale:
        losses["scale"] = config.scale * oversize(model, unit)
    if config.distance:
        losses["distance"] = config.distance * stray(model, config.distance_margin)
    return losses
