"""suite=shading: what each row switches on, how looks are drawn and found, and that it is resumed."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from avatar_gs.core.errors import UserError
from avatar_gs.core.seeding import generator
from avatar_gs.lab.metrics.avatar import Measurement
from avatar_gs.lab.metrics.colours import PartView
from avatar_gs.lab.metrics.shading import Retrieval, render_shades, truth_images
from avatar_gs.lab.metrics.truth import cases
from avatar_gs.lab.metrics.views import neutral_body
from avatar_gs.lab.scorer.model import load_scorer
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.stages.evaluate import run_suite
from avatar_gs.lab.suites import suite
from avatar_gs.lab.suites.config import EvaluateConfig, SuiteName
from avatar_gs.lab.suites.shading import FRONT_ONLY, Row, ShadingSuite, right_views
from avatar_gs.lab.suites.suite import Job
from avatar_gs.render.config import ShadingConfig
from avatar_gs.render.shading import Shade
from avatar_gs.splats.config import DensityConfig, SplatsConfig
from avatar_gs.splats.surface import surface_splats
from avatar_gs.training.config import OptimizeConfig
from tests.lab.settings import lab_settings
from tests.plain import plain_guidance


def small_settings() -> LabSettings:
    return lab_settings(
        stage="evaluate",
        suite=SuiteName.shading,
        guidance=plain_guidance(method="sds"),
        splats=SplatsConfig(count=300),
        density=DensityConfig(enabled=False),
        optimize=OptimizeConfig(steps=2, batch=1),
        evaluate=EvaluateConfig(ablated=1),
    )


def test_each_row_adds_one_thing(prior, tmp_path):
    ablation = ShadingSuite(lab_settings(), prior, tmp_path)
    made = {row: ablation.settings_of(Job(row, cases(1)[0], 3)) for row in Row}
    switches = {
        row: (
            made[row].cameras.azimuth_max == 180,
            made[row].prior.prompts.view_words,
            made[row].optimize.shading.probability > 0,
            made[row].optimize.shading.textureless > 0,
        )
        for row in Row
    }
    assert [sum(switched) for switched in switches.values()] == [0, 1, 2, 3, 4]
    assert all(later >= earlier for earlier, later in pairwise(switches.values()))
    assert (made[Row.NOTHING].cameras.azimuth_min, made[Row.NOTHING].cameras.azimuth_max) == (-FRONT_ONLY, FRONT_ONLY)
    assert {(s.prompt, s.seed) for s in made.values()} == {(cases(1)[0].prompt, 3)}
    plain = lab_settings(prompt=cases(1)[0].prompt, seed=3)
    view_dep = made[Row.VIEW_DEP]
    view_dep.optimize.shading = plain.optimize.shading
    assert view_dep.plain() == plain.plain(), "the default job is the row ViewDep"


def test_every_prompt_has_every_row_and_keys_tell_them_apart(prior, tmp_path):
    settings = lab_settings(small_settings(), evaluate=EvaluateConfig(ablated=2, seeds=2), seed=5)
    ablation = ShadingSuite(settings, prior, tmp_path)
    jobs = list(ablation.plan())
    assert len(jobs) == len({(job.variant, job.subject.prompt, job.seed) for job in jobs}) == 2 * 2 * len(Row)
    assert len({ablation.key(job) for job in jobs}) == len(jobs)
    longer = replace(small_settings(), optimize=OptimizeConfig(steps=3, batch=1))
    assert ShadingSuite(longer, prior, tmp_path).key(jobs[0]) != ablation.key(jobs[0])


def test_looks_differ_in_what_they_show(viewpoints):
    body = neutral_body("cpu")
    model = surface_splats(SplatsConfig(count=1500), body.rest(), body.weights, generator(0, 0, "splats"))
    with torch.no_grad():
        model.params["sh0"][..., 0] = 1.5  # reddish
    looks = render_shades(model, viewpoints, ShadingConfig(ambient=0.1, diffuse=0.9))
    albedo, lit, white = (looks[shade] for shade in Shade)
    assert np.array_equal(albedo.alpha, lit.alpha) and np.array_equal(albedo.alpha, white.alpha)
    solid = albedo.alpha > 0.99
    colour = albedo.rgb[solid][0]
    np.testing.assert_allclose(albedo.rgb[solid], np.broadcast_to(colour, albedo.rgb[solid].shape), atol=0.02)
    np.testing.assert_allclose(lit.rgb[solid], white.rgb[solid] * colour, atol=0.02)
    np.testing.assert_allclose(np.ptp(white.rgb[solid], axis=-1), 0, atol=1e-5)
    assert white.rgb[solid].min() > 0.05 and white.rgb[solid].max() > 0.9 and white.rgb[solid].std() > 0.1


def test_drawn_truth_is_found_and_a_wrong_person_is_not(truths):
    retrieval = Retrieval(load_scorer(), truths[0].viewpoints)
    right = [hit for t in truths for hit in retrieval.found(t.case, truth_images(t)).values()]
    wrong = [hit for t in truths[1:] for hit in retrieval.found(truths[0].case, truth_images(t)).values()]
    assert len(right) == 12 and sum(right) > 6 and not any(wrong)
    assert len(set(retrieval.prompts)) == len(retrieval.prompts) == 64
    with pytest.raises(ValueError, match="not in list"):
        retrieval.found(cases(70)[69], truth_images(truths[0]))


def test_fractions_of_right_views():
    def view(direction, right):
        names = {"red": 90, "blue": 10} if right else {"blue": 100}
        return PartView("body", direction, 100, names, [0.5, 0.5, 0.5])

    views = [view("front", True), view("front", True), view("back", False), view("left", True)]
    fractions = right_views(Measurement({"shirt": views}, {}, 0.0), {"shirt": "red", "hat": "green"})
    assert fractions == {"all": 0.75, "front": 1.0, "back": 0.0, "left": 1.0, "right": None}


def test_the_ablation_is_measured_reported_and_resumed(prior, tmp_path, monkeypatch):
    settings, arguments = small_settings(), ["stage=evaluate", "suite=shading"]
    report = run_suite(settings, prior, tmp_path, arguments)
    results = json.loads((tmp_path / "results.json").read_text())
    figures, text = results["figures"], report.read_text()
    assert list(figures["rows"]) == [row.value for row in Row]
    for name, row in figures["rows"].items():
        assert row["avatars"] == 1 and f"| {name} |" in text
        assert set(row["found"]) == {"albedo", "shaded", "textureless"}
    assert figures["controls"]["truth"]["mean"] >= 0.5 and (tmp_path / "sheet.png").stat().st_size > 10_000

    def never(*_, **__):
        raise AssertionError("made twice")

    monkeypatch.setattr(suite, "optimize", never)
    run_suite(settings, prior, tmp_path, arguments)
    assert json.loads((tmp_path / "results.json").read_text())["figures"] == figures
    (tmp_path / "avatars" / f"{figures['avatars'][2]}.json").unlink()
    with pytest.raises(AssertionError, match="made twice"):
        run_suite(settings, prior, tmp_path, arguments)


@pytest.mark.parametrize("count", [0, 65])
def test_more_prompts_than_the_pool_holds_are_refused(count):
    with pytest.raises(UserError, match=rf"^evaluate\.ablated={count}: [^\n]*$"):
        EvaluateConfig(ablated=count)
