"""Losses that shape surfaces: how much of a picture is empty, and which way what is seen faces."""

from jaxtyping import Float
from torch import Tensor

from avatar_gs.render.shading import orientation_penalty
from avatar_gs.splats.model import GaussianModel
from avatar_gs.training.config import GeometryConfig
from avatar_gs.training.drawing import enlarged, outward_normals
from avatar_gs.training.scene import Scene

ORIENTATION_START, ORIENTATION_RAMP = 0.01, 1 / 3
"""DreamFusion's weight grows from 1e-4 to 1e-2 over 5,000 of its 15,000 steps."""


def emptiness(alpha: Float[Tensor, "B H W 1"], target: float) -> Float[Tensor, ""]:
    """-min(target, mean transmittance) of each picture (Dream Fields, Jain et al. 2022), averaged over views: a picture
    that is as empty as that gets no gradient."""
    return -(1 - alpha).mean((1, 2, 3)).clamp_max(target).mean()


def geometry_losses(
    config: GeometryConfig,
    model: GaussianModel,
    scene: Scene,
    alpha: Float[Tensor, "B H W 1"],
    *,
    supersample: int,
    progress: float,
    scale: int,
) -> dict[str, Float[Tensor, ""]]:
    """The weighted losses whose weight is not 0, by name: means over pixels and views.

    Args:
        alpha: of the scene's views, rendered with ``supersample``.
        progress: the fraction of the run that is done.
        scale: the factor of every mean (``losses.regulariser_scale``).
    """
    losses = {}
    if config.transmittance:
        losses["transmittance"] = scale * config.transmittance * emptiness(alpha, config.transmittance_target)
    if config.orientation:
        weight = config.orientation * orientation_ramp(progress)
        gaussians = model.pose(scene.posed)
        away = orientation_penalty(gaussians, outward_normals(model, gaussians), enlarged(scene, supersample))
        losses["orientation"] = scale * weight * away.mean()
    return losses


def orientation_ramp(progress: float) -> float:
    """How much of its weight the orientation loss has at a share of the run."""
    return ORIENTATION_START + (1 - ORIENTATION_START) * min(progress / ORIENTATION_RAMP, 1.0)
