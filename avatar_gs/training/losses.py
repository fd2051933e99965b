"""Regularisers: means over pixels or splats, in the unit of the guidance loss."""

from jaxtyping import Float
from torch import Tensor

from avatar_gs.protocols import Prior
from avatar_gs.render.shading import orientation_penalty
from avatar_gs.splats.model import GaussianModel
from avatar_gs.training.config import GeometryConfig, LossesConfig
from avatar_gs.training.rendering import outward_normals
from avatar_gs.training.scene import Scene

SCALE_SLACK = 2.0
"""Splats may grow to this multiple of the median initial size without penalty."""
ORIENTATION_START, ORIENTATION_RAMP = 0.01, 1 / 3
"""DreamFusion's weight grows from 1e-4 to 1e-2 over 5,000 of its 15,000 steps."""


def regulariser_scale(prior: Prior) -> int:
    """The factor of every regulariser in the total loss: the number of latent elements of one view.

    The guidance loss (``guidance.distill.distance``) is half the squared gradient, summed over these elements and
    averaged over views. With this factor, the weight of a mean does not depend on prior, image size, supersampling,
    batch and number of splats.
    """
    return prior.latent_channels * prior.latent_size**2


def sparsity(alpha: Float[Tensor, "B H W 1"]) -> Float[Tensor, ""]:
    """DreamFusion's opacity regulariser sqrt(alpha² + 0.01), the mean over pixels and views."""
    return (alpha.square() + 0.01).sqrt().mean()


def haze(alpha: Float[Tensor, "B H W 1"]) -> Float[Tensor, ""]:
    """alpha (1 - alpha), the mean over pixels and views: 0 where all pixels are opaque or empty."""
    return (alpha * (1 - alpha)).mean()


def oversize(model: GaussianModel, unit: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The squared excess of each splat's longest axis over ``SCALE_SLACK * unit``, the mean over splats.

    Args:
        unit: median initial size of the splats in metres; the excess is measured in it.
    """
    return (model.scales().amax(-1) / unit - SCALE_SLACK).relu().square().mean()


def stray(model: GaussianModel, margin: float) -> Float[Tensor, ""]:
    """Opacity times the distance from the body's surface beyond ``margin``, the mean over splats.

    It moves splats back and fades them, unless guidance holds their opacity.

    Args:
        margin: in metres; the distance beyond it is measured in margins.
    """
    return (model.opacities() * (model.surface_distance() / margin - 1).relu()).mean()


def emptiness(alpha: Float[Tensor, "B H W 1"], target: float) -> Float[Tensor, ""]:
    """-min(target, mean transmittance) of each image (Dream Fields, Jain et al. 2022), averaged over views.

    Images with at least the target transmittance get no gradient.
    """
    return -(1 - alpha).mean((1, 2, 3)).clamp_max(target).mean()


def regularisers(
    config: LossesConfig,
    model: GaussianModel,
    alpha: Float[Tensor, "B H W 1"],
    unit: Float[Tensor, ""],
    *,
    scale: int,
) -> dict[str, Float[Tensor, ""]]:
    """The weighted regularisers with a weight other than 0, by name.

    Args:
        alpha: of the rendered views.
        unit: median initial size of the splats, in metres.
        scale: the factor of every mean (``regulariser_scale``).
    """
    losses = {}
    if config.opacity:
        losses["opacity"] = scale * config.opacity * sparsity(alpha)
    if config.haze:
        losses["haze"] = scale * config.haze * haze(alpha)
    if config.scale:
        losses["scale"] = scale * config.scale * oversize(model, unit)
    if config.distance:
        losses["distance"] = scale * config.distance * stray(model, config.distance_margin)
    return losses


def geometry_losses(
    config: GeometryConfig,
    model: GaussianModel,
    scene: Scene,
    alpha: Float[Tensor, "B H W 1"],
    *,
    progress: float,
    scale: int,
) -> dict[str, Float[Tensor, ""]]:
    """The weighted losses on surfaces with a weight other than 0, by name.

    Args:
        alpha: of the rendered views.
        progress: fraction of the run that is done.
        scale: the factor of every mean (``regulariser_scale``).
    """
    losses = {}
    if config.transmittance:
        losses["transmittance"] = scale * config.transmittance * emptiness(alpha, config.transmittance_target)
    if config.orientation:
        # Posed for this loss alone: sharing the render's pose would sum gradients in another order, to other bytes.
        gaussians = model.pose(scene.posed)
        penalty = orientation_penalty(gaussians, outward_normals(model, gaussians), scene.cameras)
        losses["orientation"] = scale * (config.orientation * orientation_ramp(progress)) * penalty.mean()
    return losses


def orientation_ramp(progress: float) -> float:
    """The fraction of its weight that the orientation loss has at a fraction of the run."""
    return ORIENTATION_START + (1 - ORIENTATION_START) * min(progress / ORIENTATION_RAMP, 1.0)
