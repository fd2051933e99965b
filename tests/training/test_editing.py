"""A run may begin with another's avatar, and editing methods move it by what the two prompts differ in."""

from dataclasses import replace

import pytest
import torch

from avatar_gs.body.config import BodyConfig
from avatar_gs.body.model import load_body
from avatar_gs.body.pose import a_pose
from avatar_gs.core.errors import UserError
from avatar_gs.core.io import load_state, save_state
from avatar_gs.core.runs import RunFolder
from avatar_gs.guidance.cfg import Unconditional
from avatar_gs.guidance.schedule import Weight
from avatar_gs.prior.config import PriorConfig
from avatar_gs.prior.prompts import bucket_prompts
from avatar_gs.prior.stable_diffusion import load_prior
from avatar_gs.render.cameras import fixed_views
from avatar_gs.render.rasterize import rasterize
from avatar_gs.training.config import LossesConfig, PoseMode
from avatar_gs.training.init import load_init
from avatar_gs.training.loop import optimize
from avatar_gs.training.step import Trainer
from avatar_gs.types import Framing, ViewDirection
from tests.plain import plain_guidance
from tests.tiny import save_prior
from tests.training.conftest import ColorPrior, color_prompts, edit_prompts, small_settings

EDITING = ["dds", "pds"]


@pytest.fixture(scope="module")
def anna(body, tmp_path_factory):
    """The folder of a run: red in front, blue behind."""
    run = RunFolder(tmp_path_factory.mktemp("runs") / "anna")
    optimize(small_settings(steps=30, batch=3).training, body, ColorPrior(), color_prompts(), run)
    run.record("optimize")
    return run.path


def editing(anna, method, **optimize):
    """Settings of an edit without regularisers, which know nothing of what was there."""
    settings = small_settings(losses=LossesConfig(scale=0.0, distance=0.0), **optimize)
    settings.init = str(anna)
    settings.guidance = plain_guidance(
        method=method, cfg_scale=1.0, unconditional=Unconditional.empty, weight=Weight.one
    )
    return settings


def unchanged():
    """Prompts that ask for what anna's avatar shows."""
    return edit_prompts(color_prompts(), color_prompts())


def seen(model, body, azimuth):
    """The median colour of an image's solid pixels."""
    posed = body.pose(a_pose())
    views = fixed_views(posed, [Framing.BODY], [azimuth], 64)
    with torch.no_grad():
        render = rasterize(model.pose(posed), views.cameras)
    return render.rgb[render.alpha[..., 0] > 0.95].median(0).values


@pytest.mark.parametrize("method", EDITING)
def test_equal_prompts_change_nothing(anna, body, method):
    settings, gradients = editing(anna, method, steps=1), []
    initial = load_init(settings.training, body)
    result = optimize(
        settings.training,
        body,
        ColorPrior(),
        unchanged(),
        init=initial,
        on_step=lambda _, report: gradients.append(report.distilled.grad),
    )
    assert len(gradients) == 1 and not gradients[0].any()
    for name in ("means", "quats", "scales", "opacities", "sh0"):
        torch.testing.assert_close(result.model.params[name].detach(), initial.model.params[name], atol=1e-6, rtol=1e-6)
    assert result.metrics["prior_calls"] == 2 * 4


@pytest.mark.parametrize("method", EDITING)
def test_only_the_difference_between_the_prompts_changes(anna, body, method):
    """Behind, blue becomes green; in front nothing is asked, and little of the back is seen."""
    settings = editing(anna, method, steps=80)
    initial = load_init(settings.training, body)
    asked = {
        bucket: replace(prompt, positive="green") if bucket.direction is ViewDirection.BACK else prompt
        for bucket, prompt in unchanged().items()
    }
    result = optimize(settings.training, body, ColorPrior(), asked, init=initial)
    front, back = (seen(result.model, body, angle) - seen(initial.model, body, angle) for angle in (0.0, 180.0))
    assert back[1] > 0.1 and back[2] < -0.1, back
    assert back[0].abs() < 0.02, "both have as much red"
    assert front.abs().max() < 0.2 * back.abs().max(), front
    assert len(result.model) == len(initial.model)


