"""The loop paints what the prior asks for where it asks for it, and a resumed run ends with the same bytes."""

import os
import signal
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny

from avatar_gs.body.pose import a_pose
from avatar_gs.core.errors import UserError
from avatar_gs.core.runs import RunFolder
from avatar_gs.prior.config import Encoder, PriorConfig
from avatar_gs.prior.prompts import bucket_prompts
from avatar_gs.prior.stable_diffusion import load_prior
from avatar_gs.render.cameras import fixed_views
from avatar_gs.render.rasterize import rasterize
from avatar_gs.splats.config import LearningRates, SplatsConfig
from avatar_gs.training.config import PoseMode
from avatar_gs.training.loop import optimize
from avatar_gs.training.state import load_avatar
from avatar_gs.types import Framing
from tests.plain import plain_guidance
from tests.tiny import save_prior
from tests.training.conftest import ColorPrior, color_prompts, small_settings


def same_bytes(first, second):
    return list(first.params) == list(second.params) and all(
        torch.equal(first.params[name], second.params[name]) for name in first.params
    )


def test_the_avatar_gets_the_colours_of_each_views_prompt(body):
    settings = small_settings(steps=60, batch=3)
    settings.splats.lr = LearningRates(sh0=0.1, sh0_final=0.05)  # a short run
    result = optimize(settings.training, body, ColorPrior(), color_prompts())
    posed = body.pose(a_pose())
    views = fixed_views(posed, [Framing.BODY] * 4, [0.0, 180.0, 90.0, -90.0], 64)
    with torch.no_grad():
        render = rasterize(result.model.pose(posed), views.cameras)
    images = zip(render.rgb, render.alpha, strict=True)
    seen = [image[alpha[..., 0] > 0.95].median(0).values for image, alpha in images]
    front, back, left, right = torch.stack(seen) - torch.stack(seen).mean(0)
    red, green, blue = 0, 1, 2
    assert front[red] > 0.1 and back[blue] > 0.1, seen
    # what the sides show is also seen, slanting, from the front and the back
    assert left[green] > 0.02 and right[green] > 0.02, seen
    assert result.metrics["steps"] == 60 and result.metrics["prior_calls"] == 60 * 3 * 2
    parts = {"scene", "render", "encode", "prior", "backward", "update", "total"}
    assert set(result.metrics["seconds_per_step"]) == parts


@pytest.mark.parametrize("method", ["sds", "de_sds", "vsd"])
def test_a_killed_and_resumed_run_ends_with_the_same_bytes(body, tmp_path, method):
    prior = load_prior(PriorConfig(name="custom", path=str(save_prior(tmp_path / "prior"))))
    settings = small_settings(checkpoint_every=5, poses=PoseMode.random)
    settings.guidance.method = method
    settings.guidance.de_sds.warmup = 0.1
    prompts = bucket_prompts("a man in red", "", settings.prior.prompts)
    whole = optimize(settings.training, body, prior, prompts, RunFolder(tmp_path / "whole"))

    class Killed(Exception):
        pass

    def kill(state, report):
        if state.step == 7:  # two steps after the last checkpoint
            raise Killed

    with pytest.raises(Killed):
        optimize(settings.training, body, prior, prompts, RunFolder(tmp_path / "halves"), on_step=kill)
    torch.manual_seed(123)  # nothing may depend on torch's global generator
    steps = []
    resumed = optimize(
        settings.training,
        body,
        prior,
        prompts,
        RunFolder(tmp_path / "halves"),
        on_step=lambda state, _: steps.append(state.step),
    )
    assert steps == list(range(6, 13))
    assert len(whole.model) != settings.splats.count, "density control should have been at work"
    assert same_bytes(whole.model, resumed.model)
    assert resumed.metrics["prior_calls"] == whole.metrics["prior_calls"]
    saved = load_avatar(RunFolder(tmp_path / "halves").avatar_checkpoint, SplatsConfig())[0]
    assert same_bytes(saved, whole.model)


