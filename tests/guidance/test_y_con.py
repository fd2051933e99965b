"""DE-SDS's learnable condition: what it learns from, its optimiser, its norm band, and its checkpoint."""

import logging

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from avatar_gs.guidance.methods.de_sds import ConsistentText
from avatar_gs.guidance.schedule import ScheduleConfig, ScheduleKind
from tests.guidance.analytic import SIZE, AnalyticPrior, conditions, full, gaussian, make, rows, step
from tests.plain import plain_de_sds


@pytest.fixture
def prior():
    return AnalyticPrior()


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
