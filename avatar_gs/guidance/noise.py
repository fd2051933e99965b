"""Noising latents, with randomness that belongs to each picture rather than to the batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatar_gs.types import Prior


@dataclass(frozen=True)
class Noised:
    """Latents at a noise level: all that a residual sees of the avatar. No gradient leads back to the pictures.

    ``reference`` is what the noiser offers for subtraction (the noise itself, when it is drawn independently).
    """

    z: Float[Tensor, "B c h w"]
    z_t: Float[Tensor, "B c h w"]
    t: Int[Tensor, " B"]
    reference: Float[Tensor, "B c h w"]
    alpha: Float[Tensor, "B 1 1 1"]
    sigma: Float[Tensor, "B 1 1 1"]

    @property
    def sigma_over_alpha(self) -> Float[Tensor, " B"]:
        return (self.sigma / self.alpha).flatten()

    def denoised(self, eps: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h w"]:
        """The clean latents that a noise prediction implies."""
        return (self.z_t - self.sigma * eps) / self.alpha


def picture_generators(generator: torch.Generator, batch: int) -> list[torch.Generator]:
    """A generator for each picture: four batches of one then draw exactly what one batch of four draws."""
    seeds = torch.randint(0, 2**62, (batch,), generator=generator, device=generator.device).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def uniforms(generators: Sequence[torch.Generator]) -> Float[Tensor, " B"]:
    """One draw from [0, 1) a picture."""
    return torch.cat([torch.rand(1, generator=generator) for generator in generators])


def independent(
    prior: Prior, z: Float[Tensor, "B c h w"], t: Int[Tensor, " B"], generators: Sequence[torch.Generator]
) -> Noised:
    """z_t = alpha z + sigma eps with fresh noise for every picture; the reference is eps."""
    noise = torch.stack([torch.randn(z.shape[1:], generator=generator) for generator in generators])
    eps = noise.to(z)
    alpha, sigma = (value[:, None, None, None].to(z) for value in (prior.alpha(t), prior.sigma(t)))
    return Noised(z, alpha * z + sigma * eps, t, eps, alpha, sigma)
