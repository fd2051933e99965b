"""Dynamic thresholding (Imagen) in closed form, and what it does to a method's gradient."""

import pytest
import torch

from avatar_gs.core.errors import UserError
from avatar_gs.guidance.cfg import dynamic_threshold
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.distill import build_guidance
from avatar_gs.guidance.methods.base import StepInputs
from avatar_gs.guidance.schedule import ScheduleConfig, ScheduleKind, Weight
from avatar_gs.types import BucketPrompt
from tests.plain import plain_guidance
from tests.training.conftest import ColorPrior

PROMPTS = {"body/front": BucketPrompt("red", "grey")}


def test_thresholding_leaves_values_in_range():
    z0 = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dynamic_threshold(z0, 1.0, float(z0.abs().max())), z0)
    z0[0, 0, 0, 0] = 50.0
    assert torch.equal(dynamic_threshold(z0, 0.9, 3.0), z0), "a single outlier is beyond the quantile"


def test_thresholding_scales_each_image_by_itself():
    calm = torch.linspace(-1, 1, 48).reshape(1, 3, 4, 4)
    wild = 10 * calm
    found = dynamic_threshold(torch.cat([calm, wild]), 0.5, 2.0)
    assert torch.equal(found[:1], calm)
    quantile = wild.abs().flatten().quantile(0.5)
    torch.testing.assert_close(found[1:], wild.clamp(-quantile, quantile) * 2 / quantile)
    torch.testing.assert_close(found.abs().max(), torch.tensor(2.0))
    whole = dynamic_threshold(wild, 1.0, 2.0)
    torch.testing.assert_close(whole, calm * 2)


def distilled(method="sds", **options):
    """One step of guidance on latents of zero, at a time and a scale that overshoot."""
    schedule = ScheduleConfig(kind=ScheduleKind.uniform, t_min=0.79, t_max=0.8)
    config = plain_guidance(method=method, cfg_scale=30.0, schedule=schedule, weight=Weight.sigma_over_alpha, **options)
    prior = ColorPrior()
    guidance = build_guidance(config, prior, conditions := TextConditions.encode(prior, PROMPTS))
    latents = torch.zeros(2, 3, 8, 8, requires_grad=True)
    buckets = ["body/front"] * 2
    random = torch.Generator().manual_seed(4)
    batch = conditions.batch(buckets)
    return guidance.step(latents, StepInputs(conditions=batch, buckets=buckets, step=5, total=10, generator=random))


@pytest.mark.parametrize("method", ["sds", "hifa"])
def test_with_weight_sigma_over_alpha_the_target_is_the_thresholded_image(method):
    """G = (sigma / alpha)(eps_hat - eps) = z - z0_hat, so the avatar moves towards the thresholded z0_hat."""
    free, held = distilled(method), distilled(method, dynamic_threshold=0.995, latent_range=1.5)
    assert free.z0_hat.abs().max() > 2 and held.z0_hat.abs().max() < 1.5 + 1e-4
    torch.testing.assert_close(held.z0_hat, dynamic_threshold(free.z0_hat, 0.995, 1.5), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(held.target, held.z0_hat, atol=1e-4, rtol=1e-4)


def test_thresholding_is_off_by_default_and_changes_nothing_in_range():
    free, off = distilled(), distilled(dynamic_threshold=0.0, latent_range=0.1)
    assert torch.equal(free.grad, off.grad)
    wide = distilled(dynamic_threshold=1.0, latent_range=100.0)
    torch.testing.assert_close(wide.grad, free.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("wrong", [{"dynamic_threshold": 1.5}, {"latent_range": 0.0}])
def test_impossible_thresholds_are_a_one_line_error(wrong):
    with pytest.raises(UserError, match=rf"^guidance\.{next(iter(wrong))}=[^\n]*$"):
        plain_guidance(**wrong)


@pytest.mark.parametrize("method", ["l_diff", "pds"])
def test_methods_without_a_plain_difference_refuse_thresholding(method):
    with pytest.raises(UserError, match=rf"^guidance\.dynamic_threshold=0\.9: guidance={method} [^\n]*$"):
        plain_guidance(method=method, dynamic_threshold=0.9)
