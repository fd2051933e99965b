"""What a run makes of guidance's options: several updates to one target, Bridge's second stage, the
person alone."""

import pytest

from avatar_gs.guidance.methods.bridge import BridgeConfig
from avatar_gs.guidance.methods.de_sds import Variant
from avatar_gs.prior.prompts import BUCKETS
from avatar_gs.training.loop import optimize
from avatar_gs.training.prompts import with_extra
from avatar_gs.types import BucketPrompt
from tests.training.conftest import ColorPrior, color_prompts, small_settings


@pytest.mark.filterwarnings("error:The .grad attribute")
def test_several_updates_per_step_move_farther_with_the_same_prior_calls(body):
    """The avatar begins in one grey, so the standard deviation of its colours measures progress."""
    results = {}
    for inner_steps in (1, 4):
        settings = small_settings(steps=2)
        settings.guidance.inner_steps = inner_steps
        results[inner_steps] = optimize(settings.training, body, ColorPrior(), color_prompts())
    once, often = (results[n].model.params["sh0"].std() for n in (1, 4))
    assert often > 1.5 * once > 0
    assert results[1].metrics["prior_calls"] == results[4].metrics["prior_calls"] == 2 * 2 * 2
    assert "refit" in results[4].metrics["seconds_per_step"]
    assert "refit" not in results[1].metrics["seconds_per_step"]


def test_a_run_encodes_the_prompts_of_bridge(body):
    settings = small_settings(steps=2)
    settings.guidance.bridge = BridgeConfig(start=0.0)
    result = optimize(settings.training, body, ColorPrior(), with_extra(color_prompts(), settings.training))
    assert result.metrics["prior_calls"] == 2 * 2 * 2
    assert result.model.params["sh0"].std() > 0


def test_only_the_composed_variant_uses_the_identity_prompt():
    settings = small_settings()
    prompts = dict.fromkeys(BUCKETS[:3], BucketPrompt("<id>, in a red coat, full body, front view", ""))
    settings.guidance.de_sds.variant = Variant.composed
    assert with_extra(prompts, settings.training) == prompts
    settings.identity = "anna.safetensors"
    alone = {bucket: prompt.extra["identity"] for bucket, prompt in with_extra(prompts, settings.training).items()}
    assert alone.keys() == prompts.keys()
    assert not any("coat" in prompt for prompt in alone.values())
    settings.guidance.de_sds.variant = Variant.standard
    assert with_extra(prompts, settings.training) == prompts
