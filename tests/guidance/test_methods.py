"""The other methods against what they must be for a prior whose score is known (symbols as in ``test_closed_forms``).

rho = alpha tau / sqrt(v) and r = sigma / sqrt(v); x is the image, x_s the source of an edit.
"""

from typing import Any

import pytest
import torch

from avatar_gs.core.errors import UserError
from avatar_gs.guidance.cfg import Unconditional
from avatar_gs.guidance.methods.base import StepInputs, ddim, with_noise
from avatar_gs.guidance.methods.csd import CsdConfig
from avatar_gs.guidance.methods.de_sds import Variant
from avatar_gs.guidance.methods.hifa import HifaConfig
from avatar_gs.guidance.methods.ism import IsmConfig
from avatar_gs.guidance.methods.nfsd import NfsdConfig
from avatar_gs.guidance.methods.pds import PdsConfig, coefficients
from avatar_gs.guidance.methods.robust_nfsd import RobustNfsdConfig
from avatar_gs.guidance.methods.sdi import SdiConfig
from avatar_gs.guidance.methods.vsd import VsdConfig
from avatar_gs.guidance.schedule import ScheduleConfig, ScheduleKind, Weight
from tests.guidance.analytic import (
    SOURCE,
    AnalyticPrior,
    Level,
    T,
    adapter_of,
    conditions,
    full,
    gaussian,
    make,
    rows,
    step,
)
from tests.plain import plain_de_sds

DRAWS = 4000
ONE: dict[str, Any] = {"weight": Weight.one}
UNIFORM: dict[str, Any] = {"schedule": ScheduleConfig(kind=ScheduleKind.uniform)}
PLAIN: dict[str, Any] = {"cfg_scale": 1.0, "unconditional": Unconditional.empty}
M, NULL, NEGATIVE = 0.5, 0.1, -0.25


@pytest.fixture
def prior():
    return AnalyticPrior()


def assert_mean(grad, expected):
    assert abs(float(grad.mean()) - expected) < 4 * float(grad.std()) / grad.numel() ** 0.5 + 1e-9


@pytest.mark.parametrize("t", [100, 500, 900])
@pytest.mark.parametrize("x", [-2.0, 0.9])
def test_csd_is_the_same_everywhere_and_free_of_noise(prior, t, x):
    conds = conditions()
    grad = step(make(prior, conds, "csd", t, cfg_scale=1.0, **ONE), conds, full(x, 8)).grad
    torch.testing.assert_close(grad, full(-Level(prior, t).kappa * (M - NULL), 8), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("index", "against"), [(0, 1.0), (50, 0.5)])
def test_csds_negative_fades(prior, index, against):
    conds = conditions()
    guidance = make(prior, conds, "csd", 500, cfg_scale=1.0, csd=CsdConfig(negative_start=1.0), **ONE)
    out = step(guidance, conds, full(0.9, 2), index=index)
    expected = -Level(prior, 500).kappa * ((M - NULL) - against * (NEGATIVE - NULL))
    torch.testing.assert_close(out.grad, full(expected, 2), atol=1e-6, rtol=0)
    assert out.prior_calls == 6


@pytest.mark.parametrize("t", [30, 100, 180])
def test_nfsd_leaves_a_noisy_pull_to_the_null_where_there_is_little_noise(prior, t):
    x, conds, level = 0.9, conditions(), Level(prior, t)
    grad = step(make(prior, conds, "nfsd", t, cfg_scale=0.0, **ONE), conds, full(x, DRAWS)).grad
    assert_mean(grad, level.kappa * (x - NULL))
    assert float(grad.var()) == pytest.approx((level.sigma**2 / level.v) ** 2, rel=0.05)


@pytest.mark.parametrize("correction", [1.0, 0.1])
@pytest.mark.parametrize("t", [250, 800])
def test_nfsd_is_free_of_noise_where_there_is_more(prior, t, correction):
    s, conds, kappa = 7.5, conditions(), Level(prior, t).kappa
    config = NfsdConfig(correction_weight=correction)
    grad = step(make(prior, conds, "nfsd", t, cfg_scale=s, nfsd=config, **ONE), conds, full(0.9, 8)).grad
    expected = -s * kappa * (M - NULL) - correction * kappa * (NULL - NEGATIVE)
    torch.testing.assert_close(grad, full(expected, 8), atol=1e-5, rtol=0)


