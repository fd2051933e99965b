"""Noising latents, with randomness that belongs to each picture rather than to the batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatar_gs.core.device import to_device
from avatar_gs.protocols import Prior


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


def noise_ratios(prior: Prior) -> Float[Tensor, " T"]:
    """sigma / alpha at every timestep of the prior, on the host: what depends on it is decided without asking a GPU."""
    t = torch.arange(prior.num_timesteps, device=prior.device)
    return (prior.sigma(t) / prior.alpha(t)).cpu()


def levels(
    prior: Prior, t: Int[Tensor, " B"], like: Tensor
) -> tuple[Float[Tensor, "B 1 1 1"], Float[Tensor, "B 1 1 1"]]:
    """alpha and sigma at ``t``, as factors of latents."""
    alpha, sigma = (value[:, None, None, None].to(like) for value in (prior.alpha(t), prior.sigma(t)))
    return alpha, sigma


def with_noise(
    prior: Prior, z: Float[Tensor, "B c h w"], t: Int[Tensor, " B"], eps: Float[Tensor, "B c h w"]
) -> Noised:
    """z_t = alpha z + sigma eps with noise that is given; the reference is eps."""
    alpha, sigma = levels(prior, t, z)
    return Noised(z, alpha * z + sigma * eps, t, eps, alpha, sigma)


def independent(
    prior: Prior, z: Float[Tensor, "B c h w"], t: Int[Tensor, " B"], generators: Sequence[torch.Generator]
) -> Noised:
    """z_t = alpha z + sigma eps with fresh noise for every picture; the reference is eps."""
    noise = torch.stack([torch.randn(z.shape[1:], generator=generator) for generator in generators])
    return with_noise(prior, z, t, to_device(noise.to(z.dtype), z.device))


def arrived(prior: Prior, z: Float[Tensor, "B c h w"], z_t: Float[Tensor, "B c h w"], t: Int[Tensor, " B"]) -> Noised:
    """Latents that are at the noise level ``t`` already; the reference is the noise that leads from ``z`` to them."""
    alpha, sigma = levels(prior, t, z)
    return Noised(z, z_t, t, (z_t - alpha * z) / sigma, alpha, sigma)


def ddim(
    prior: Prior,
    z_t: Float[Tensor, "B c h w"],
    t: Int[Tensor, " B"],
    eps: Float[Tensor, "B c h w"],
    to: Int[Tensor, " B"],
) -> Float[Tensor, "B c h w"]:
    """The deterministic step of Song et al. 2021 from level ``t`` to level ``to``, towards less noise or more."""
    alpha, sigma = levels(prior, t, z_t)
    alpha_to, sigma_to = levels(prior, to, z_t)
    return alpha_to * (z_t - sigma * eps) / alpha + sigma_to * eps