def test_a_run_that_starts_with_the_tiny_encoder_resumes_exactly(body, tmp_path):
    """It is killed while the tiny encoder is at work, which encodes the first third; the VAE the rest."""
    torch.manual_seed(5)
    blocks: dict[str, Any] = {f"{half}_block_out_channels": (8, 8) for half in ("encoder", "decoder")}
    blocks |= {f"num_{half}_blocks": (1, 1) for half in ("encoder", "decoder")}
    AutoencoderTiny(**blocks).save_pretrained(tmp_path / "tiny")
    config = PriorConfig(
        name="custom",
        path=str(save_prior(tmp_path / "prior")),
        encoder=Encoder.tiny,
        tiny_encoder=str(tmp_path / "tiny"),
        tiny_until=0.34,
    )
    prior, used = load_prior(config), []
    for name in ("encode_tiny", "encode_images"):
        original = getattr(prior, name)
        setattr(prior, name, lambda images, name=name, original=original: used.append(name) or original(images))
    settings = small_settings(checkpoint_every=2)
    settings.guidance.inner_steps = 2
    prompts = bucket_prompts("a man in red", "", settings.prior.prompts)
    whole = optimize(settings.training, body, prior, prompts, RunFolder(tmp_path / "whole"))
    assert used == ["encode_tiny"] * 2 * 5 + ["encode_images"] * 2 * 7

    def interrupt(state, report):
        if state.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        optimize(settings.training, body, prior, prompts, RunFolder(tmp_path / "halves"), on_step=interrupt)
    used.clear()
    resumed = optimize(settings.training, body, prior, prompts, RunFolder(tmp_path / "halves"))
    assert used == ["encode_tiny"] * 2 * 2 + ["encode_images"] * 2 * 7
    assert same_bytes(whole.model, resumed.model)


def test_ctrl_c_writes_a_checkpoint_and_the_run_resumes_from_it(body, tmp_path):
    settings, run = small_settings(), RunFolder(tmp_path)

    def interrupt(state, report):
        if state.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        optimize(settings.training, body, ColorPrior(), color_prompts(), run, on_step=interrupt)
    steps = []
    optimize(
        settings.training, body, ColorPrior(), color_prompts(), run, on_step=lambda state, _: steps.append(state.step)
    )
    assert steps == list(range(5, 13))


def test_a_checkpoint_of_another_run_is_refused(body, tmp_path):
    run = RunFolder(tmp_path)
    optimize(small_settings(steps=2).training, body, ColorPrior(), color_prompts(), run)
    with pytest.raises(UserError, match=r"optimize\.steps=2, this one 1: steps can only be added"):
        optimize(small_settings(steps=1).training, body, ColorPrior(), color_prompts(), run)
    other = small_settings(steps=2)
    other.prompt = "stripes"
    with pytest.raises(UserError, match=r"its run has prompt=colours, this one stripes"):
        optimize(other.training, body, ColorPrior(), color_prompts(), run)
    other = small_settings(steps=2, batch=3)
    with pytest.raises(UserError, match=r"its run has optimize\.batch=2, this one 3"):
        optimize(other.training, body, ColorPrior(), color_prompts(), run)


def test_a_finished_run_goes_on_with_more_steps(body, tmp_path, caplog):
    run, steps = RunFolder(tmp_path), []
    optimize(small_settings(steps=3).training, body, ColorPrior(), color_prompts(), run)
    more = small_settings(steps=5, preview_every=0).training
    optimize(more, body, ColorPrior(), color_prompts(), run, on_step=lambda state, _: steps.append(state.step))
    assert steps == [4, 5]
    assert "optimize.steps was 3" in caplog.text and "60 % of a run of 5 steps" in caplog.text


