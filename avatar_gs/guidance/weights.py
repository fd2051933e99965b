"""Classifier-free guidance, the weight w(t), and what happens to a gradient after the residual."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from avatar_gs.guidance.config import GuidanceConfig, Unconditional, Weight


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


def perpendicular(vector: Float[Tensor, "B c h w"], to: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h w"]:
    """What is left of each picture's ``vector`` without its part along ``to``."""
    along = (vector * to).sum((1, 2, 3), keepdim=True) / to.square().sum((1, 2, 3), keepdim=True).clamp_min(1e-12)
    return vector - along * to


@dataclass(frozen=True)
class Cfg:
    """Classifier-free guidance as it is configured: which conditions it asks for, and how it combines them.

    ``perp_neg`` > 0 is Perp-Neg (Armandpour et al. 2023): the unconditional prediction is that of the empty prompt, and
    of the negative prompt's direction only the part perpendicular to the text's is subtracted, so many times.
    """

    scale: float
    away: str = "null"
    rescale: float = 0.0
    perp_neg: float = 0.0

    @classmethod
    def of(cls, config: GuidanceConfig, away: str | None = None, scale: float | None = None) -> "Cfg":
        """A method whose formula names the condition to push away from gives ``away``; likewise ``scale``."""
        if away is None:
            away = {Unconditional.negative: "negative", Unconditional.empty: "null"}[config.unconditional]
        return cls(config.cfg_scale if scale is None else scale, away, config.cfg_rescale, config.perp_neg)

    @property
    def unconditional(self) -> str:
        """The condition that guidance really pushes away from."""
        return "null" if self.perp_neg else self.away

    @property
    def names(self) -> tuple[str, ...]:
        """The conditions that a call needs the predictions of."""
        return ("text", "null", "negative") if self.perp_neg else ("text", self.away)

    def __call__(self, eps: Mapping[str, Float[Tensor, "B c h w"]]) -> Float[Tensor, "B c h w"]:
        """The guided noise prediction."""
        away, towards = eps[self.unconditional], eps["text"]
        if self.perp_neg:
            towards = towards - self.perp_neg * perpendicular(eps["negative"] - away, towards - away)
        return guided(away, towards, self.scale, self.rescale)


def dynamic_threshold(z0: Float[Tensor, "B c h w"], share: float, limit: float) -> Float[Tensor, "B c h w"]:
    """Imagen's dynamic thresholding (Saharia et al. 2022): with s the quantile ``share`` of a picture's magnitudes,
    where s exceeds ``limit`` its entries are clamped to ±s and scaled by ``limit / s``. Others stay as they are."""
    largest = z0.abs().flatten(1).float().quantile(share, dim=1)[:, None, None, None].to(z0)
    return z0.where(largest <= limit, z0.clamp(-largest, largest) * (limit / largest))


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


def distance(
    z: Float[Tensor, "B c h w"],
    target: Float[Tensor, "B c h w"],
    images: Float[Tensor, "B h2 w2 3"] | None = None,
    picture: Float[Tensor, "B H W 3"] | None = None,
    rgb_weight: float = 0.0,
) -> Float[Tensor, ""]:
    """0.5 sum (z - sg(target))^2 / B: with target = z - G its derivative with respect to z is G / B; its value means
    nothing. With ``picture``, as much again for pictures (larger ones are averaged down), times ``rgb_weight``."""
    loss = 0.5 * (z - target.detach()).square().sum() / len(z)
    if images is None or picture is None:
        return loss
    scaled = F.interpolate(images.permute(0, 3, 1, 2), picture.shape[1:3], mode="area").permute(0, 2, 3, 1)
    return loss + rgb_weight * 0.5 * (scaled - picture.detach()).square().sum() / len(z)
