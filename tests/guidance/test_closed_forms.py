"""SDS and DE-SDS against what they must be for a prior whose score is known (see ``analytic``).

x is the image, m the mean of the text, tau its standard deviation, kappa = sigma alpha / v,
v = alpha^2 tau^2 + sigma^2.
"""

from typing import Any

import pytest
import torch

from avatar_gs.guidance.cfg import Unconditional
from avatar_gs.guidance.methods.de_sds import SmallNoise
from avatar_gs.guidance.schedule import Weight
from tests.guidance.analytic import AnalyticPrior, Level, conditions, full, gaussian, make, rows, step
from tests.plain import plain_de_sds

DRAWS = 4000
ONE: dict[str, Any] = {"weight": Weight.one}


def at(y_con_mean: float, guidance, bucket="all"):
    """Set y_con to its optimum: the image itself, with the prior's standard deviation."""
    with torch.no_grad():
        rows(guidance)[bucket].copy_(gaussian(y_con_mean))


@pytest.fixture
def prior():
    return AnalyticPrior()


@pytest.mark.parametrize("t", [100, 400, 800])
def test_sds_pulls_to_the_mean_with_known_variance(prior, t):
    x, m = 0.9, 0.5
    conds, level = conditions(text=m), Level(prior, t)
    guidance = make(prior, conds, "sds", t, cfg_scale=1.0, **ONE)
    grad = step(guidance, conds, full(x, DRAWS)).grad
    error = grad.std() / grad.numel() ** 0.5
    assert abs(float(grad.mean()) - level.kappa * (x - m)) < 4 * error
    expected_variance = (level.alpha**2 * prior.tau**2 / level.v) ** 2
    assert float(grad.var()) == pytest.approx(expected_variance, rel=0.05)


@pytest.mark.parametrize("unconditional", list(Unconditional))
def test_sds_classifier_free_guidance_shifts_the_target(prior, unconditional):
    x, s = 0.9, 4.0
    conds, level = conditions(text=0.5, negative=-0.25, null=0.1), Level(prior, 500)
    away = {Unconditional.negative: -0.25, Unconditional.empty: 0.1}[unconditional]
    guidance = make(prior, conds, "sds", 500, cfg_scale=s, unconditional=unconditional, **ONE)
    grad = step(guidance, conds, full(x, DRAWS)).grad
    target = away + s * (0.5 - away)
    assert abs(float(grad.mean()) - level.kappa * (x - target)) < 4 * grad.std() / grad.numel() ** 0.5


