"""Runs that diverge with finite numbers are noticed within 50 steps; a healthy run is not accused."""

import pytest
import torch

from avatar_gs.splats.config import LearningRates
from avatar_gs.training import watch
from avatar_gs.training.loop import optimize
from tests.training.conftest import ColorPrior, color_prompts, small_settings


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if "diverges" in record.getMessage()]


def diverge(body, spoil, steps=50):
    """A run of ``steps``, after each of which ``spoil`` changes the splats."""
    settings = small_settings(steps=steps, batch=1)
    settings.density.enabled = False
    settings.splats.lr = LearningRates(**dict.fromkeys(vars(LearningRates()), 0.0))

    def on_step(state, report):
        with torch.no_grad():
            spoil(state)

    optimize(settings.training, body, ColorPrior(), color_prompts(), on_step=on_step)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda state: state.model.params["opacities"].sub_(0.5), "the avatar is transparent in all views"),
        (lambda state: state.model.params["scales"].add_(0.1).clamp_(max=-2.996), "times as large as at the start"),
        (lambda state: state.model.params["sh0"].add_(1.0).sign_().mul_(1.7725), "100 % of the colours are at 0 or 1"),
    ],
)
def test_divergence_is_reported_once_within_fifty_steps(body, caplog, spoil, words):
    diverge(body, spoil)
    (message,) = warnings_of(caplog)
    assert words in message and "lower splats.lr" in message.replace("guidance.cfg_scale or ", "")


def test_a_healthy_run_is_not_accused(body, caplog):
    diverge(body, lambda state: None, steps=2 * watch.WATCH_EVERY)
    assert not warnings_of(caplog)
