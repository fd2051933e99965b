"""What combines with any method: Perp-Neg, Bridge, the distance between images, several updates to one target, and what
the network predicts."""

from typing import Any

import pytest
import torch

from avatar_gs.core.errors import UserError
from avatar_gs.guidance.cfg import Cfg, Unconditional, guided, perpendicular
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import METHODS as METHODS_BY_NAME
from avatar_gs.guidance.methods.bridge import BridgeConfig, corrupt_prompt
from avatar_gs.guidance.methods.csd import CsdConfig
from avatar_gs.guidance.methods.hifa import HifaConfig
from avatar_gs.guidance.methods.ism import IsmConfig
from avatar_gs.guidance.methods.nfsd import NfsdConfig
from avatar_gs.guidance.methods.pds import PdsConfig
from avatar_gs.guidance.methods.robust_nfsd import RobustNfsdConfig
from avatar_gs.guidance.methods.sdi import SdiConfig
from avatar_gs.guidance.methods.vsd import VsdConfig
from avatar_gs.guidance.schedule import ScheduleConfig, ScheduleKind, Weight
from avatar_gs.prior.schedule import PREDICTION_TYPES, to_eps
from avatar_gs.types import BucketPrompt
from tests.guidance.analytic import AnalyticPrior, Level, conditions, full, make, step
from tests.plain import plain_guidance

METHODS = [method for method in METHODS_BY_NAME if method != "none"]
ONE: dict[str, Any] = {"weight": Weight.one}


@pytest.fixture
def prior():
    return AnalyticPrior()


