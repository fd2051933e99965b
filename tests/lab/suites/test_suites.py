"""The suites from end to end with a prior of random weights: reports, resuming, and the controls' spoilt priors."""

import json
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from avatar_gs.cli import overrides
from avatar_gs.core.errors import UserError
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.stages import evaluate
from avatar_gs.lab.stages.evaluate import run_suite
from avatar_gs.lab.suites import colours, prior_samples, suite
from avatar_gs.lab.suites.colours import ColoursSuite, Variant
from avatar_gs.lab.suites.config import EvaluateConfig, SuiteName
from avatar_gs.lab.suites.control_priors import with_random_weights, with_words_exchanged
from avatar_gs.lab.suites.suite import Job
from avatar_gs.lab.world import measure
from avatar_gs.prior.fingerprint import prior_fingerprint
from avatar_gs.splats.config import DensityConfig, SplatsConfig
from avatar_gs.training.config import OptimizeConfig
from tests.lab.settings import lab_settings
from tests.plain import plain_guidance


def small_settings(**options) -> LabSettings:
    """Six avatars of two steps."""
    settings = lab_settings(
        stage="evaluate",
        guidance=plain_guidance(method="sds"),
        splats=SplatsConfig(count=300),
        density=DensityConfig(enabled=False),
        optimize=OptimizeConfig(steps=2, batch=1),
        evaluate=EvaluateConfig(prompts=2, seeds=1, controls=1, red_blue=1, samples=3),
    )
    return lab_settings(settings, **options)


def test_colours_are_measured_reported_and_never_made_twice(prior, tmp_path, monkeypatch, caplog):
    settings, arguments = small_settings(), ["stage=evaluate", "evaluate.prompts=2", "negative_prompt=it's"]
    caplog.set_level(logging.INFO, "avatar_gs")
    report = run_suite(settings, prior, tmp_path, arguments)
    results = json.loads((tmp_path / "results.json").read_text())
    text = report.read_text()
    assert results["label"] == "logic, not photo quality" and "Logic, not photo quality" in text
    assert results["command"] == """avatar-gs stage=evaluate evaluate.prompts=2 'negative_prompt=it'"'"'s'"""
    assert "evaluate.prompts=24 evaluate.seeds=3" in results["full_grid"]["command"]
    assert results["full_grid"]["command"] in text and results["machine"]["cpu"] in text
    figures = results["figures"]
    assert figures["parts"]["shirt"]["end"]["avatars"] == 2 and len(figures["avatars"]) == 6
    assert figures["controls"]["no guidance"]["right"] == 0 and len(figures["controls"]) == 9
    assert {"render", "encode", "prior", "backward"} <= set(figures["costs"]["seconds_per_step"])
    assert set(figures["volumes"]) == {name for case in colours.cases(2) for name in case.volumes} != set()
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
    assert any("left)" in record.message for record in caplog.records), "the time left is logged"

    def never(*_, **__):
        raise AssertionError("made twice")

    monkeypatch.setattr(suite, "optimize", never)
    run_suite(settings, prior, tmp_path, arguments)
    again = json.loads((tmp_path / "results.json").read_text())
    assert again["figures"] == figures
    damaged = tmp_path / "avatars" / f"{figures['avatars'][0]}.json"
    damaged.write_text("{")
    with pytest.raises(AssertionError, match="made twice"):
        run_suite(settings, prior, tmp_path, arguments)


