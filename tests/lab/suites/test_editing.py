"""suite=editing: what is asked for, the figures on drawn people of known worth, and the suite from end to end with a
prior of random weights."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image

from avatar_gs.core.errors import UserError
from avatar_gs.guidance.presets import named_preset
from avatar_gs.lab.metrics.avatar import ViewImages, measure
from avatar_gs.lab.metrics.truth import Truth, render_truth
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.stages.evaluate import run_suite
from avatar_gs.lab.suites import editing_report as report
from avatar_gs.lab.suites.config import EvaluateConfig, SuiteName
from avatar_gs.lab.suites.editing import COMPARED, EditingSuite
from avatar_gs.lab.suites.editing_report import BEFORE, EditRecord
from avatar_gs.lab.suites.edits import CHANGED, Edit, differences, edits, silhouette_overlap
from avatar_gs.lab.suites.suite import restored
from avatar_gs.lab.world.people import held_out, named_colours
from avatar_gs.lab.world.vocabulary import words
from avatar_gs.splats.config import DensityConfig, SplatsConfig
from avatar_gs.training.config import OptimizeConfig
from tests.lab.conftest import true_images
from tests.lab.settings import lab_settings

KEPT = {"hair", "bottoms", "shoes", "face", "skin"}


def small_settings(*methods: str) -> LabSettings:
    """Avatars of two steps, edited for two."""
    return lab_settings(
        stage="evaluate",
        suite=SuiteName.editing,
        splats=SplatsConfig(count=300),
        density=DensityConfig(enabled=False),
        optimize=OptimizeConfig(steps=2, batch=1, preview_every=0),
        evaluate=EvaluateConfig(edit_methods=list(methods), edit_prompts=1, edit_steps=2),
    )


# ---- what is asked for


def test_one_thing_is_changed_and_said():
    some = edits(7)
    assert [edit.changed for edit in some] == [*CHANGED, *CHANGED, CHANGED[0]]
    for edit in some:
        before, after = edit.before, edit.after
        assert held_out(before.person) and held_out(after.person)
        assert {**before.asked, edit.changed: edit.new} == after.asked and edit.new not in before.asked.values()
        assert set(before.asked.values()) <= set(before.prompt.split())
        old, new = before.prompt.split(), after.prompt.split()
        if edit.old:
            assert len(old) == len(new)
            differing = {pair for pair in zip(old, new, strict=True) if pair[0] != pair[1]}
            assert differing - {("a", "an"), ("an", "a")} == {(edit.old, edit.new)}
        else:
            assert after.prompt.endswith(f"{edit.new} hat") and "hat" not in before.prompt
    assert edits(3) == some[:3], "more of them leave the first as they are"


def test_the_packaged_prior_reads_every_word():
    for edit in edits(9):
        assert set(edit.after.prompt.replace(",", "").split()) <= set(words())


def test_unknown_methods_are_refused_before_anything_is_made(prior, tmp_path):
    with pytest.raises(UserError, match="expected one of"):
        list(EditingSuite(small_settings("pdz"), prior, tmp_path).plan())


def test_the_avatar_comes_before_its_edits_and_edits_begin_with_it(prior, tmp_path):
    config = EvaluateConfig(edit_prompts=2, edit_seeds=2, edit_steps=2)
    suite = EditingSuite(lab_settings(small_settings(), evaluate=config, seed=5), prior, tmp_path)
    jobs = list(suite.plan())
    assert [job.variant for job in jobs] == [BEFORE, *COMPARED] * 4 and [job.seed for job in jobs[::12]] == [5, 6]
    assert len({suite.key(job) for job in jobs}) == len(jobs)
    base, edit = suite.settings_of(jobs[0]), suite.settings_of(jobs[1])
    assert (
        edit.init == str(tmp_path / "avatars" / suite.key(jobs[0])) and edit.source_prompt == base.prompt != edit.prompt
    )
    assert edit.guidance == named_preset(COMPARED[0]) and edit.optimize.steps == 2 and base.init == ""
    longer = small_settings()
    longer.optimize.steps = 3
    keys = [suite.key(job) for job in jobs[:2]]
    assert not set(keys) & {EditingSuite(longer, prior, tmp_path).key(job) for job in jobs[:2]}, "of another avatar"


# ---- the figures


@pytest.fixture(scope="module")
def edit() -> Edit:
    return edits(1)[0]


@pytest.fixture(scope="module")
def was(edit, viewpoints) -> Truth:
    return render_truth(edit.before, viewpoints)


@pytest.fixture(scope="module")
def becomes(edit, viewpoints) -> Truth:
    return render_truth(edit.after, viewpoints)


def record(edit: Edit, was: Truth, becomes: Truth, images: ViewImages, preset: str = "pds", **changes) -> EditRecord:
    """An edit of a perfect avatar that looks like ``images`` afterwards."""
    before = true_images(was)
    facts = {
        "preset": preset,
        "changed": edit.changed,
        "old": edit.old,
        "new": edit.new,
        "source_prompt": edit.before.prompt,
        "prompt": edit.after.prompt,
        "seed": 0,
        "asked": named_colours(edit.after.person),
        "end": measure(images, becomes),
        "differences": differences(before, images, was, becomes),
        "overlap": silhouette_overlap(before, images, was),
        "metrics": {"steps": 10, "seconds_per_step": {"total": 0.5}},
    }
    return EditRecord(**(facts | changes))


def means(some: EditRecord) -> dict[str, float]:
    return {name: figure["mean"] for name, figure in report.row([some]).items() if isinstance(figure, dict)}


def test_a_perfect_edit_changes_everything_asked_and_nothing_else(edit, was, becomes):
    found = means(record(edit, was, becomes, true_images(becomes)))
    assert found["new"] == found["kept"] == found["overlap"] == 1 and found["old_pixels"] == 0
    assert found["clothes"] == found["face"] == found["skin"] == pytest.approx(0, abs=1e-6) and found["seconds"] == 5


def test_an_avatar_left_alone_keeps_everything_and_changes_nothing(edit, was, becomes):
    found = means(record(edit, was, becomes, true_images(was)))
    assert found["new"] == 0 and found["old_pixels"] > 0.95
    assert found["kept"] == found["overlap"] == 1 and found["clothes"] == found["face"] == 0


def test_another_head_is_not_kept(edit, was, becomes, viewpoints):
    """Other hair and skin under the same clothes."""
    colours = {"hair_rgb": (40.0, 70.0, 210.0), "skin_rgb": (40.0, 160.0, 60.0)}
    other = render_truth(replace(edit.after, person=replace(edit.after.person, **colours)), viewpoints)
    some = record(edit, was, becomes, true_images(other))
    found, parts = means(some), report.part_row([some], sorted(KEPT))
    assert found["new"] == 1 and 0 < found["kept"] < 1 and found["face"] > 20
    assert parts["hair"]["right"] == 0 and parts["shoes"] == {"right": 1.0, "difference": pytest.approx(0, abs=1e-6)}
    assert set(some.differences) == KEPT | {edit.changed}


def test_what_is_left_out_of_the_silhouette_counts(edit, was, becomes):
    whole = true_images(was)
    half = ViewImages(whole.rgb, whole.alpha * (np.arange(whole.alpha.shape[1]) % 2)[:, None].astype(np.float32))
    assert silhouette_overlap(whole, half, was) == pytest.approx(0.5, abs=0.05)


def test_a_new_hat_is_judged_by_its_shape(viewpoints):
    edit = edits(3)[2]
    was, becomes = render_truth(edit.before, viewpoints), render_truth(edit.after, viewpoints)
    worn = means(record(edit, was, becomes, true_images(becomes)))
    bare = means(record(edit, was, becomes, true_images(was)))
    assert worn["new"] == 1 and worn["shape"] > 0.9 and worn["overlap"] is None and worn["old_pixels"] is None
    assert bare["new"] == 0 and bare["shape"] < 0.5 * worn["shape"], "long hair fills a part of it"
    assert worn["kept"] == 1 and worn["face"] < 0.01


def test_rows_have_means_and_standard_deviation_by_method(edit, was, becomes):
    good = record(edit, was, becomes, true_images(becomes))
    bad = replace(good, end=measure(true_images(was), becomes), seed=1, overlap=0.5)
    figures = report.summarise([replace(bad, preset=BEFORE), good, bad])
    row = figures["rows"]["pds"]
    assert row["avatars"] == 2 and row["new"] == {"mean": 0.5, "std": pytest.approx(0.5**0.5)}
    assert row["overlap"]["mean"] == 0.75 and figures["rows"][BEFORE]["new"] == {"mean": 0.0, "std": None}
    assert list(figures["changed"]) == [edit.changed] and figures["edits"][0]["new"] == edit.new
    assert figures["parts"]["pds"][edit.changed] == {"right": None, "difference": None}, "not to be kept"


def test_records_survive_json(edit, was, becomes):
    one = record(edit, was, becomes, true_images(becomes))
    assert restored(EditRecord, json.loads(json.dumps(asdict(one)))) == one


# ---- the suite


def test_edits_are_reported_and_nothing_is_made_twice(prior, tmp_path):
    settings, arguments = small_settings("gentle_dds", "de_sds"), ["stage=evaluate", "suite=editing"]
    text = run_suite(settings, prior, tmp_path, arguments).read_text()
    figures = json.loads((tmp_path / "results.json").read_text())["figures"]
    assert list(figures["rows"]) == [BEFORE, "gentle_dds", "de_sds"]
    before = figures["rows"][BEFORE]
    assert before["clothes"]["mean"] == before["face"]["mean"] == 0 and before["overlap"]["mean"] == 1
    assert figures["rows"]["de_sds"]["face"]["mean"] > 0
    assert "dds from the old prompt to the new, s = 3" in text and "de_sds to the new prompt alone" in text
    assert "evaluate.edit_prompts=12 evaluate.edit_seeds=3" in text
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 5 * 112 and sheet.height > 4 * 112
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.parent != tmp_path}
    run_suite(settings, prior, tmp_path, arguments)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert json.loads((tmp_path / "results.json").read_text())["figures"] == figures
    one_more = small_settings("gentle_dds", "de_sds", "gentle_pds")
    run_suite(one_more, prior, tmp_path, arguments)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "another method edits the same avatar"
    results = json.loads((tmp_path / "results.json").read_text())
    assert "| gentle_pds | 1 |" in EditingSuite.report(results)