@pytest.fixture
def eps():
    drawn = torch.randn(3, 4, 2, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return dict(zip(("text", "null", "negative"), drawn, strict=True))


def dot(a, b):
    return (a * b).sum((1, 2, 3))


def test_perp_neg_keeps_the_texts_part(eps):
    """Along the text's direction nothing changes; across it the negative's direction is subtracted, s w times."""
    s, w = 7.5, 1.5
    direction, negative = eps["text"] - eps["null"], eps["negative"] - eps["null"]
    change = Cfg(s, perp_neg=w)(eps) - guided(eps["null"], eps["text"], s)
    torch.testing.assert_close(dot(change, direction), torch.zeros(4, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(change, -s * w * perpendicular(negative, direction))
    across = dot(negative, negative) - dot(negative, direction) ** 2 / dot(direction, direction)
    torch.testing.assert_close(dot(change, negative), -s * w * across)


def test_perp_neg_ignores_a_negative_along_the_text(eps):
    along = {**eps, "negative": eps["null"] - 0.7 * (eps["text"] - eps["null"])}
    torch.testing.assert_close(Cfg(7.5, perp_neg=2.0)(along), guided(eps["null"], eps["text"], 7.5))


@pytest.mark.parametrize("method", METHODS)
def test_perp_neg_combines_with_any_method(prior, method):
    """The negative is across the text on half of the pixels only; without Perp-Neg's weight nothing changes."""
    conds = conditions()
    halves = {"all": conds.negative["all"].clone()}
    halves["all"][0, ::2] = 0.9
    conds = TextConditions(conds.text, halves, conds.null, conds.extra)
    guided_by = {
        w: step(make(prior, conds, method, 500, perp_neg=w, unconditional=Unconditional.empty), conds, full(0.7, 2))
        for w in (0.0, 1.0)
    }
    assert (guided_by[0.0].grad - guided_by[1.0].grad).abs().max() > 1e-3
    assert guided_by[1.0].grad.isfinite().all()


def bridged(prior, conds, method, start):
    return make(prior, conds, method, 500, cfg_scale=3.0, bridge=BridgeConfig(start=start), **ONE)


@pytest.mark.parametrize("method", METHODS)
def test_bridge_is_a_second_stage_of_any_method(prior, method):
    conds, z = conditions(corrupt=-0.8), full(0.7, 2)
    first = step(bridged(prior, conds, method, 0.5), conds, z, index=49)
    alone = step(make(prior, conds, method, 500, cfg_scale=3.0, **ONE), conds, z, index=49)
    assert torch.equal(first.grad, alone.grad)
    second = step(bridged(prior, conds, method, 0.5), conds, z, index=50)
    expected = -3.0 * Level(prior, 500).kappa * (0.5 + 0.8)
    torch.testing.assert_close(second.grad, full(expected, 2), atol=1e-6, rtol=0)
    assert second.prior_calls == 4


def test_bridges_prompts():
    front, back = BucketPrompt("a man, front view", "blurry"), BucketPrompt("a man", "blurry, face")
    assert corrupt_prompt(BridgeConfig(), front) == {}
    config = BridgeConfig(start=0.5)
    assert corrupt_prompt(config, front) == {"corrupt": "a man, front view, blurry"}
    assert corrupt_prompt(config, back) == {"corrupt": "a man, blurry, face"}
    config.words = "foggy"
    assert corrupt_prompt(config, back)["corrupt"] == "a man, foggy"


def test_extra_prompts_become_conditions(prior):
    conds = TextConditions.encode(prior, {"all": BucketPrompt("0.5", "-0.25", {"source": "0.7"})})
    batch = conds.batch(["all", "all"])
    assert batch["source"].shape == batch["text"].shape
    assert (batch["source"][:, 0] == 0.7).all() and (batch["text"][:, 0] == 0.5).all()


@pytest.mark.parametrize("method", METHODS)
def test_rgb_weight_adds_the_distance_between_images(prior, method):
    """d loss / d images = weight (images - decoded z0_hat) / B, images averaged down; the latents' stays."""
    conds, weight, batch = conditions(), 0.1, 2
    images = torch.rand(batch, 6, 6, 3, dtype=torch.float64, requires_grad=True)
    z = full(0.7, batch, grad=True)
    guidance = make(prior, conds, method, 500, rgb_weight=weight)
    out = step(guidance, conds, z, images=images)
    out.loss.backward()
    small = images.detach().reshape(batch, 3, 2, 3, 2, 3).mean((2, 4))
    expected = weight * (small - prior.decode_latents(out.z0_hat)) / batch
    averaged = expected.repeat_interleave(2, 1).repeat_interleave(2, 2) / 4
    torch.testing.assert_close(images.grad, averaged)
    torch.testing.assert_close(z.grad, out.grad / batch)
    with pytest.raises(ValueError, match="images"):
        step(guidance, conds, z)


def test_several_updates_towards_one_target(prior):
    """The target of a step stays while the avatar moves, and the prior is not evaluated again."""
    conds, batch = conditions(), 2
    z = full(0.7, batch, grad=True)
    out = step(make(prior, conds, "nfsd", 500, inner_steps=5), conds, z)
    calls = prior.calls
    torch.testing.assert_close(out.refit(z), out.loss)
    moved = out.target.clone().requires_grad_(True)
    out.refit(moved).backward()
    assert moved.grad is not None and not moved.grad.any()
    halfway = ((z.detach() + out.target) / 2).requires_grad_(True)
    out.refit(halfway).backward()
    torch.testing.assert_close(halfway.grad, out.grad / 2 / batch)
    assert prior.calls == calls


@pytest.mark.parametrize("method", METHODS)
def test_epsilon_and_v_prediction_give_the_same_step(method):
    conds, z = conditions(), full(0.7, 2)
    epsilon, v = (
        step(make(AnalyticPrior(predicts=output), conds, method, 500), conds, z) for output in PREDICTION_TYPES
    )
    torch.testing.assert_close(epsilon.grad, v.grad, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(epsilon.z0_hat, v.z0_hat, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_predictions_agree_in_single_precision(prediction_type):
    """From the outputs that networks of each type would give, in float32, the same noise to 1e-6."""
    drawn = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z, eps = drawn
    sigma = torch.tensor([0.1, 0.6, 0.95], dtype=torch.float64)[:, None, None, None]
    alpha = (1 - sigma**2).sqrt()
    output = {"epsilon": eps, "v_prediction": alpha * eps - sigma * z}[prediction_type]
    inputs = (value.float() for value in (output, alpha * z + sigma * eps, alpha, sigma))
    torch.testing.assert_close(to_eps(prediction_type, *inputs).double(), eps, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="sample"):
        to_eps("sample", z, z, alpha, sigma)


@pytest.mark.parametrize(
    ("make_it", "word"),
    [
        (lambda: plain_guidance(perp_neg=-1.0), "perp_neg"),
        (lambda: plain_guidance(rgb_weight=float("nan")), "rgb_weight"),
        (lambda: plain_guidance(inner_steps=0), "inner_steps"),
        (lambda: BridgeConfig(start=1.5), "bridge.start"),
        (lambda: NfsdConfig(correction_weight=-1.0), "correction_weight"),
        (lambda: NfsdConfig(small_noise_cut=float("nan")), "small_noise_cut"),
        (lambda: RobustNfsdConfig(warmup_steps=-1), "warmup_steps"),
        (lambda: RobustNfsdConfig(t_min=0.5), "t_min=0.5"),
        (lambda: CsdConfig(negative_end=-1.0), "negative_end"),
        (lambda: IsmConfig(gap=0.0), "ism.gap"),
        (lambda: SdiConfig(inversion_steps=0), "inversion_steps"),
        (lambda: HifaConfig(denoising_steps=0), "denoising_steps"),
        (lambda: PdsConfig(stride=0), "stride"),
        (lambda: VsdConfig(rank=0), "rank"),
        (lambda: VsdConfig(camera_dropout=2.0), "camera_dropout"),
        (lambda: ScheduleConfig(kind=ScheduleKind.two_stage, t_max_late=0.99), "t_max_late"),
        (lambda: ScheduleConfig(late=2.0), "late"),
    ],
)
def test_out_of_range_settings_are_a_one_line_error(make_it, word):
    with pytest.raises(UserError, match=word) as caught:
        make_it()
    assert "\n" not in str(caught.value)
