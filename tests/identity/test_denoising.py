"""Errors of predictions, sampled timesteps and sampled latents."""

import pytest
import torch
from diffusers import DDIMScheduler

from avatar_gs.identity import denoising
from avatar_gs.identity.config import Weighting
from tests.identity.conftest import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_the_error_is_in_the_priors_prediction_type(priors, family):
    prior = priors[family]
    draws = torch.Generator().manual_seed(2)
    z, noise = torch.randn(3, 4, 8, 8, generator=draws), torch.randn(3, 4, 8, 8, generator=draws)
    t, cond = torch.tensor([40, 500, 990]), prior.encode_prompts(["a man", "red", ""])
    alpha, sigma = prior.alpha(t)[:, None, None, None], prior.sigma(t)[:, None, None, None]
    target = noise if prior.prediction_type == "epsilon" else alpha * noise - sigma * z
    raw = prior.denoiser.predict(alpha * z + sigma * noise, t, cond, None)
    expected = (raw - target).square().mean((1, 2, 3))
    found = denoising.prediction_error(prior, z, t, noise, cond)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_noisy_timesteps_are_more_probable(priors, family):
    prior = priors[family]
    plain, noisy = (denoising.time_probabilities(prior, weighting) for weighting in (Weighting.plain, Weighting.noisy))
    torch.testing.assert_close(plain, torch.full((1000,), 0.001))
    t = torch.tensor([10, 900])
    alpha2 = prior.alpha(t).square()
    expected = torch.stack([5 * (1 - alpha2[0]) / alpha2[0] ** 2, torch.tensor(8.0)])
    if family == "sd21":
        expected = expected * alpha2
    torch.testing.assert_close(noisy[10] / noisy[900], expected[0] / expected[1], rtol=1e-3, atol=0)
    times = denoising.stratified_times(noisy, 4000, torch.Generator().manual_seed(0))
    assert float((times < 300).float().mean()) == pytest.approx(float(noisy[:300].sum()), abs=1e-3)


def test_times_come_from_all_sections():
    times = denoising.stratified_times(torch.full((1000,), 0.001), 8, torch.Generator().manual_seed(0))
    assert (times // 125).tolist() == list(range(8))


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_equal_ddim(priors, family, monkeypatch):
    """The same as diffusers' scheduler makes from the same times, with no noise left at the end."""
    prior = priors[family]
    ends_clean = DDIMScheduler.from_config(prior.scheduler.config, steps_offset=0, set_alpha_to_one=True)
    monkeypatch.setattr(prior, "scheduler", ends_clean)
    prompts, draws = ["a red man", "a tall"], torch.Generator()
    found = denoising.sample_latents(prior, prompts, "blue", draws.manual_seed(3), steps=5, cfg_scale=3.0)
    assert found.shape == (2, prior.latent_channels, prior.latent_size, prior.latent_size)
    expected = prior.sample(prompts, ["blue"] * 2, None, 5, 3.0, draws.manual_seed(3))
    torch.testing.assert_close(prior.decode_latents(found), expected, atol=1e-4, rtol=0)