def test_nfsd_applies_the_noise_cut_per_image(prior):
    conds = conditions()
    out = step(make(prior, conds, "nfsd", cfg_scale=0.0, **UNIFORM, **ONE), conds, full(0.9, 64))
    above = prior.sigma(out.t) / prior.alpha(out.t) >= 0.57
    assert 0 < int(above.sum()) < 64
    assert out.prior_calls == 2 * 64 + int(above.sum())
    assert out.grad[above].flatten(1).std(1).max() < 1e-9 < out.grad[~above].flatten(1).std(1).min()


@pytest.mark.parametrize("t", [300, 900])
@pytest.mark.parametrize("weight", [Weight.sigma_squared, Weight.one])
def test_robust_nfsds_correction_has_twice_the_norm_of_the_text_direction(prior, t, weight):
    conds, z = conditions(), torch.cat([full(3.0, 4), full(-3.0, 4)])
    options = {"cfg_scale": 7.5, "weight": weight}
    text = step(make(prior, conds, "csd", t, **options), conds, z).grad
    correction = step(make(prior, conds, "robust_nfsd", t, **options), conds, z).grad - text
    torch.testing.assert_close(correction.flatten(1).norm(dim=1), 2 * text.flatten(1).norm(dim=1))
    assert (correction.flatten(1).mean(1).sign() == z.flatten(1).mean(1).sign()).all()  # it points away from the null


def test_robust_nfsd_begins_as_nfsd(prior):
    conds, z = conditions(), full(0.9, 3)
    config = RobustNfsdConfig(warmup_steps=300)
    robust = make(prior, conds, "robust_nfsd", 500, robust_nfsd=config)
    plain = make(prior, conds, "nfsd", 500)
    for index, same in ((299, True), (300, False)):
        pair = [step(guidance, conds, z, index=index, total=1000).grad for guidance in (robust, plain)]
        assert torch.equal(*pair) is same


@pytest.mark.parametrize(("t", "stride"), [(500, 0.2), (900, 0.2), (300, 0.01)])
def test_ism_is_the_difference_of_two_levels(prior, t, stride):
    """To 4 %: the inversion is only as good as its stride, and the first ones count most."""
    x, conds = 0.9, conditions()
    config = IsmConfig(gap_start=0.05, stride=stride)
    guidance = make(prior, conds, "ism", t, ism=config, **PLAIN, **ONE)
    grad = step(guidance, conds, full(x, 2)).grad
    level, below = Level(prior, t), Level(prior, t - 50)
    pull, text = (level.r - below.r) * (x - NULL) / prior.tau, -level.kappa * (M - NULL)
    assert grad.std() < 1e-9
    assert float(grad.mean()) == pytest.approx(pull + text, rel=0.04)


@pytest.mark.parametrize(("progress", "gap"), [(0.0, 100), (0.15, 75), (0.3, 50), (0.9, 50)])
def test_isms_gap_falls(prior, progress, gap):
    ism: Any = make(prior, conditions(), "ism").method
    path = torch.stack(ism.path(torch.tensor([620, 30]), progress, T))
    assert (path[-1] - path[-2]).tolist() == [gap, 30]
    assert path[0].tolist() == [0, 0]
    assert (path[1:-1] - path[:-2]).max() == 200


@pytest.mark.parametrize("t", [250, 500, 900])
def test_sdis_target(prior, t):
    """With an exact inversion, z - G is m + rho (x - m), for every image alike."""
    x, conds = 0.9, conditions()
    config = SdiConfig(inversion_steps=100, inversion_scale=1.0)
    guidance = make(prior, conds, "sdi", t, sdi=config, weight=Weight.sigma_over_alpha, **PLAIN)
    out = step(guidance, conds, full(x, 2))
    assert out.grad.std() < 1e-9
    assert float(out.target.mean()) == pytest.approx(M + Level(prior, t).rho * (x - M), abs=0.01)
    torch.testing.assert_close(out.target, out.z0_hat)