@pytest.mark.parametrize("t", [250, 400, 800])
def test_de_sds_with_the_best_y_con_is_exact_and_free_of_noise(prior, t):
    x, m = 0.9, 0.5
    conds, level = conditions(text=m), Level(prior, t)
    guidance = make(prior, conds, t=t, cfg_scale=0.0, **ONE)
    at(x, guidance)
    grad = step(guidance, conds, full(x, 64)).grad
    torch.testing.assert_close(grad, full(level.kappa * (x - m), 64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("t", [250, 600])
def test_fixed_point_of_de_sds_over_saturates_for_any_y_con(prior, t):
    """The best y_con vanishes at m_y + s (m_y - m_n), and nowhere else."""
    m, n, s = 0.5, -0.25, 7.5
    fixed = m + s * (m - n)
    conds = conditions(text=m, negative=n)
    guidance = make(prior, conds, t=t, cfg_scale=s, **ONE)
    at(fixed, guidance)
    assert step(guidance, conds, full(fixed)).grad.abs().max() < 1e-5
    at(m, guidance)
    expected = Level(prior, t).kappa * (m - fixed)
    torch.testing.assert_close(step(guidance, conds, full(m)).grad, full(expected), atol=1e-5, rtol=0)


def test_de_sds_is_vsd_at_one_more_with_the_negative_as_null(prior):
    """G / w = [eps_n + (s + 1)(eps_y - eps_n)] - eps_con, on the very same noise, for any y_con."""
    s, t = 7.5, 500
    conds = conditions(text=0.5, negative=-0.25)
    desds = make(prior, conds, t=t, cfg_scale=s, **ONE)
    at(0.3, desds)
    sds = make(prior, conds, "sds", t, cfg_scale=s + 1, **ONE)
    only_con = make(prior, conditions(text=0.3), "sds", t, cfg_scale=1.0, **ONE)
    z = full(0.9, 4)
    difference = step(sds, conds, z).grad - step(only_con, conditions(text=0.3), z).grad
    torch.testing.assert_close(step(desds, conds, z).grad, difference, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("t", [100, 500])
@pytest.mark.parametrize("x", [0.9, -2.0])
def test_noise_share_interpolates_de_sds_and_sds(prior, t, x):
    """At one half, the residual is the mean of both methods' on the same noise; at 1, it is SDS's for any y_con."""
    s, conds, z = 3.0, conditions(text=0.5, negative=-0.25), full(x, 4)

    def gradient(fraction):
        config = plain_de_sds(warmup=0.0, noise_share=fraction)
        guidance = make(prior, conds, t=t, cfg_scale=s, de_sds=config, **ONE)
        at(0.3, guidance)
        return step(guidance, conds, z).grad

    sds = step(make(prior, conds, "sds", t, cfg_scale=s + 1, **ONE), conds, z).grad
    torch.testing.assert_close(gradient(1.0), sds, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient(0.5), (gradient(0.0) + sds) / 2, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("fraction", [0.25, 1.0])
def test_noise_share_adds_its_fraction_of_noise_and_no_bias(prior, fraction):
    x, m, t = 0.9, 0.5, 500
    conds, level = conditions(text=m), Level(prior, t)
    guidance = make(prior, conds, t=t, cfg_scale=0.0, de_sds=plain_de_sds(warmup=0.0, noise_share=fraction), **ONE)
    at(x, guidance)
    grad = step(guidance, conds, full(x, DRAWS)).grad
    assert abs(float(grad.mean()) - level.kappa * (x - m)) < 4 * float(grad.std()) / grad.numel() ** 0.5
    assert float(grad.var()) == pytest.approx((fraction * level.alpha**2 * prior.tau**2 / level.v) ** 2, rel=0.05)


def test_de_sds_begins_as_csd(prior):
    """With y_con still at the negative prompt, delta = (s + 1)(eps_y - eps_n): constant and without noise."""
    s, t, m, n = 3.0, 500, 0.5, -0.25
    conds, level = conditions(text=m, negative=n), Level(prior, t)
    for x in (-2.0, 2.0):
        grad = step(make(prior, conds, t=t, cfg_scale=s, **ONE), conds, full(x, 3)).grad
        torch.testing.assert_close(grad, full(-(s + 1) * level.kappa * (m - n), 3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("small_noise", list(SmallNoise))
def test_below_the_cut_the_seed_leaves_the_noise_in(prior, small_noise):
    x, m, t = 0.9, 0.5, 100
    conds, level = conditions(text=m), Level(prior, t)
    assert level.sigma / level.alpha < 0.57
    config = plain_de_sds(warmup=0.0, small_noise=small_noise, update_every=1)
    guidance = make(prior, conds, t=t, cfg_scale=0.0, de_sds=config, **ONE)
    at(x, guidance)
    grad = step(guidance, conds, full(x, DRAWS)).grad
    assert abs(float(grad.mean()) - level.kappa * (x - m)) < 4 * float(grad.std()) / grad.numel() ** 0.5 + 1e-6
    variance = (level.sigma**2 / level.v) ** 2 if small_noise is SmallNoise.seed else 0.0
    assert float(grad.var()) == pytest.approx(variance, rel=0.05, abs=1e-12)


def test_the_cut_is_at_a_fifth_of_stable_diffusions_steps(prior):
    conds = conditions()
    for t, subtracts in ((195, False), (205, True)):
        guidance = make(prior, conds, t=t, cfg_scale=0.0)
        assert (step(guidance, conds, full(0.3)).prior_calls == 3) is subtracts


@pytest.mark.parametrize("t", [20, 100, 300, 700])
def test_subtracting_the_noise_helps_only_where_it_is_large(t):
    """Var(eps_hat) = (sigma^2/v)^2 and Var(eps_hat - eps) = (alpha^2 tau^2/v)^2."""
    prior = AnalyticPrior(tau=0.3)
    conds, level = conditions(), Level(prior, t)
    subtracted = step(make(prior, conds, "sds", t, cfg_scale=1.0, **ONE), conds, full(0.5, DRAWS)).grad.var()
    bare = (level.sigma**2 / level.v) ** 2
    helps = level.sigma**2 > level.alpha**2 * prior.tau**2
    assert float(subtracted) == pytest.approx((level.alpha**2 * prior.tau**2 / level.v) ** 2, rel=0.05)
    assert bool(subtracted < bare) is helps


def learned(prior, conds, buckets, values, t, rate=0.02, steps=600):
    """DE-SDS on fixed images until y_con has converged."""
    config = plain_de_sds(warmup=0.0, learning_rate=rate, norm_band=1.0)
    guidance = make(prior, conds, t=t, cfg_scale=0.0, de_sds=config, **ONE)
    z = torch.cat([full(value) for value in values])
    for index in range(steps):
        out = step(guidance, conds, z, buckets, index, steps, seed=index)
    return out, guidance


def test_y_con_learns_the_image(prior):
    conds = conditions(text=0.5, negative=-0.6)
    out, guidance = learned(prior, conds, ["all"] * 8, [-0.9] * 8, t=500)
    mean = guidance.state_dict()["y_con.all"][0]
    assert float((mean + 0.9).abs().mean()) < 0.1
    assert out.logs["L_con"] < out.logs["L_neg"]


def test_two_views_need_an_embedding_each(prior):
    """Views that show +1 and -1, text 0: one shared y_con ends at their average and pulls neither; a row for each pulls
    both home by kappa."""
    t, batch = 500, 8
    level, values = Level(prior, t), [1.0] * batch + [-1.0] * batch
    shared = conditions(text=0.0, negative=0.8)
    out, _ = learned(prior, shared, ["all"] * 2 * batch, values, t)
    assert out.grad[:batch].mean().abs() < 0.15 * level.kappa
    assert out.grad[batch:].mean().abs() < 0.15 * level.kappa
    split = conditions(text=0.0, negative=0.8, buckets=("front", "back"))
    out, _ = learned(prior, split, ["front"] * batch + ["back"] * batch, values, t)
    assert float(out.grad[:batch].mean()) == pytest.approx(level.kappa, rel=0.15)
    assert float(out.grad[batch:].mean()) == pytest.approx(-level.kappa, rel=0.15)


def mean_pull(method, t, x, effective_cfg=1.0):
    """E[G / w], its standard error and the variance at the image x, for a text of two modes, at -1 and +1, of standard
    deviation 0.2, and a negative of one mode between them; y_con is the best of one mode."""
    prior = AnalyticPrior(tau=0.2)
    conds = conditions(text=0.0, negative=0.0, modes=1.0)
    if method == "sds":
        guidance = make(prior, conds, method, t, cfg_scale=effective_cfg, **ONE)
    else:
        config = plain_de_sds(warmup=0.0, small_noise=SmallNoise.con)
        guidance = make(prior, conds, method, t, cfg_scale=effective_cfg - 1, de_sds=config, **ONE)
        at(x, guidance)
    grad = step(guidance, conds, full(x, DRAWS)).grad
    return float(grad.mean()), float(grad.std() / grad.numel() ** 0.5), float(grad.var())


@pytest.mark.parametrize("method", ["sds", "de_sds"])
@pytest.mark.parametrize(("t", "separates"), [(100, True), (200, True), (300, False), (600, False)])
def test_separation_of_two_modes_depends_on_the_noise_level_alone(method, t, separates):
    """Just off the middle (x = 0.1): at low noise the pull is outwards (two fixed points), at high noise back to the
    average; y_con changes nothing about that."""
    mean, error, _ = mean_pull(method, t, 0.1)
    assert abs(mean) > 3 * error
    assert (mean < 0) is separates


@pytest.mark.parametrize("effective_cfg", [1.0, 2.5])
@pytest.mark.parametrize("t", [20, 100, 300, 600])
@pytest.mark.parametrize("x", [0.1, 0.6, 1.0])
def test_at_equal_effective_guidance_de_sds_pulls_as_sds_does_with_less_noise(t, x, effective_cfg):
    sds_mean, sds_error, sds_variance = mean_pull("sds", t, x, effective_cfg)
    mean, error, variance = mean_pull("de_sds", t, x, effective_cfg)
    assert abs(mean - sds_mean) < 3 * (error**2 + sds_error**2) ** 0.5
    assert variance < sds_variance