@pytest.mark.parametrize("method", EDITING)
def test_a_killed_and_resumed_edit_ends_with_the_same_bytes(anna, body, tmp_path, method):
    prior = load_prior(PriorConfig(name="custom", path=str(save_prior(tmp_path / "prior"))))
    settings = small_settings(steps=8, checkpoint_every=3, poses=PoseMode.random)
    settings.init, settings.guidance.method = str(anna), method
    shown, wanted = (bucket_prompts(f"a man in {color}", "", settings.prior.prompts) for color in ("red", "blue"))
    prompts = edit_prompts(shown, wanted)

    def run(name, on_step=None):
        initial = load_init(settings.training, body)
        return optimize(
            settings.training, body, prior, prompts, RunFolder(tmp_path / name), init=initial, on_step=on_step
        )

    class Killed(Exception):
        pass

    def kill(state, report):
        if state.step == 5:
            raise Killed

    whole = run("whole")
    with pytest.raises(Killed):
        run("halves", kill)
    torch.manual_seed(123)  # nothing may depend on torch's global generator
    steps = []
    resumed = run("halves", lambda state, _: steps.append(state.step))
    assert steps == [4, 5, 6, 7, 8]
    for name, value in whole.model.params.items():
        assert torch.equal(value, resumed.model.params[name]), name
    assert not torch.equal(whole.model.params["sh0"], load_init(settings.training, body).model.params["sh0"])


def test_an_edit_does_not_resume_from_another_avatar(anna, body, tmp_path):
    copy = RunFolder(tmp_path / "copy")
    tensors, facts = load_state(RunFolder(anna).avatar_checkpoint)
    save_state(copy.avatar_checkpoint, tensors, facts)
    settings, run = editing(copy.path, "pds", steps=2), RunFolder(tmp_path / "edit")
    first = load_init(settings.training, body)
    optimize(settings.training, body, ColorPrior(), unchanged(), run, init=first)
    tensors["splats/sh0"] += 0.01
    save_state(copy.avatar_checkpoint, tensors, facts)
    changed = load_init(settings.training, body)
    assert changed.digest != first.digest
    with pytest.raises(UserError, match=r"began with \(init=…\) has changed since.*overwrite=true"):
        optimize(settings.training, body, ColorPrior(), unchanged(), run, init=changed)


def test_any_method_can_start_from_an_avatar(anna, body):
    """Its sizes are judged by those that its own run began with; only editing leaves the number of splats alone."""
    prior, settings = ColorPrior(), editing(anna, "sds")
    initial = load_init(settings.training, body)

    def state_of(init):
        return Trainer.build(settings.training, body, prior, unchanged(), init).first_state(body, init)

    state = state_of(initial)
    assert torch.equal(state.model.params["means"], initial.model.params["means"])
    assert state.model.params["means"].requires_grad and not initial.model.params["means"].requires_grad
    grey = state_of(None)
    torch.testing.assert_close(state.strategy.unit, grey.strategy.unit)
    assert state.strategy.config.enabled and state.damping == 0
    settings.guidance.method = "pds"
    edit = state_of(initial)
    assert not edit.strategy.config.enabled and edit.damping == settings.splats.edit_damping > 0
    settings.density.editing = True
    assert state_of(initial).strategy.config.enabled


@pytest.mark.parametrize("method", EDITING)
def test_editing_without_an_avatar_is_refused(anna, body, method):
    with pytest.raises(UserError, match=f"guidance={method} .*init="):
        optimize(editing(anna, method).training, body, ColorPrior(), color_prompts())


def test_an_avatar_of_another_body_is_refused(anna):
    taller = load_body(BodyConfig(betas=[2.0]))
    with pytest.raises(UserError, match=r"made on another body.*body\.betas") as caught:
        load_init(editing(anna, "pds").training, taller)
    assert "\n" not in str(caught.value)


def test_a_folder_without_an_avatar_is_refused(body, tmp_path):
    with pytest.raises(UserError, match="no avatar is there"):
        load_init(editing(tmp_path, "pds").training, body)