def test_sds_with_cached_noise_is_ddim(prior):
    """x <- z0_hat and kappa <- eps_hat, step by step, is Song et al.'s sampler exactly."""
    cond = gaussian(M)[None]
    times = [torch.tensor([t]) for t in (900, 700, 400, 100)]
    z_t = torch.randn(full(0.0).shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, kappa = (z_t - prior.sigma(times[0]) * z_t) / prior.alpha(times[0]), z_t
    for now, later in zip(times, [*times[1:], torch.tensor([0])], strict=True):
        noised = with_noise(prior, x, now, kappa)
        torch.testing.assert_close(noised.z_t, z_t)
        eps = prior.eps(noised.z_t, now, cond, None)
        x, kappa = x - noised.sigma / noised.alpha * (eps - kappa), eps
        z_t = ddim(prior, z_t, now, eps, later)


def test_hifa_with_one_step_is_sds(prior):
    conds, z, weight = conditions(), full(0.9, 4), Weight.sigma_over_alpha
    options = {"cfg_scale": 7.5, "weight": weight}
    hifa = step(make(prior, conds, "hifa", 500, hifa=HifaConfig(denoising_steps=1), **options), conds, z)
    sds = step(make(prior, conds, "sds", 500, **options), conds, z)
    torch.testing.assert_close(hifa.grad, sds.grad)
    torch.testing.assert_close(hifa.z0_hat, sds.z0_hat)


@pytest.mark.parametrize("t", [400, 900])
@pytest.mark.parametrize("steps", [2, 4])
def test_hifa_is_a_product_of_linear_maps(prior, t, steps):
    """Each step takes z_t - alpha m to a multiple of itself; the last one to z0_hat - m."""
    x, conds, product = 0.9, conditions(), 1.0
    for left in range(steps, 0, -1):
        here = Level(prior, t * left // steps)
        to_clean = here.alpha * prior.tau**2 / here.v
        if left == 1:
            product *= to_clean
        else:
            later = Level(prior, t * (left - 1) // steps)
            product *= later.alpha * to_clean + later.sigma * here.sigma / here.v
    weight, config = Weight.sigma_over_alpha, HifaConfig(denoising_steps=steps)
    guidance = make(prior, conds, "hifa", t, hifa=config, weight=weight, **PLAIN)
    out = step(guidance, conds, full(x, DRAWS))
    first = Level(prior, t)
    assert_mean(out.grad, (x - M) * (1 - first.alpha * product))
    assert float(out.grad.std()) == pytest.approx(first.sigma * product, rel=0.03)
    torch.testing.assert_close(out.target, out.z0_hat)


@pytest.mark.parametrize("t", [100, 500, 900])
def test_the_unets_jacobian_is_one_more_factor(prior, t):
    """d eps_hat / d z is alpha sigma / v, so L_Diff is SDS times that, to the digit."""
    conds, z, level = conditions(), full(0.9, 4), Level(prior, t)
    options = {"cfg_scale": 7.5, **ONE}
    of_loss = step(make(prior, conds, "l_diff", t, **options), conds, z).grad
    of_sds = step(make(prior, conds, "sds", t, **options), conds, z).grad
    torch.testing.assert_close(of_loss, level.alpha * level.sigma / level.v * of_sds)


def edit_shift(s: float) -> float:
    """s (m_y - m_source): cfg_s pulls to m_null + s (m - m_null) on both sides, and the null cancels."""
    return s * (M - -0.6)


@pytest.mark.parametrize("s", [1.0, 7.5])
@pytest.mark.parametrize("t", [100, 500, 900])
def test_dds_cancels_the_noise(prior, t, s):
    x, conds = 0.9, conditions(source=-0.6)
    options = {"unconditional": Unconditional.empty, "cfg_scale": s, **ONE}
    grad = step(make(prior, conds, "dds", t, **options), conds, full(x, 8)).grad
    expected = Level(prior, t).kappa * ((x - SOURCE) - edit_shift(s))
    torch.testing.assert_close(grad, full(expected, 8), atol=1e-5, rtol=0)


def test_pds_coefficients(prior):
    """The published code's figures; the exact posterior (stride 1) has no pull to the source."""
    t = torch.tensor([100, 500, 900])
    psi, chi = coefficients(prior, t, 2)
    torch.testing.assert_close(psi, torch.tensor([0.318, 0.032, 0.006], dtype=torch.float64), atol=5e-4, rtol=0)
    assert chi.min() > 0.08 and chi.max() < 0.12
    assert coefficients(prior, t, 1)[0].abs().max() < 1e-9
    assert coefficients(prior, torch.tensor([0, 1]), 2)[1].isfinite().all()


@pytest.mark.parametrize("t", [100, 500, 900])
def test_pds_with_stride_one_has_the_direction_of_dds(prior, t):
    conds, z = conditions(), torch.randn(full(0, 3).shape, dtype=torch.float64)
    pds = step(make(prior, conds, "pds", t, pds=PdsConfig(stride=1), **ONE), conds, z).grad
    dds = step(make(prior, conds, "dds", t, **ONE), conds, z).grad
    torch.testing.assert_close(pds / pds.norm(), dds / dds.norm(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("t", [100, 500, 900])
def test_pds_shifts_by_a_fraction(prior, t, stride):
    """It rests at x_s + f s (m_y - m_source), f = chi kappa / (psi + chi kappa): all of it when psi = 0."""
    s, conds, kappa = 3.0, conditions(source=-0.6), Level(prior, t).kappa
    psi, chi = (float(value) for value in coefficients(prior, torch.tensor([t]), stride))
    fraction = chi * kappa / (psi + chi * kappa)
    assert (fraction == pytest.approx(1.0, abs=1e-9)) is (stride == 1)
    options = {"unconditional": Unconditional.empty, "cfg_scale": s, "pds": PdsConfig(stride=stride), **ONE}
    rest = full(SOURCE + fraction * edit_shift(s), 3)
    assert step(make(prior, conds, "pds", t, **options), conds, rest).grad.abs().max() < 1e-6
    assert step(make(prior, conds, "pds", t, **options), conds, rest + 0.1).grad.min() > 1e-4


@pytest.mark.parametrize("method", ["dds", "pds"])
def test_editing_needs_something_to_edit(prior, method):
    with pytest.raises(UserError, match=f"guidance={method} changes what is there") as caught:
        make(prior, conditions(source=None), method)
    assert "\n" not in str(caught.value)
    conds = conditions()
    guidance = make(prior, conds, method)
    with pytest.raises(ValueError, match="source"):
        inputs = StepInputs(
            conditions=conds.batch(["all"]), buckets=["all"], step=0, total=10, generator=torch.Generator()
        )
        guidance.step(full(0.1), inputs)


def with_adapter(prior, conds, t, mean, tau, **options):
    """VSD with a given Gaussian as its adapter, which does not learn."""
    guidance = make(prior, conds, "vsd", t, vsd=VsdConfig(learning_rate=0.0), **options)
    adapter = adapter_of(guidance)
    adapter.tau = tau
    with torch.no_grad():
        adapter.parameters["mean"].fill_(mean)
    return guidance


@pytest.mark.parametrize("t", [100, 500, 900])
def test_vsd_of_one_image_is_sds_and_of_the_priors_samples_is_zero(prior, t):
    x, conds = 0.9, conditions()
    z = full(x, 4)
    dirac = step(with_adapter(prior, conds, t, x, 0.0, cfg_scale=7.5, **ONE), conds, z).grad
    sds = step(make(prior, conds, "sds", t, cfg_scale=7.5, **ONE), conds, z).grad
    torch.testing.assert_close(dirac, sds)
    own = step(with_adapter(prior, conds, t, M, prior.tau, cfg_scale=1.0, **ONE), conds, z).grad
    assert own.abs().max() < 1e-9


def test_vsds_adapter_learns_the_renders_camera_by_camera(prior):
    """The analytic adapter adds a camera to its mean: given +1 and -1 for renders at 1.3 and -0.7, it ends at 0.3; and
    the avatar's gradient is the same whether it learns or not."""
    conds, batch = conditions(), 8
    z = torch.cat([full(1.3, batch), full(-0.7, batch)])
    cameras = torch.zeros(2 * batch, 16)
    cameras[:batch, 0], cameras[batch:, 0] = 1.0, -1.0
    config = VsdConfig(learning_rate=0.02, camera_dropout=0.0)
    guidance = make(prior, conds, "vsd", 500, vsd=config, **ONE)
    resting = make(prior, conds, "vsd", 500, vsd=VsdConfig(learning_rate=0.0, camera_dropout=0.0), **ONE)
    grads = []
    for each in (guidance, resting):
        leaf = z.clone().requires_grad_(True)
        out = step(each, conds, leaf, cameras=cameras)
        out.loss.backward()
        assert out.auxiliary["learnable"] > 0 and not out.auxiliary["learnable"].requires_grad
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads, atol=0, rtol=0)
    for index in range(200):
        step(guidance, conds, z, index=index, total=200, seed=index, cameras=cameras)
    mean = guidance.state_dict()["adapter.mean"]
    assert float(mean.mean()) == pytest.approx(0.3, abs=0.1)
    assert not resting.state_dict()["adapter.mean"].any()


def test_vsd_drops_a_fraction_of_the_cameras(monkeypatch, prior):
    conds = conditions()
    guidance = make(prior, conds, "vsd", 500)
    said, adapter = [], adapter_of(guidance)
    eps = adapter.eps
    monkeypatch.setattr(adapter, "eps", lambda *arguments: said.append(arguments[-1]) or eps(*arguments))
    step(guidance, conds, full(0.9, 200), cameras=torch.ones(200, 16))
    for_residual, for_learning = said
    assert for_residual.all()
    assert 5 <= int((for_learning.sum(1) == 0).sum()) <= 40


def test_a_prior_without_adapter_is_a_clear_error(monkeypatch, prior):
    monkeypatch.delattr(AnalyticPrior, "adapter")
    with pytest.raises(UserError, match="guidance=vsd trains a LoRA"):
        make(prior, conditions(), "vsd")


@pytest.mark.parametrize("weight", [Weight.one, Weight.sigma_squared])
def test_variant_seed_leaks_the_gradient_of_y_cons_loss(prior, weight):
    """The undetached loss adds alpha J^T (eps_con - eps), untouched by w(t): SDS to y_con times alpha sigma / v."""
    t, con, level = 500, 0.3, Level(prior, 500)
    conds, z = conditions(), full(0.9, 3)
    grads = {}
    for variant in (Variant.seed, Variant.standard):
        guidance = make(prior, conds, t=t, weight=weight, de_sds=plain_de_sds(warmup=0.0, variant=variant))
        with torch.no_grad():
            rows(guidance)["all"].copy_(gaussian(con))
        grads[variant] = step(guidance, conds, z).grad
    to_con = conditions(text=con)
    sds = step(make(prior, to_con, "sds", t, cfg_scale=1.0, **ONE), to_con, z).grad
    leak = grads[Variant.seed] - grads[Variant.standard]
    torch.testing.assert_close(leak, level.alpha * level.sigma / level.v * sds, atol=1e-6, rtol=1e-6)


def test_variant_composed_predicts_the_person_separately(prior):
    x, t, s, person = 0.9, 500, 3.0, 0.2
    conds = conditions(identity=person)
    config = plain_de_sds(warmup=0.0, variant=Variant.composed)
    guidance = make(prior, conds, t=t, cfg_scale=s, de_sds=config, **ONE)
    with torch.no_grad():
        rows(guidance)["all"].copy_(gaussian(x))
    out = step(guidance, conds, full(x, 3))
    expected = Level(prior, t).kappa * ((x - person) - s * (M - NEGATIVE))
    torch.testing.assert_close(out.grad, full(expected, 3), atol=1e-5, rtol=0)
    assert out.prior_calls == 12
    with pytest.raises(UserError, match="composed asks for the person"):
        make(prior, conditions(), de_sds=config)
