"""Prediction errors of a prior on latents, and latents that it samples."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatar_gs.guidance.methods.base import with_noise
from avatar_gs.identity.config import Weighting
from avatar_gs.protocols import IdentityPrior

SAMPLE_BATCH = 8


def prediction_error(
    prior: IdentityPrior,
    z: Float[Tensor, "B c h w"],
    t: Int[Tensor, " B"],
    noise: Float[Tensor, "B c h w"],
    cond: Float[Tensor, "B L d"],
) -> Float[Tensor, " B"]:
    """Mean squared error of each prediction, in the prior's own prediction type; without pose maps.

    The error of a v is that of the noise divided by alpha, since eps = alpha v + sigma z_t (Salimans and Ho 2022), and
    so is that of a flow (eps = z_t + alpha v).
    """
    error = (prior.eps(with_noise(prior, z, t, noise).z_t, t, cond, None) - noise).square().mean((1, 2, 3))
    return error if prior.prediction_type == "epsilon" else error / prior.alpha(t).square()


def time_probabilities(prior: IdentityPrior, weighting: Weighting) -> Float[Tensor, " T"]:
    """Probability of each timestep.

    Uniform, or with ``noisy`` proportional to min(1/alpha^2, 8) min(1, 5/SNR), the weight of noise predictions in the
    packaged prior's training: clothes are determined at high noise, where the uniform loss hardly depends on them.
    """
    t = torch.arange(prior.num_timesteps, device=prior.device)
    alpha2, sigma2 = prior.alpha(t).double().square(), prior.sigma(t).double().square()
    weights = torch.ones_like(alpha2)
    if weighting is Weighting.noisy:
        weights = (1 / alpha2).clamp(max=8) * (5 * sigma2 / alpha2).clamp(max=1)
        if prior.prediction_type != "epsilon":
            weights = weights * alpha2  # the error already has the factor 1 / alpha^2
    return (weights / weights.sum()).float().cpu()


def stratified_times(probabilities: Float[Tensor, " T"], batch: int, random: torch.Generator) -> Int[Tensor, " B"]:
    """Sample timesteps, one from each of ``batch`` equally likely sections (the loss varies most by timestep)."""
    sections = (torch.arange(batch) + torch.rand(batch, generator=random)) / batch
    return torch.searchsorted(probabilities.cumsum(0), sections, right=True).clamp(max=len(probabilities) - 1)


@torch.no_grad()
def sample_latents(
    prior: IdentityPrior,
    prompts: list[str],
    negative: str,
    random: torch.Generator,
    *,
    steps: int,
    cfg_scale: float,
) -> Float[Tensor, "B c h w"]:
    """Sample latents by DDIM (Song et al. 2021, eta = 0) at evenly spaced timesteps, one for each prompt, without pose
    maps. ``random`` is on the CPU."""
    shape = (prior.latent_channels, prior.latent_size, prior.latent_size)
    times = [index * (prior.num_timesteps // steps) for index in reversed(range(steps))]
    latents = []
    for start in range(0, len(prompts), SAMPLE_BATCH):
        batch = prompts[start : start + SAMPLE_BATCH]
        cond = prior.encode_prompts([*[negative] * len(batch), *batch])
        z = clean = torch.randn((len(batch), *shape), generator=random).to(prior.device)
        noise = z
        for time in times:
            t = torch.full((len(batch),), time, device=prior.device)
            z = z if time == times[0] else with_noise(prior, clean, t, noise).z_t
            uncond, positive = prior.eps(torch.cat([z, z]), t.repeat(2), cond, None).chunk(2)
            noise = uncond + cfg_scale * (positive - uncond)
            clean = (z - prior.sigma(t)[:, None, None, None] * noise) / prior.alpha(t)[:, None, None, None]
        latents.append(clean)
    return torch.cat(latents)
