"""The loop with an analytic prior."""

import math
import os
import signal

import numpy as np
import pytest
import torch

from avatar_gs.core.errors import UserError
from avatar_gs.guidance.distill import Guidance
from avatar_gs.guidance.schedule import ScheduleConfig, ScheduleKind
from avatar_gs.lab.playground import loop
from avatar_gs.lab.playground.config import FieldKind, Init, LearningRates, PlaygroundConfig
from avatar_gs.lab.playground.fields import build_canvas
from avatar_gs.lab.playground.figures import comparison, evenly, gradient_image
from avatar_gs.lab.playground.loop import Objective, Play, View, play
from avatar_gs.types import Bucket, Framing, ViewDirection
from tests.guidance import analytic
from tests.plain import plain_de_sds

VIEW = View(Bucket(Framing.BODY, ViewDirection.FRONT), None, torch.zeros(1, 16))
HIGH = ScheduleConfig(kind=ScheduleKind.uniform, t_min=0.6, t_max=0.98)  # where SDS's gradient hardly varies


def run(method="sds", seed=0, source=None, field=FieldKind.epl, init=Init.gaussian, start=None, **options):
    prior, conditions = analytic.AnalyticPrior(), analytic.conditions(buckets=(VIEW.bucket,))
    settings = {"steps": 200, "every": 50, "lr": LearningRates(epl=0.05, ehl=0.02)} | options.pop("playground", {})
    config = PlaygroundConfig(field=field, init=init, **settings)
    guidance = analytic.make(prior, conditions, method, schedule=HIGH, **options)
    canvas = build_canvas(config, prior, seed)
    if start is not None:
        canvas.parameters[0].data.fill_(start)
    return canvas, play(canvas, Objective(guidance, conditions, VIEW, source), config, seed)


@pytest.mark.parametrize(("scale", "mode"), [(1.0, 0.5), (2.0, -0.25 + 2 * 0.75)])
def test_sds_converges_to_the_closed_form_mode(scale, mode):
    """The fixed point of SDS is m_n + s (m_y - m_n)."""
    canvas, result = run(cfg_scale=scale)
    assert float(canvas.latents().mean().detach()) == pytest.approx(mode, abs=0.02)
    assert float((canvas.latents() - mode).square().mean().sqrt()) < 0.06
    assert result.curves["grad_norm"][-1] < 0.2 * result.curves["grad_norm"][0]


def test_a_hash_grid_of_latents_converges_there_too():
    canvas, _ = run(cfg_scale=1.0, field=FieldKind.ehl)
    assert float((canvas.latents() - 0.5).square().mean().sqrt()) < 0.15


def test_dds_moves_the_source_by_the_difference_of_the_prompts():
    """DDS's fixed point: x - x_s = s (m_y - m_src), when both are guided away from the same condition."""
    source = torch.full((1, 2, 3, 3), analytic.SOURCE)
    canvas, _ = run("dds", cfg_scale=1.0, source=source, playground={"steps": 400})
    assert float(canvas.latents().mean()) == pytest.approx(analytic.SOURCE + (0.5 + 0.6), abs=0.02)


def test_curves_have_every_step_and_frames_every_few():
    canvas, result = run(playground={"steps": 25, "every": 10})
    assert [frame.step for frame in result.frames] == [0, 10, 20, 24, 25]
    last = result.frames[-1]
    assert last.gradient is None and last.t is None and result.frames[-2].clean is not None
    shown = (canvas.image()[0].clamp(0, 1) * 255).round().byte().numpy()
    assert np.array_equal(last.image, shown)
    assert {"t", "grad_norm", "distance", "std"} <= set(result.curves)
    assert {len(values) for values in result.curves.values()} == {25}
    assert result.curves["distance"][0] > 0
    assert result.prior_calls == 25 * 2


def test_the_same_seed_gives_the_same_bytes_and_another_does_not():
    first, second, other = (run(seed=seed, playground={"steps": 5})[0].latents() for seed in (3, 3, 4))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_the_image_does_not_change_while_y_con_warms_up():
    _, result = run("de_sds", field=FieldKind.ehl, de_sds=plain_de_sds(warmup=0.5), playground={"steps": 6})
    assert result.curves["distance"][:3] == [0, 0, 0] and result.curves["distance"][3] > 0
    assert all(math.isfinite(value) for value in result.curves["loss_learnable"])


def test_inner_steps_move_further_with_the_same_prior_calls():
    once, thrice = (run(inner_steps=count, playground={"steps": 3}) for count in (1, 3))
    assert thrice[1].prior_calls == once[1].prior_calls
    assert thrice[1].curves["distance"][-1] > 1.5 * once[1].curves["distance"][-1]


def test_ctrl_c_returns_the_frames_so_far(monkeypatch):
    update = loop.update

    def interrupted(canvas, *arguments):
        if len(calls) == 12:
            os.kill(os.getpid(), signal.SIGINT)
        calls.append(canvas)
        update(canvas, *arguments)

    calls = []
    monkeypatch.setattr(loop, "update", interrupted)
    _, result = run(playground={"steps": 30, "every": 10})
    assert result.interrupted
    assert [frame.step for frame in result.frames] == [0, 10, 13]
    assert len(result.curves["t"]) == 13


def test_a_diverging_image_is_an_error_of_one_line():
    with pytest.raises(UserError, match=r"sds the image is no longer finite .*playground.lr.epl"):
        run(start=float("inf"))


def test_curves_are_nan_in_steps_without_a_report():
    result = Play("any")
    result.note(0, {"t": 5.0})
    result.note(1, {"t": 4.0, "late": 1.0})
    result.note(2, {"t": 3.0})
    assert result.curves["t"] == [5, 4, 3]
    assert [math.isnan(value) for value in result.curves["late"]] == [True, False, True]


def test_the_gradient_image_is_grey_where_the_gradient_is_zero():
    assert torch.equal(gradient_image(torch.zeros(4, 2, 2)), torch.full((2, 2, 3), 0.5))
    pushed = torch.zeros(4, 2, 2)
    pushed[0, 0, 0] = -3.0  # down the gradient: the first channel grows
    image = gradient_image(pushed)
    assert image[0, 0, 0] == 1 and torch.equal(image[1], torch.full((2, 3), 0.5))


def test_a_comparison_has_a_row_for_each_method_even_an_interrupted_one():
    _, long = run(playground={"steps": 20, "every": 10})
    _, short = run(playground={"steps": 10, "every": 10})
    assert [frame.step for frame in evenly(long.frames, 3)] == [0, 19, 20]
    one = comparison({"a": long.frames}, "", 64)
    two = comparison({"a": long.frames, "b": short.frames}, "", 64)
    assert two.shape[0] > one.shape[0] + 60


def test_no_graph_is_built_while_y_con_warms_up(monkeypatch):
    seen, step = [], Guidance.step

    def watched(self, latents, *arguments, **options):
        seen.append(latents.requires_grad)
        return step(self, latents, *arguments, **options)

    monkeypatch.setattr(Guidance, "step", watched)
    run("de_sds", field=FieldKind.ehl, de_sds=plain_de_sds(warmup=0.5), playground={"steps": 4})
    assert seen == [False, False, True, True]
