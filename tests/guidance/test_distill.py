"""What holds for every method: gradients, batches, counts, state."""

import logging

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from avatar_gs.guidance.cfg import Unconditional, guided
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import METHODS as METHODS_BY_NAME
from avatar_gs.guidance.distill import build_guidance
from avatar_gs.guidance.methods.base import StepInputs
from avatar_gs.guidance.methods.de_sds import ConsistentText, SmallNoise
from avatar_gs.guidance.methods.robust_nfsd import RobustNfsdConfig
from avatar_gs.guidance.methods.vsd import VsdConfig
from avatar_gs.guidance.schedule import ScheduleConfig, ScheduleKind, Weight
from avatar_gs.prior.parts import Parts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.types import BucketPrompt
from tests import tiny
from tests.guidance.analytic import SIZE, AnalyticPrior, conditions, full, gaussian, make, rows, step
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


def test_y_cons_loss_leaves_the_latents_alone(prior):
    """The same gradient reaches the avatar whether y_con learns or rests, and learning changes y_con only."""
    conds = conditions()
    grads = []
    for rate in (0.0, 0.05):
        z = full(0.7, 2, grad=True)
        guidance = make(prior, conds, t=500, de_sds=plain_de_sds(warmup=0.0, learning_rate=rate))
        out = step(guidance, conds, z)
        out.loss.backward()
        grads.append(z.grad)
        assert out.auxiliary["learnable"] > 0 and not out.auxiliary["learnable"].requires_grad
        moved = rows(guidance)["all"] - gaussian(-0.25)
        assert bool(moved.abs().max() > 1e-6) is (rate > 0)
    torch.testing.assert_close(*grads, atol=0, rtol=0)


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
        of_these = {name: value[some] for name, value in given.items()}
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


def test_y_con_learns_from_the_images_above_the_cut(prior):
    """A row that is only shown below the cut stays, with its moments."""
    conds = conditions(buckets=("above", "below"))
    options = {"schedule": ScheduleConfig(kind=ScheduleKind.uniform), "de_sds": plain_de_sds(warmup=0.0)}
    t = step(make(prior, conds, **options), conds, full(0.7, 16), ["above"] * 16).t
    above = prior.sigma(t) / prior.alpha(t) >= 0.57
    guidance = make(prior, conds, **options)
    before = guidance.state_dict()
    out = step(guidance, conds, full(0.7, 16), ["above" if is_above else "below" for is_above in above])
    after = guidance.state_dict()
    assert torch.equal(out.t, t) and 0 < int(above.sum()) < 16
    assert torch.equal(before["y_con.below"], after["y_con.below"]) and "adam.step.below" not in after
    assert not torch.equal(before["y_con.above"], after["y_con.above"])
    torch.testing.assert_close(out.auxiliary["learnable"], 0.5 * SIZE * out.logs["L_con"])


def test_the_warm_up_moves_y_con_only(prior):
    conds = conditions()
    guidance = make(prior, conds, de_sds=plain_de_sds(warmup=0.1, learning_rate=0.01))
    z = full(0.7, 2, grad=True)
    for index in range(10):
        out = step(guidance, conds, z, index=index, seed=index)
        assert out.warming_up and not out.grad.any() and out.prior_calls == 2
    first = step(guidance, conds, z, index=10)
    assert not first.warming_up and first.grad.any()
    assert first.t.tolist() == [980, 980]
    assert (rows(guidance)["all"][0] > -0.25).all()


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


@pytest.mark.parametrize("kind", list(Weight))
def test_weights(prior, kind):
    conds, t = conditions(), torch.tensor([400])
    alpha, sigma = float(prior.alpha(t)), float(prior.sigma(t))
    expected = {
        Weight.sigma_squared: sigma**2,
        Weight.one: 1.0,
        Weight.alpha: alpha,
        Weight.sigma_over_alpha: sigma / alpha,
        Weight.alpha_over_sigma: alpha / sigma,
        Weight.one_over_alpha: 1 / alpha,
    }[kind]
    plain = step(make(prior, conds, t=400, weight=Weight.one), conds, full(0.7)).grad
    torch.testing.assert_close(step(make(prior, conds, t=400, weight=kind), conds, full(0.7)).grad, expected * plain)


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


def test_embeddings_of_other_buckets_are_unchanged(prior):
    conds = conditions(buckets=("front", "back"))
    guidance = make(prior, conds, t=500)
    step(guidance, conds, full(0.7, 2), ["front", "back"])
    before = guidance.state_dict()
    step(guidance, conds, full(0.7, 2), ["front", "front"], index=1)
    after = guidance.state_dict()
    assert torch.equal(before["y_con.back"], after["y_con.back"])
    assert torch.equal(before["adam.exp_avg.back"], after["adam.exp_avg.back"])
    assert not torch.equal(before["y_con.front"], after["y_con.front"])


