"""Classifier-free guidance, the weight w(t), and what happens to a gradient after the residual."""

from jaxtyping import Float
from torch import Tensor

from avatar_gs.guidance.config import Weight


def guided(
    away: Float[Tensor, "B c h w"], towards: Float[Tensor, "B c h w"], scale: float, rescale: float = 0.0
) -> Float[Tensor, "B c h w"]:
    """``away + scale (towards - away)``: ``scale`` is the true scale (1 is ``towards`` itself).

    ``rescale`` is phi of Lin et al. 2023: it draws the spread of the result back to that of ``towards``.
    """
    result = away + scale * (towards - away)
    if rescale == 0:
        return result
    spread = result.std((1, 2, 3), keepdim=True).clamp_min(1e-12)
    return result * (1 - rescale + rescale * towards.std((1, 2, 3), keepdim=True) / spread)


def weight(kind: Weight, alpha: Float[Tensor, "B 1 1 1"], sigma: Float[Tensor, "B 1 1 1"]) -> Float[Tensor, "B 1 1 1"]:
    """w(t) of each picture."""
    return {
        Weight.sigma_squared: lambda: sigma**2,
        Weight.one: lambda: sigma * 0 + 1,
        Weight.alpha: lambda: alpha,
        Weight.sigma_over_alpha: lambda: sigma / alpha,
        Weight.alpha_over_sigma: lambda: alpha / sigma,
        Weight.one_over_alpha: lambda: 1 / alpha,
    }[kind]()


def clean(gradient: Float[Tensor, "B c h w"], clip: float = 0.0) -> Float[Tensor, "B c h w"]:
    """Non-finite entries become zero (not float16's largest number), then each latent pixel's norm over the channels is
    held to ``clip`` (0: not at all)."""
    gradient = gradient.where(gradient.isfinite(), 0.0)
    if clip == 0:
        return gradient
    norm = gradient.norm(dim=1, keepdim=True)
    return gradient * (clip / norm.clamp_min(clip))


def distillation_loss(z: Float[Tensor, "B c h w"], gradient: Float[Tensor, "B c h w"]) -> Float[Tensor, ""]:
    """0.5 sum (z - sg(z - G))^2 / B: its derivative with respect to z is G / B; its value means nothing."""
    return 0.5 * (z - (z - gradient).detach()).square().sum() / len(z)
