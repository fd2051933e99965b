"""Noise that stays: mixing with independent noise, and SDS with it as DDIM."""

from itertools import pairwise

import pytest
import torch

from avatar_gs.guidance.methods.base import ddim, levels
from avatar_gs.guidance.schedule import Weight
from tests.guidance.analytic import CHANNELS, SIDE, AnalyticPrior, conditions, full, make, step


@pytest.fixture
def prior():
    return AnalyticPrior()


def noise(seed, count=1):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, CHANNELS, SIDE, SIDE, generator=random, dtype=torch.float64)


def test_sds_steps_with_fixed_noise_are_ddim(prior):
    """x = (z_t - sigma noise) / alpha moves by -residual * change of sigma / alpha, which is what DDIM does to z_t."""
    conds, fixed = conditions(text=0.5, modes=0.8), noise(3)
    times = [990, 800, 500, 250, 60]
    x = full(0.3, 1) + 0.2 * noise(4)
    alpha, sigma = levels(prior, torch.tensor([times[0]]), x)
    z_t = alpha * x + sigma * fixed
    for t, later in pairwise(times):
        guidance = make(prior, conds, "sds", t, cfg_scale=1.0, weight=Weight.one)
        residual = step(guidance, conds, x, noise=fixed).grad
        ratios = []
        for time in (t, later):
            alpha, sigma = levels(prior, torch.tensor([time]), x)
            ratios.append(sigma / alpha)
        eps = prior.eps(z_t, torch.tensor([t]), conds.batch(["all"])["text"], None)
        z_t = ddim(prior, z_t, torch.tensor([t]), eps, torch.tensor([later]))
        x = x - (ratios[0] - ratios[1]) * residual
        torch.testing.assert_close(alpha * x + sigma * fixed, z_t, atol=1e-12, rtol=1e-12)


def test_without_a_reference_to_fixed_noise_nothing_changes(prior):
    conds = conditions()
    guidance = make(prior, conds, "sds", 500)
    z = full(0.7, 2)
    plain, unused = step(guidance, conds, z), step(guidance, conds, z, noise=noise(1, 2), beta=0.0)
    assert torch.equal(plain.grad, unused.grad)


@pytest.mark.parametrize("beta", [0.3, 0.8])
def test_mixed_noise_has_unit_variance_and_the_stated_correlation(prior, beta):
    conds, fixed, draws = conditions(), noise(1), 3000
    guidance = make(prior, conds, "sds", 500, cfg_scale=1.0)
    context_noise = fixed.expand(draws, -1, -1, -1)
    z = full(0.0, draws)
    _, sigma = levels(prior, torch.tensor([500]), z)
    seen = []
    original = prior.eps
    prior.eps = lambda z_t, *rest: seen.append(z_t[:draws]) or original(z_t, *rest)
    step(guidance, conds, z, noise=context_noise, beta=beta)
    sampled = seen[0] / sigma
    rest = (sampled - beta * context_noise) / (1 - beta**2) ** 0.5
    count = rest.numel()
    assert abs(float(rest.mean())) < 4 / count**0.5
    assert abs(float(rest.var()) - 1) < 4 * (2 / count) ** 0.5
