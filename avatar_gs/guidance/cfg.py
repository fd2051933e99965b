"""Classifier-free guidance, with Perp-Neg, CFG-rescale and dynamic thresholding; and clipping of gradients."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from avatar_gs.core.lazy import Float, Tensor


class Unconditional(Enum):
    """The condition that classifier-free guidance extrapolates away from."""

    negative = "negative"
    empty = "empty"


def guided(
    away: Float[Tensor, "B c h w"], towards: Float[Tensor, "B c h w"], scale: float, rescale: float = 0.0
) -> Float[Tensor, "B c h w"]:
    """``away + scale (towards - away)``: classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598).

    Args:
        away: the unconditional prediction.
        towards: the text's prediction.
        scale: 1 returns ``towards``.
        rescale: phi of CFG-rescale (Lin et al. 2023, arXiv:2305.08891): 0 is off; 1 gives each image the standard
            deviation of ``towards``.
    """
    result = away + scale * (towards - away)
    if rescale == 0:
        return result
    deviation = result.std((1, 2, 3), keepdim=True).clamp_min(1e-12)
    return result * (1 - rescale + rescale * towards.std((1, 2, 3), keepdim=True) / deviation)


def perpendicular(vector: Float[Tensor, "B c h w"], to: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h w"]:
    """The component of each image's ``vector`` perpendicular to ``to``."""
    along = (vector * to).sum((1, 2, 3), keepdim=True) / to.square().sum((1, 2, 3), keepdim=True).clamp_min(1e-12)
    return vector - along * to


@dataclass(frozen=True)
class Cfg:
    """Configured classifier-free guidance: the conditions it needs, and how it combines their predictions.

    With ``perp_neg`` above 0 it is Perp-Neg (Armandpour et al. 2023, arXiv:2304.04968): the empty prompt is the
    unconditional condition, and the part of the negative prompt's direction that is perpendicular to the text's is
    subtracted with this weight.
    """

    scale: float
    away: str = "null"
    """Name of the unconditional condition."""
    rescale: float = 0.0
    perp_neg: float = 0.0

    @property
    def unconditional(self) -> str:
        """The condition that guidance extrapolates away from, Perp-Neg included."""
        return "null" if self.perp_neg else self.away

    @property
    def names(self) -> tuple[str, ...]:
        """The conditions whose predictions a call needs."""
        return ("text", "null", "negative") if self.perp_neg else ("text", self.away)

    def __call__(self, eps: Mapping[str, Float[Tensor, "B c h w"]]) -> Float[Tensor, "B c h w"]:
        """The guided noise prediction."""
        away, towards = eps[self.unconditional], eps["text"]
        if self.perp_neg:
            towards = towards - self.perp_neg * perpendicular(eps["negative"] - away, towards - away)
        return guided(away, towards, self.scale, self.rescale)


def dynamic_threshold(z0: Float[Tensor, "B c h w"], fraction: float, limit: float) -> Float[Tensor, "B c h w"]:
    """Dynamic thresholding (Imagen; Saharia et al. 2022, arXiv:2205.11487).

    With s the quantile ``fraction`` of an image's magnitudes: if s exceeds ``limit``, the image is clamped to ±s and
    scaled by ``limit / s``; otherwise it is unchanged.
    """
    largest = z0.abs().flatten(1).float().quantile(fraction, dim=1)[:, None, None, None].to(z0)
    return z0.where(largest <= limit, z0.clamp(-largest, largest) * (limit / largest))


def clean(gradient: Float[Tensor, "B c h w"], clip: float = 0.0) -> Float[Tensor, "B c h w"]:
    """Replace non-finite entries by zero, and clamp each latent pixel's norm over the channels to ``clip`` (0: off)."""
    gradient = gradient.where(gradient.isfinite(), 0.0)
    if clip == 0:
        return gradient
    norm = gradient.norm(dim=1, keepdim=True)
    return gradient * (clip / norm.clamp_min(clip))
