"""What holds for every method: gradients, batches, counts, state."""

from typing import Any

import pytest
import torch

from avatar_gs.guidance.cfg import Unconditional, guided
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import METHODS as METHODS_BY_NAME
from avatar_gs.guidance.distill import build_guidance
from avatar_gs.guidance.methods.base import StepInputs
from avatar_gs.guidance.methods.de_sds import SmallNoise
from avatar_gs.guidance.methods.robust_nfsd import RobustNfsdConfig
from avatar_gs.guidance.methods.vsd import VsdConfig
from avatar_gs.guidance.schedule import ScheduleConfig, ScheduleKind, Weight
from avatar_gs.prior.parts import Parts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.types import BucketPrompt
from tests import tiny
from tests.guidance.analytic import AnalyticPrior, conditions, full, gaussian, make, step
from tests.plain import plain_de_sds, plain_guidance

METHODS = list(METHODS_BY_NAME)


@pytest.fixture
def prior():
    return AnalyticPrior()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_losss_gradient_is_g_over_b(prior, method, batch):
    conds = conditions()
    z = full(0.7, batch, grad=True)
    out = step(make(prior, conds, method, 500), conds, z)
    out.loss.backward()
    torch.testing.assert_close(z.grad, out.grad / batch, atol=1e-12, rtol=0)
    assert bool(out.grad.any()) is (method != "none")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", list(ScheduleKind))
def test_a_batch_of_four_equals_four_batches_of_one(prior, method, kind):
    conds = conditions()
    schedule = ScheduleConfig(kind=kind, jitter=0.05)
    options = {
        "schedule": schedule,
        "de_sds": plain_de_sds(warmup=0.0, learning_rate=0.0),
        "vsd": VsdConfig(learning_rate=0.0),
    }
    z = torch.cat([full(value) for value in (-1.0, 0.0, 0.4, 2.0)])
    given = {"source": z.flip(0) / 2, "cameras": torch.arange(4 * 16.0).reshape(4, 16) / 100}

    def run(guidance, some, generator):
        n = len(z[some])
        batch = conds.batch(["all"] * n)
        of_these: dict[str, Any] = {name: value[some] for name, value in given.items()}
        inputs = StepInputs(conditions=batch, buckets=["all"] * n, step=60, total=100, generator=generator, **of_these)
        return guidance.step(z[some], inputs)

    whole = run(make(prior, conds, method, **options), slice(0, 4), torch.Generator().manual_seed(5))
    generator, alone = torch.Generator().manual_seed(5), make(prior, conds, method, **options)
    parts = [run(alone, slice(i, i + 1), generator) for i in range(4)]
    assert torch.equal(whole.t, torch.cat([part.t for part in parts]))
    assert len(set(whole.t.tolist())) > 1
    torch.testing.assert_close(whole.grad, torch.cat([part.grad for part in parts]), atol=1e-12, rtol=0)
    torch.testing.assert_close(whole.z0_hat, torch.cat([part.z0_hat for part in parts]), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("method", "t", "options", "calls", "batches"),
    [
        ("none", 500, {}, 0, []),
        ("sds", 500, {}, 4, [4]),
        ("de_sds", 500, {}, 6, [4, 2]),
        ("de_sds", 500, {"update_every": 7}, 6, [6]),
        ("de_sds", 100, {}, 4, [4]),
        ("de_sds", 100, {"small_noise": SmallNoise.con}, 6, [4, 2]),
        ("de_sds", 500, {"warmup": 0.5}, 2, [2]),
        ("l_diff", 500, {}, 4, [4]),
        ("nfsd", 500, {}, 6, [6]),
        ("nfsd", 100, {}, 4, [4]),
        ("robust_nfsd", 500, {}, 6, [6]),
        ("csd", 500, {}, 4, [4]),
        ("ism", 500, {}, 12, [2, 2, 2, 2, 4]),
        ("ism", 960, {}, 16, [2, 2, 2, 2, 2, 2, 4]),
        ("sdi", 500, {}, 44, [4] * 11),
        ("hifa", 500, {}, 16, [4] * 4),
        ("dds", 500, {}, 8, [8]),
        ("pds", 500, {}, 8, [8]),
        ("vsd", 500, {}, 8, [4, 2, 2]),
    ],
)
def test_prior_calls(prior, method, t, options, calls, batches):
    """Two images. SDS predicts text and negative in one call; DE-SDS these and, with its gradient, y_con; ISM each
    stride of its inversion, then both; SDI both at each step of its inversion; HiFA both at each of its steps; DDS and
    PDS both, of the image and of its source; VSD both and its LoRA twice."""
    conds = conditions()
    guidance = make(prior, conds, method, t, de_sds=plain_de_sds(**{"warmup": 0.0, **options}))
    out = step(guidance, conds, full(0.7, 2), index=3)
    assert out.prior_calls == calls == prior.calls
    assert prior.batches == batches