def test_an_interrupted_suite_keeps_what_is_made(prior, tmp_path, monkeypatch):
    made, optimize = [], suite.optimize

    def interrupted(*arguments):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(optimize(*arguments))
        return made[-1]

    settings = small_settings(evaluate=EvaluateConfig(prompts=3, controls=0))
    monkeypatch.setattr(suite, "optimize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ColoursSuite(settings, prior, tmp_path).evaluate()
    made.pop()
    figures, _ = ColoursSuite(settings, prior, tmp_path).evaluate()
    assert len(figures["avatars"]) == 3 and len(made) == 2


def test_the_grey_avatar_of_step_0_is_the_one_that_optimisation_starts_from(prior, tmp_path):
    colours_suite = ColoursSuite(small_settings(), prior, tmp_path)
    job = Job(Variant.NO_GUIDANCE, colours.cases(1)[0], 0)
    record, _ = colours_suite.measure(job, colours_suite.make(job))
    names = {name for views in record.start.parts.values() for view in views for name in view.names}
    assert names <= {"grey", "nothing"} and record.start.parts["shirt"][0].fraction("grey") > 0.9
    for part, views in record.start.parts.items():  # medians differ in the last bit on some processors
        for before, after in zip(views, record.end.parts[part], strict=True):
            assert replace(after, median=before.median) == before, "without guidance, at rest nothing moves"
            assert after.median == pytest.approx(before.median, abs=1e-6)


def test_keys_depend_on_what_results_depend_on(prior, tmp_path):
    case = colours.cases(1)[0]

    def key(variant=Variant.AVATAR, seed=0, **options):
        return ColoursSuite(small_settings(**options), prior, tmp_path).key(Job(variant, case, seed))

    longer = OptimizeConfig(steps=3, batch=1)
    different = [key(), key(Variant.NO_GUIDANCE), key(seed=1), key(optimize=longer), key(negative_prompt="grey")]
    assert len(set(different)) == 5
    assert key() == key(evaluate=EvaluateConfig(prompts=9), name="other", threads=7)
    other = ColoursSuite(small_settings(), with_random_weights(prior, 0), tmp_path).key(Job(Variant.AVATAR, case, 0))
    assert other != key(), "results of other weights"


def test_exchanged_words_exchange_their_meaning(prior):
    exchanged = with_words_exchanged(prior, "red", "blue")
    for asked, meant in (("a red shirt", "a blue shirt"), ("blue in red", "red in blue"), ("green", "green")):
        torch.testing.assert_close(exchanged.encode_prompts([asked]), prior.encode_prompts([meant]))
    assert not torch.equal(exchanged.encode_prompts(["red"]), prior.encode_prompts(["red"]))
    assert exchanged.unet is prior.unet
    with pytest.raises(UserError, match=r"evaluate\.red_blue=0"):
        with_words_exchanged(prior, "red", "crimson")


def test_random_weights_keep_the_architecture_and_nothing_else(prior):
    state = torch.random.get_rng_state()
    spoilt = with_random_weights(prior, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name in ("text_encoder", "vae", "unet", "controlnet"):
        old, new = getattr(prior, name).state_dict(), getattr(spoilt, name).state_dict()
        assert {key: value.shape for key, value in old.items()} == {key: value.shape for key, value in new.items()}
        matrices = [key for key, value in old.items() if value.ndim > 1]
        assert not any(torch.equal(old[key], new[key]) for key in matrices)
    assert prior_fingerprint(spoilt) != prior_fingerprint(prior) == prior_fingerprint(prior)
    assert prior_fingerprint(with_random_weights(prior, 1)) == prior_fingerprint(spoilt)


def test_the_prior_suite_reports_what_measure_scores(prior, tmp_path, monkeypatch):
    asked = {}

    def truths(prior, trials, *, on_batch, **settings):
        asked.update(settings)
        on_batch(len(trials))
        return np.stack([trial.truth for trial in trials])

    monkeypatch.setattr(measure, "sample", truths)
    monkeypatch.setattr(prior_samples, "SIZE", prior.image_size)
    settings = small_settings(suite=SuiteName.prior, seed=3)
    settings.lab.evaluate.pose_scale = 1.5
    report = run_suite(settings, prior, tmp_path, ["stage=evaluate", "suite=prior"])
    figures = json.loads((tmp_path / "results.json").read_text())["figures"]
    assert asked == {"seed": 3} | {name: figures[name] for name in ("steps", "cfg_scale", "pose_scale")}
    assert asked["pose_scale"] == 1.5
    scores = figures["scores"]
    assert scores["silhouette IoU"]["mean"] > 0.9 and scores["silhouette IoU"]["wilson"] is None
    fractions = [row for name, row in scores.items() if name.startswith(("shirt/", "hair/", "bottoms/", "shoes/"))]
    assert fractions and all(row["mean"] == 1 and 0 < row["wilson"] < 1 for row in fractions)
    assert "silhouette IoU" in report.read_text() and (tmp_path / "sheet.png").exists()


def test_the_prior_suite_wants_images_of_its_own_size(prior, tmp_path):
    with pytest.raises(UserError, match="expected 128"):
        run_suite(small_settings(suite=SuiteName.prior), prior, tmp_path, [])


def test_the_stage_writes_below_the_runs_folder(prior, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate, "load_prior", lambda config, device: prior)
    evaluate.run(small_settings(evaluate=EvaluateConfig(prompts=1, controls=0), name="mine"))
    assert (tmp_path / "outputs/mine/evaluate/colours/results.json").exists()
    assert "Avatars follow their prompts" in capsys.readouterr().out
    settings = small_settings()
    settings.body.betas = [1.0]
    with pytest.raises(UserError, match=r"body\.betas"):
        evaluate.run(settings)


def test_evaluations_are_quick_unless_a_preset_is_named():
    assert overrides.rewrite(["stage=evaluate", "suite=prior"])[-1] == "experiment=quick"
    assert overrides.rewrite(["stage=evaluate", "experiment=null"]) == ["stage=evaluate", "experiment=null"]
    assert overrides.rewrite(["stage=optimize"]) == ["stage=optimize"]


@pytest.mark.parametrize("name", ["prompts", "seeds", "controls", "red_blue", "samples"])
def test_absurd_counts_are_refused(name):
    counts: dict[str, Any] = {}
    for value in (-1, 501):
        counts[name] = value
        with pytest.raises(UserError, match=rf"evaluate\.{name}={value}"):
            EvaluateConfig(**counts)
