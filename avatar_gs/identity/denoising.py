"""What a prior's predictions say of latents, and latents that it makes itself."""

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
    """The mean squared error of each prediction in what the prior itself predicts. The error of a v is that of the
    noise over alpha, since eps = alpha v + sigma z_t (Salimans and Ho 2022), and so is that of a flow (eps = z_t +
    alpha v). Without pose maps: photos have none."""
    error = (prior.eps(with_noise(prior, z, t, noise).z_t, t, cond, None) - noise).square().mean((1, 2, 3))
    return error if prior.prediction_type == "epsilon" else error / prior.alpha(t).square()


def time_shares(prior: IdentityPrior, weighting: Weighting) -> Float[Tensor, " T"]:
    """How often each time step is drawn, in all 1: uniformly, or with ``noisy`` in proportion to
    min(1/alpha^2, 8) min(1, 5/SNR), as the packaged prior weighs its noise predictions. What somebody wears is settled
    while little but noise is seen, where a plain loss hardly tells one from another."""
    t = torch.arange(prior.num_timesteps, device=prior.device)
    alpha2, sigma2 = prior.alpha(t).double().square(), prior.sigma(t).double().square()
    shares = torch.ones_like(alpha2)
    if weighting is Weighting.noisy:
        shares = (1 / alpha2).clamp(max=8) * (5 * sigma2 / alpha2).clamp(max=1)
        if prior.prediction_type != "epsilon":
            shares = shares * alpha2  # the error is already the noise's over alpha^2
    return (shares / shares.sum()).float().cpu()


def stratified_times(shares: Float[Tensor, " T"], batch: int, draws: torch.Generator) -> Int[Tensor, " B"]:
    """Time steps in these shares, one from each of ``batch`` equally likely sections: the loss differs more by time
    than by picture."""
    sections = (torch.arange(batch) + torch.rand(batch, generator=draws)) / batch
    return torch.searchsorted(shares.cumsum(0), sections, right=True).clamp(max=len(shares) - 1)


@torch.no_grad()
def sample_latents(
    prior: IdentityPrior,
    prompts: list[str],
    negative: str,
    draws: torch.Generator,
    *,
    steps: int,
    cfg_scale: float,
) -> Float[Tensor, "B c h w"]:
    """Latents of the prompts by DDIM (Song et al. 2021, eta = 0) from evenly spaced times, without pose maps.
    ``draws`` lives on the CPU."""
    shape = (prior.latent_channels, prior.latent_size, prior.latent_size)
    times = [index * (prior.num_timesteps // steps) for index in reversed(range(steps))]
    latents = []
    for start in range(0, len(prompts), SAMPLE_BATCH):
        some = prompts[start : start + SAMPLE_BATCH]
        cond = prior.encode_prompts([*[negative] * len(some), *some])
        z = clean = torch.randn((len(some), *shape), generator=draws).to(prior.device)
        noise = z
        for time in times:
            t = torch.full((len(some),), time, device=prior.device)
            z = z if time == times[0] else with_noise(prior, clean, t, noise).z_t
            against, wanted = prior.eps(torch.cat([z, z]), t.repeat(2), cond, None).chunk(2)
            noise = against + cfg_scale * (wanted - against)
            clean = (z - prior.sigma(t)[:, None, None, None] * noise) / prior.alpha(t)[:, None, None, None]
        latents.append(clean)
    return torch.cat(latents)
