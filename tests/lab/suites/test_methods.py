"""suite=methods: what is compared and with how many steps, the summary on made-up records, and the suite from end to
end with a prior and a scorer of random weights."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image

from avatar_gs.core.errors import UserError
from avatar_gs.guidance.config import METHODS
from avatar_gs.guidance.presets import named_preset, preset_names
from avatar_gs.lab.metrics.avatar import Measurement, ViewImages
from avatar_gs.lab.metrics.colours import PartView
from avatar_gs.lab.metrics.truth import cases
from avatar_gs.lab.scorer.model import EMBEDDING
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.stages.evaluate import run_suite
from avatar_gs.lab.suites import methods
from avatar_gs.lab.suites import methods_report as report
from avatar_gs.lab.suites.config import EvaluateConfig, SuiteName
from avatar_gs.lab.suites.methods import MethodsJob, MethodsSuite, around, compared, saturation
from avatar_gs.lab.suites.methods_report import DEFAULT, MethodsRecord
from avatar_gs.lab.suites.suite import restored
from avatar_gs.splats.config import DensityConfig, SplatsConfig
from avatar_gs.training.config import OptimizeConfig
from tests.lab.settings import lab_settings


def small_settings(*methods: str) -> LabSettings:
    """One prompt, one seed, four steps."""
    return lab_settings(
        stage="evaluate",
        suite=SuiteName.methods,
        splats=SplatsConfig(count=300),
        density=DensityConfig(enabled=False),
        optimize=OptimizeConfig(batch=1),
        evaluate=EvaluateConfig(methods=list(methods), method_prompts=1, method_seeds=1, method_steps=4),
    )


# ---- the plan


def test_every_method_that_starts_from_scratch_is_compared():
    found = {named_preset(name).method for name in compared(EvaluateConfig())}
    assert found == {name for name, method in METHODS.items() if not method.edits} - {"none"}
    assert "annealed_nfsd" in compared(EvaluateConfig()), "a preset of its own"
    assert compared(EvaluateConfig(methods=["csd", "rescaled_de_sds"])) == ["csd", "rescaled_de_sds"]
    assert all(named_preset(name) is not None for name in preset_names())


@pytest.mark.parametrize(
    ("name", "said"), [("pds", "no avatar from nothing"), ("sdz", "expected one of anchored_de_sds")]
)
def test_what_cannot_be_compared_is_refused(name, said):
    with pytest.raises(UserError, match=said):
        compared(EvaluateConfig(methods=[name]))


def test_methods_that_ask_more_get_fewer_steps_at_equal_compute(prior, tmp_path):
    config = EvaluateConfig(methods=["sds", "hifa"], method_prompts=1, method_seeds=2, method_steps=100)
    suite = MethodsSuite(lab_settings(small_settings(), evaluate=config, seed=3), prior, tmp_path)
    jobs = list(suite.plan())
    assert len(jobs) == 2 * 2 * 2 and {job.steps for job in jobs} == {100} and {job.seed for job in jobs} == {3, 4}
    per_step = {"sds": 2, "hifa": 8}
    records = [record(job.variant, steps=100, calls=per_step[job.variant] * 100 * 2, batch=2) for job in jobs]
    steps = {job.variant: job.steps for job in suite.equal_compute(jobs, records)}
    assert steps == {"sds": 150, "hifa": round(300 / 8)}
    spent = {name: steps[name] * per_step[name] for name in steps}
    assert max(spent.values()) / min(spent.values()) < 1.03


def test_methods_differ_in_guidance_steps_and_controlnet_only(prior, scorer, tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "load_scorer", lambda: scorer)
    suite, case = MethodsSuite(small_settings(), prior, tmp_path), cases(1)[0]
    job = MethodsJob("vsd", case, 0, 7)
    one, free = suite.settings_of(job), suite.settings_of(replace(job, control=False))
    assert one.guidance == named_preset("vsd") and one.optimize.steps == 7
    assert free.prior.control_scale == 0 < one.prior.control_scale
    assert replace(free, prior=one.prior) == one
    assert replace(one, guidance=suite.settings.guidance, optimize=suite.settings.optimize) == replace(
        suite.settings, prompt=case.prompt
    )
    others = [
        job,
        replace(job, control=False),
        replace(job, variant="csd"),
        replace(job, steps=8),
        replace(job, seed=1),
    ]
    assert len({suite.key(other) for other in others}) == 5


# ---- the summary


def record(preset="sds", *, calls=400, right=True, axis=0, wasserstein=3.0, **changes) -> MethodsRecord:
    names = {"red": 90, "blue": 10} if right else {"blue": 100}
    views = [PartView("body", "front", 100, names, [1.0, 0.0, 0.0])]
    orbit = [np.eye(EMBEDDING)[axis].tolist()] * 8
    facts = {
        "control": True,
        "prompt": "a man",
        "seed": 0,
        "steps": 100,
        "batch": 2,
        "asked": {"shirt": "red"},
        "saturation": {"difference": -1.0, "wasserstein": wasserstein},
        "seconds": 10.0,
    }
    end = Measurement({"shirt": views}, {}, 0.0)
    return MethodsRecord(preset=preset, end=end, orbit=orbit, metrics={"prior_calls": calls}, **(facts | changes))


def test_rows_of_known_records():
    row = report.row([record(), record(seed=1, axis=1, right=False, wasserstein=5.0)])
    assert row["right"] == 0.5 and row["pixels"] == 0.45 and row["calls_per_step"] == 2
    assert row["saturation"] == 4 and row["chroma"] == -1 and row["std"]["saturation"] == pytest.approx(2**0.5)
    assert row["view_distance"] == pytest.approx(0), "all sides are alike"
    assert row["diversity"] == pytest.approx(1), "and the seeds are not"
    alone = report.row([record(saturation=None)])
    assert alone["diversity"] is None and alone["saturation"] is None and alone["std"]["right"] is None


def test_the_report_names_where_the_default_loses():
    some = report.rows([record(DEFAULT, right=False, wasserstein=1.0), record("sds", seconds=20.0)])
    lost = {entry["figure"]: entry["preset"] for entry in report.behind(some)}
    assert lost == {"right": "sds"}
    assert report.behind(report.rows([record("sds")])) == []
    assert "*not* the best in: colours right (0.00; sds 1.00)" in report._reading(some, report.behind(some))
    assert "was not among them" in report._reading(report.rows([record("sds")]), [])
    table = report._table(some)
    assert "| **1.0** |" in table and "| **1.00** |" in table


def test_records_survive_json():
    one = record()
    assert restored(MethodsRecord, json.loads(json.dumps(asdict(one)))) == one


def test_saturation_compares_the_figure_alone():
    inside = around().inside
    alpha = np.ones(inside.shape, np.float32)
    rgb = np.zeros((*inside.shape, 3), np.float32)
    rgb[..., 0] = 1.0
    rgb[inside] = 0.5  # a grey figure before red
    grey = np.full((5, 3), 0.5)
    found = saturation(ViewImages(rgb, alpha), grey)
    assert found is not None and found["wasserstein"] == pytest.approx(0, abs=0.1)
    assert saturation(ViewImages(rgb, 0 * alpha), grey) is None


# ---- the suite


def test_methods_are_compared_reported_and_never_made_twice(prior, scorer, tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "load_scorer", lambda: scorer)
    settings, arguments = small_settings("nfsd", "csd"), ["stage=evaluate", "suite=methods"]
    text = run_suite(settings, prior, tmp_path, arguments).read_text()
    results = json.loads((tmp_path / "results.json").read_text())
    tables = results["figures"]["modes"]
    for table in tables.values():
        assert [(one["preset"], one["control"]) for one in table] == [
            ("nfsd", True), ("csd", True), ("nfsd", False), ("csd", False)
        ]  # fmt: skip
    steps = {mode: {one["preset"]: one["steps"] for one in table} for mode, table in tables.items()}
    assert steps["equal steps"] == {"nfsd": 4, "csd": 4}
    assert steps["equal compute"]["csd"] == 6, "two calls a step instead of three"
    assert "evaluate.method_prompts=12 evaluate.method_seeds=5 evaluate.method_steps=250" in text
    assert text.count(f"The default ({DEFAULT}) was not among them.") == 4 and "s = 7.5, t uniform" in text
    assert prior.control_scale == 1, "the prior is left as it was"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 9 * 96
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "avatars").iterdir()}
    run_suite(settings, prior, tmp_path, arguments)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "avatars").iterdir()} == kept
    assert json.loads((tmp_path / "results.json").read_text())["figures"] == results["figures"]


def test_without_controlnet_is_as_if_there_were_no_pose_map(prior):
    """A scale of 0 leaves the ControlNet out, and the time that it takes."""
    z, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    cond, control = prior.encode_prompts(["a man"]), torch.rand(1, 16, 16, 3)
    with torch.no_grad():
        heard, without = prior.eps(z, t, cond, control), prior.eps(z, t, cond, None)
        uncontrolled = prior.with_control_scale(0.0)
        torch.testing.assert_close(uncontrolled.eps(z, t, cond, control), without, rtol=0, atol=0)
    assert not torch.equal(heard, without)