@pytest.mark.parametrize(("every", "batches"), [(1, [[128, 64]] * 3), (2, [[128, 64], [192], [128, 64]])])
def test_a_batch_on_both_sides_of_the_cut_predicts_y_con_for_all_images(prior, every, batches):
    """Networks see the same batch sizes for any sampled timesteps."""
    conds = conditions()
    config = plain_de_sds(warmup=0.0, update_every=every)
    guidance = make(prior, conds, schedule=ScheduleConfig(kind=ScheduleKind.uniform), de_sds=config)
    for index, expected in enumerate(batches):
        out = step(guidance, conds, full(0.7, 64), index=index, seed=index)
        above = prior.sigma(out.t) / prior.alpha(out.t) >= 0.57
        assert 0 < int(above.sum()) < 64
        assert prior.batches == expected and out.prior_calls == sum(expected)
        prior.batches.clear()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_entries_become_zero(prior, bad):
    conds = conditions()
    z = full(0.7, 2)
    z[0, 0, 0, 0] = bad
    guidance = make(prior, conds, t=500)
    out = step(guidance, conds, z)
    assert out.grad[0, 0, 0, 0] == 0 and out.grad.isfinite().all()
    assert out.grad[1].abs().min() > 0
    torch.testing.assert_close(guidance.state_dict()["y_con.all"].double(), gaussian(-0.25), atol=1e-7, rtol=0)


def test_clipping_clamps_the_norm_over_channels(prior):
    conds = conditions()
    free = step(make(prior, conds, t=500), conds, full(0.7, 2)).grad
    largest = free.norm(dim=1).max()
    clipped = step(make(prior, conds, t=500, clip=float(largest / 2)), conds, full(0.7, 2)).grad
    assert clipped.norm(dim=1).max() <= largest / 2 * (1 + 1e-9)
    torch.testing.assert_close(clipped / clipped.norm(dim=1, keepdim=True), free / free.norm(dim=1, keepdim=True))
    untouched = step(make(prior, conds, t=500, clip=float(largest * 2)), conds, full(0.7, 2)).grad
    torch.testing.assert_close(untouched, free)


@pytest.mark.parametrize("weight", list(Weight))
def test_weights(prior, weight):
    conds, t = conditions(), torch.tensor([400])
    alpha, sigma = float(prior.alpha(t)), float(prior.sigma(t))
    expected = {
        Weight.sigma_squared: sigma**2,
        Weight.one: 1.0,
        Weight.alpha: alpha,
        Weight.sigma_over_alpha: sigma / alpha,
        Weight.alpha_over_sigma: alpha / sigma,
        Weight.one_over_alpha: 1 / alpha,
    }[weight]
    plain = step(make(prior, conds, t=400, weight=Weight.one), conds, full(0.7)).grad
    torch.testing.assert_close(step(make(prior, conds, t=400, weight=weight), conds, full(0.7)).grad, expected * plain)


def test_sigma_over_alpha_makes_g_the_step_to_the_clean_image(prior):
    """G = (sigma / alpha)(eps_hat - eps) is z - z0_hat."""
    conds = conditions()
    z = full(0.7, 2)
    out = step(make(prior, conds, "sds", 500, weight=Weight.sigma_over_alpha), conds, z)
    torch.testing.assert_close(out.grad, z - out.z0_hat)


