"""Classifier-free guidance in an interval of timesteps."""

import pytest
import torch

from avatar_gs.core.errors import UserError
from avatar_gs.guidance.config import GuidanceConfig
from avatar_gs.guidance.schedule import ScheduleConfig, ScheduleKind
from tests.guidance.analytic import AnalyticPrior, conditions, full, make, step

METHODS = ["sds", "de_sds", "nfsd", "dds", "pds", "hifa", "sdi", "ism", "l_diff"]


def gradient(method, t, buckets=("all",), **options):
    prior = AnalyticPrior()
    conds = conditions(text=0.5, negative=-0.25, null=0.1, buckets=buckets)
    guidance = make(prior, conds, method, t, **options)
    result = step(guidance, conds, full(0.7, 3))
    return result.grad, prior.calls


@pytest.mark.parametrize("method", [method for method in METHODS if method != "sdi"])
def test_outside_the_interval_the_scale_is_one(method):
    """DE-SDS at s is guidance at s + 1. SDI is left out: its inversion passes lower timesteps with its own scale."""
    scale = 0.0 if method == "de_sds" else 1.0
    at_one, calls = gradient(method, 900, cfg_scale=scale)
    outside, fewer = gradient(method, 900, cfg_scale=6.0, cfg_interval=[0.0, 0.2])
    torch.testing.assert_close(outside, at_one, atol=1e-6, rtol=1e-6)
    assert fewer < calls


@pytest.mark.parametrize("method", METHODS)
def test_inside_the_interval_nothing_changes(method):
    plain, calls = gradient(method, 300, cfg_scale=6.0)
    inside, same = gradient(method, 300, cfg_scale=6.0, cfg_interval=[0.0, 0.95])
    assert torch.equal(plain, inside) and calls == same


def test_images_of_one_batch_are_on_either_side():
    prior, conds = AnalyticPrior(), conditions()
    uniform = ScheduleConfig(kind=ScheduleKind.uniform)
    guidance = make(prior, conds, "sds", cfg_scale=6.0, cfg_interval=[0.0, 0.5], schedule=uniform)
    z = full(0.7, 40)
    mixed = step(guidance, conds, z)
    inside = mixed.t <= 0.5 * 999
    assert 5 < inside.sum() < 35
    assert prior.calls == 40 + int(inside.sum())
    on = step(make(AnalyticPrior(), conds, "sds", cfg_scale=6.0, schedule=uniform), conds, z)
    off = step(make(AnalyticPrior(), conds, "sds", cfg_scale=1.0, schedule=uniform), conds, z)
    assert torch.equal(on.t, mixed.t)
    torch.testing.assert_close(mixed.grad[inside], on.grad[inside])
    torch.testing.assert_close(mixed.grad[~inside], off.grad[~inside])


@pytest.mark.parametrize("wrong", [[0.0], [0.5, 0.2], [-0.1, 1.0], [0.0, 1.5], [0.1, 0.2, 0.3]])
def test_wrong_intervals_are_refused(wrong):
    with pytest.raises(UserError, match=r"guidance\.cfg_interval"):
        GuidanceConfig(cfg_interval=wrong)