def test_a_truncated_checkpoint_is_refused_in_one_line(body, tmp_path):
    run = RunFolder(tmp_path)
    optimize(small_settings(steps=2).training, body, ColorPrior(), color_prompts(), run)
    path = run.avatar_checkpoint
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"last\.safetensors"):
        optimize(small_settings(steps=2).training, body, ColorPrior(), color_prompts(), run)


class BrokenEncoder(ColorPrior):
    """Images of some steps have no finite latents."""

    def __init__(self, broken):
        super().__init__()
        self.broken, self.images = broken, 0

    def encode_images(self, images):
        self.images += 1
        return super().encode_images(images) * (float("nan") if self.images in self.broken else 1.0)


def test_steps_without_finite_gradients_are_skipped_and_counted(body):
    result = optimize(small_settings().training, body, BrokenEncoder({3, 4, 9}), color_prompts())
    assert result.metrics["skipped_steps"] == 3
    assert all(bool(value.isfinite().all()) for value in result.model.params.values())


def test_a_diverged_run_ends_with_an_explanation(body):
    with pytest.raises(UserError, match=r"VAE's encoder gave latents that are NaN.*guidance\.cfg_scale"):
        optimize(small_settings(max_bad_steps=3).training, body, BrokenEncoder({4, 5, 6}), color_prompts())


class BrokenUnet(ColorPrior):
    """Predictions of some calls are not finite, as in half precision that overflows."""

    def __init__(self, bad, value=float("nan")):
        super().__init__()
        self.bad, self.value, self.asked = bad, value, 0

    def eps(self, z_t, t, cond, control):
        self.asked += 1
        eps = super().eps(z_t, t, cond, control)
        if self.asked in self.bad:
            eps[0, 0, 0, 0] = self.value
        return eps


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_predictions_that_are_not_finite_are_counted_and_named(body, value, caplog):
    """One bad value in one prediction: the step is skipped, and no splat moves by the rest of it."""
    settings = small_settings(steps=6)
    settings.guidance = plain_guidance(method="sds")
    result = optimize(settings.training, body, BrokenUnet({2, 3}, value), color_prompts())
    assert result.metrics["skipped_steps"] == 2
    said = [record.message for record in caplog.records if "is skipped" in record.message]
    assert said == ["step 2 is skipped: UNet or ControlNet gave predictions that are NaN or infinite"]


@pytest.mark.parametrize("steps", [4, 40])
@pytest.mark.parametrize("method", ["de_sds", "sds"])
def test_a_prior_that_predicts_nan_ends_the_run_with_an_explanation(body, steps, method, tmp_path):
    """However short the run is, and also while y_con warms up; a bare body is never called finished."""
    settings = small_settings(steps=steps)
    settings.guidance = plain_guidance(method=method)
    settings.guidance.de_sds.warmup = 0.5
    prior = BrokenUnet(range(1, 1000))
    with pytest.raises(UserError, match=r"UNet or ControlNet gave predictions that are NaN.*prior\.precision=float32"):
        optimize(settings.training, body, prior, color_prompts(), RunFolder(tmp_path))
    assert prior.asked <= 2 * settings.optimize.max_bad_steps


def test_previews_and_scalars_are_written(body, tmp_path):
    from PIL import Image

    settings = small_settings(steps=4, preview_every=2, tensorboard=True, supersample=2)
    optimize(settings.training, body, ColorPrior(), color_prompts(), RunFolder(tmp_path))
    sheets = sorted(path.name for path in (tmp_path / "previews").iterdir())
    assert sheets == ["step_000002.png", "step_000004.png"]
    image = Image.open(tmp_path / "previews" / sheets[0])
    assert image.size == (4 * 32 + 8 + 2 * 32, 4 * 32)
    assert list((tmp_path / "tensorboard").iterdir())


def test_guidance_none_leaves_the_colours_as_they_are(body):
    settings = small_settings()
    settings.guidance.method = "none"
    result = optimize(settings.training, body, ColorPrior(), color_prompts())
    torch.testing.assert_close(result.model.colors(), torch.full((len(result.model), 3), 0.5))
