"""The curves of a run: which steps they hold, what they are read as, and that an interrupted run has the same."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avatar_gs.core.io import load_state
from avatar_gs.core.runs import RunFolder
from avatar_gs.training.curves import POINTS, Curves, steps_between
from avatar_gs.training.loop import optimize
from tests.training.conftest import ColorPrior, color_prompts, small_settings


@given(st.integers(1, 10**6))
def test_a_run_of_any_length_keeps_few_steps(steps):
    kept = steps // steps_between(steps)
    assert min(steps, POINTS / 2) <= kept <= POINTS


def test_values_keep_five_digits_and_what_is_missing_is_none():
    curves = Curves()
    curves.add(1, {"a": torch.tensor(0.123456789), "count": 7})
    curves.add(2, {"a": torch.tensor(math.nan), "b": torch.tensor(1e-9)})
    stored = curves.plain()
    assert stored == {"steps": [1, 2], "values": {"a": [0.12346, None], "b": [None, 1e-9], "count": [7.0, None]}}
    assert Curves.from_plain(stored).plain() == stored
    assert Curves.from_plain({}).plain() == {"steps": [], "values": {}}


def test_an_interrupted_run_has_the_curves_of_an_unbroken_one(body, tmp_path):
    settings = small_settings(steps=4, checkpoint_every=1).training
    whole = optimize(settings, body, ColorPrior(), color_prompts(), RunFolder(tmp_path / "whole"))

    def stop(state, _):
        if state.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize(settings, body, ColorPrior(), color_prompts(), RunFolder(tmp_path / "broken"), on_step=stop)
    _, facts = load_state(RunFolder(tmp_path / "broken").avatar_checkpoint)
    assert facts["curves"]["steps"] == [1, 2]
    resumed = optimize(settings, body, ColorPrior(), color_prompts(), RunFolder(tmp_path / "broken"))
    assert resumed.curves == whole.curves
    assert whole.curves["steps"] == [1, 2, 3, 4]
    assert all(value > 0 for value in whole.curves["values"]["guidance/grad_norm"])
    assert whole.curves["values"]["splats"][0] == 600