def test_null_and_negative_are_different_conditions(prior):
    conds = conditions(negative=-0.25, null=0.1)
    grads = []
    for unconditional in Unconditional:
        guidance = make(prior, conds, "sds", 500, unconditional=unconditional)
        grads.append(step(guidance, conds, full(0.7)).grad)
    assert (grads[0] - grads[1]).abs().min() > 1e-3


def run(guidance, conds, steps, total=40):
    outs = []
    for index in steps:
        buckets = ["front", "back"] if index % 3 else ["front", "front"]
        outs.append(step(guidance, conds, full(0.7, 2), buckets, index, total, seed=index))
    return outs


@pytest.mark.parametrize("method", ["de_sds", "vsd", "robust_nfsd"])
def test_a_resumed_run_is_the_same_to_the_last_bit(prior, method):
    conds = conditions(buckets=("front", "back", "side"))
    options = {"de_sds": plain_de_sds(warmup=0.1), "robust_nfsd": RobustNfsdConfig(warmup_steps=20)}
    straight = make(prior, conds, method, **options)
    whole = run(straight, conds, range(40))
    first = make(prior, conds, method, **options)
    run(first, conds, range(17))
    state = first.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    second = make(prior, conds, method, **options)
    second.load_state_dict(state)
    rest = run(second, conds, range(17, 40))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(whole[17:], rest, strict=True))
    after, expected = second.state_dict(), straight.state_dict()
    assert after.keys() == expected.keys()
    assert all(torch.equal(after[key], expected[key]) for key in after)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("de_sds", "vsd")])
def test_methods_that_learn_nothing_have_no_state(prior, method):
    guidance = make(prior, conditions(), method)
    assert guidance.state_dict() == {}
    guidance.load_state_dict({})


def test_cfg_rescale_restores_the_standard_deviation_of_the_text():
    away, towards = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0)).unbind(0)
    full_rescale = guided(away, towards, 8.0, 1.0)
    torch.testing.assert_close(full_rescale.std((1, 2, 3)), towards.std((1, 2, 3)))
    torch.testing.assert_close(guided(away, towards, 1.0), towards)
    torch.testing.assert_close(guided(away, towards, 0.0), away)
    half = guided(away, towards, 8.0, 0.5)
    torch.testing.assert_close(half, (guided(away, towards, 8.0) + full_rescale) / 2)


NETWORK_CALLS = {
    "none": 0,
    "sds": 4,
    "de_sds": 6,
    "l_diff": 4,
    "nfsd": 6,
    "robust_nfsd": 6,
    "csd": 4,
    "ism": 12,
    "sdi": 44,
    "hifa": 16,
    "dds": 8,
    "pds": 8,
    "vsd": 8,
}


@pytest.mark.parametrize("family", ["sd15", "sd21"])
def test_with_real_networks(tmp_path, family):
    prior = StableDiffusionPrior(Parts(**tiny.parts(tmp_path, family)))
    source = {"source": "a green man"}
    prompts = {f"body/{side}": BucketPrompt(f"a red man, {side} view", "blue", source) for side in ("front", "back")}
    conds = TextConditions.encode(prior, prompts)
    buckets = ["body/back", "body/front"]
    for method in METHODS:
        guidance = build_guidance(plain_guidance(method=method), prior, conds)
        images = torch.rand(2, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3, requires_grad=True)
        control = torch.rand(2, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3)
        latents = prior.encode_images(images)
        given: dict[str, Any] = {"source": torch.rand_like(latents), "cameras": torch.rand(2, 16), "images": images}
        generator = torch.Generator().manual_seed(0)
        inputs = StepInputs(
            conditions=conds.batch(buckets),
            buckets=buckets,
            step=20,
            total=100,
            generator=generator,
            control=control,
            **given,
        )
        out = guidance.step(latents, inputs)
        out.loss.backward()
        assert images.grad is not None and images.grad.isfinite().all()
        assert bool(images.grad.any()) is (method != "none"), method
        assert out.prior_calls == NETWORK_CALLS[method], method
    assert conds.batch(buckets)["text"].shape == (2, tiny.TOKEN_LENGTH, prior.text_encoder.config.hidden_size)