class AdamOfRows:
    """y_con as a parameter a bucket under torch's Adam, and its checkpoint as it was first written."""

    def __init__(self, start, learning_rate, norm_band):
        self.rows = {bucket: row.float().clone().requires_grad_() for bucket, row in start.items()}
        self.norms = {bucket: row.detach().norm(dim=-1, keepdim=True) for bucket, row in self.rows.items()}
        self.norm_band = norm_band
        self.optimizer = torch.optim.Adam(self.rows.values(), lr=learning_rate)

    def update(self, buckets, gradient):
        self.optimizer.zero_grad(set_to_none=True)
        (torch.stack([self.rows[bucket] for bucket in buckets]) * gradient).sum().backward()
        self.optimizer.step()
        with torch.no_grad():
            for bucket in set(buckets):
                norm, first = self.rows[bucket].norm(dim=-1, keepdim=True), self.norms[bucket]
                self.rows[bucket] *= norm.clamp(first * (1 - self.norm_band), first * (1 + self.norm_band)) / norm

    def state_dict(self):
        state = {"watched": torch.zeros(2), "watches": torch.tensor(0)}
        for bucket, row in self.rows.items():
            state |= {f"y_con.{bucket}": row.detach().clone(), f"norms.{bucket}": self.norms[bucket]}
            moments = self.optimizer.state.get(row, {})
            state |= {f"adam.{key}.{bucket}": value.clone() for key, value in moments.items()}
        return state


def test_buckets_are_optimised_independently():
    """One stacked tensor against torch's Adam for each row, on the same gradients; the latter's checkpoint resumes."""
    generator = torch.Generator().manual_seed(0)
    start = {bucket: torch.randn(5, 6, generator=generator) for bucket in "abcd"}
    stacked, apart = ConsistentText(start, 0.05, 0.1), AdamOfRows(start, 0.05, 0.1)
    for index in range(30):
        # "d" is never shown; "c" rests for many steps
        buckets = ["a", "b", "a"] if index % 10 else ["c", "b", "b"]
        gradient = torch.randn(3, 5, 6, generator=generator)
        stacked.update((stacked.batch(buckets) * gradient).sum())
        apart.update(buckets, gradient)
        if index == 15:
            stacked = ConsistentText(start, 0.05, 0.1)
            stacked.load_state_dict(apart.state_dict())
    expected, found = apart.state_dict(), stacked.state_dict()
    assert found.keys() == expected.keys() and "adam.step.d" not in found
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-7, rtol=1e-6, msg=name)


class HostReads(TorchDispatchMode):
    """Counts the operations that make the host wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal")
        return func(*args, **(kwargs or {}))


def test_an_update_of_y_con_does_not_wait_for_a_gpu():
    start = {bucket: torch.randn(5, 6, generator=torch.Generator().manual_seed(0)) for bucket in "abc"}
    y_con = ConsistentText(start, 0.05, 0.1)
    with HostReads() as reads:
        rows = y_con.batch(["a", "b", "a"])
        y_con.watch(rows.sum(), rows.mean())
        y_con.update(rows.square().sum())
        assert reads.count == 0
        y_con.watched.tolist()
        assert bool(y_con.values.any()) and reads.count > 0, "it counts"


def test_a_non_finite_gradient_leaves_y_con_unchanged():
    start = {bucket: torch.randn(5, 6, generator=torch.Generator().manual_seed(0)) for bucket in "ab"}
    y_con = ConsistentText(start, 0.05, 0.1)
    y_con.update(y_con.batch(["a", "b"]).square().sum())
    before = y_con.state_dict()
    bad = torch.ones(2, 5, 6)
    bad[1, 0, 0] = float("nan")
    y_con.update((y_con.batch(["a", "b"]) * bad).sum())
    after = y_con.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_token_norms_stay_in_their_band(prior):
    conds = conditions(text=0.5, negative=0.2)
    config = plain_de_sds(warmup=0.0, learning_rate=0.5, norm_band=0.5)
    guidance = make(prior, conds, t=500, de_sds=config)
    first = gaussian(0.2)[0].norm()
    for index in range(20):
        step(guidance, conds, full(3.0), index=index, seed=index)
    assert float(guidance.state_dict()["y_con.all"][0].norm() / first) == pytest.approx(1.5, abs=1e-4)


@pytest.mark.parametrize(("rate", "warns"), [(0.0, True), (0.02, False)])
def test_a_y_con_that_learns_nothing_is_reported_once(prior, caplog, rate, warns):
    conds = conditions()
    guidance = make(prior, conds, t=500, de_sds=plain_de_sds(warmup=0.0, learning_rate=rate))
    with caplog.at_level(logging.WARNING):
        for index in range(60):
            step(guidance, conds, full(0.7, 4), index=index, seed=index)
    assert len([r for r in caplog.records if "no better than the negative" in r.message]) == int(warns)


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


@pytest.mark.parametrize("kind", ["sd15", "sd21"])
def test_with_real_networks(tmp_path, kind):
    prior = StableDiffusionPrior(Parts(**tiny.parts(tmp_path, kind)))
    source = {"source": "a green man"}
    prompts = {f"body/{side}": BucketPrompt(f"a red man, {side} view", "blue", source) for side in ("front", "back")}
    conds = TextConditions.encode(prior, prompts)
    buckets = ["body/back", "body/front"]
    for method in METHODS:
        guidance = build_guidance(plain_guidance(method=method), prior, conds)
        images = torch.rand(2, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3, requires_grad=True)
        control = torch.rand(2, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3)
        latents = prior.encode_images(images)
        given = {"source": torch.rand_like(latents), "cameras": torch.rand(2, 16), "images": images}
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
