"""suite=judges: its views, its figures in closed form, and the suite from end to end where the judges are installed."""

import json
import math
import sys

import numpy as np
import pytest

from avatar_gs.core.errors import UserError
from avatar_gs.lab.metrics.views import neutral_body
from avatar_gs.lab.stages.evaluate import run_suite
from avatar_gs.lab.suites.config import EvaluateConfig, SuiteName
from avatar_gs.lab.suites.judged_views import (
    BODIES,
    HEADS,
    RANGES,
    SIZE,
    VIEWS_PER_GROUP,
    Group,
    JudgedViews,
    judged_views,
    subject_pose,
)
from avatar_gs.lab.suites.judges import JudgesSuite
from avatar_gs.lab.suites.judges_report import JudgedImage, JudgesRecord, Source, sections, summarise
from avatar_gs.lab.world.views import find_heads
from tests.lab.judges.conftest import judges_python  # noqa: F401  fixture
from tests.lab.settings import lab_settings


@pytest.fixture(scope="module", params=[0, 1])
def views(request) -> JudgedViews:
    posed = neutral_body("cpu").pose(subject_pose(request.param, 0))
    return judged_views(posed, request.param, 0)


def test_views_show_what_their_group_says(views):
    assert len(views) == VIEWS_PER_GROUP * len(Group)
    heads = find_heads(views.posed, views.cameras)
    for index, (group, azimuth) in enumerate(zip(views.groups, views.azimuths, strict=True)):
        low, high = RANGES[group]
        assert low <= abs(math.degrees(azimuth)) <= high
        assert azimuth > 0 if index % 2 == 0 else azimuth < 0
        if group in HEADS:
            # the head's own direction, but for the camera's offset from the joint that it is measured at
            assert heads[index].turn == pytest.approx(azimuth, abs=math.radians(6))
            assert heads[index].shown > 0.99 and heads[index].span > SIZE / 2


def test_joints_and_silhouettes_are_in_the_image(views):
    joints, bare, sizes = views.joints(), views.bare(), views.head_sizes()
    for index in views.of(*BODIES):
        assert ((joints[index] > 0) & (joints[index] < SIZE)).all()
        columns, rows = joints[index].astype(int).T
        assert bare[index][rows, columns].mean() > 0.8
        assert 0.08 * SIZE < sizes[index] < 0.25 * SIZE
    maps = views.pose_maps(64)
    assert maps.shape == (len(views), 64, 64, 3) and all(bool(one.any()) for one in maps)


def test_views_are_repeatable_and_differ_between_subjects(views):
    again = judged_views(views.posed, 5, 0)
    assert again.azimuths == judged_views(views.posed, 5, 0).azimuths != views.azimuths
    assert not np.allclose(subject_pose(1, 0).axis_angles, subject_pose(1, 1).axis_angles)


def image(group: Group, **found) -> JudgedImage:
    nothing = dict.fromkeys(("face", "mesh", "joints", "hands", "silhouette", "body", "identity"))
    return JudgedImage(group=group, degrees=0.0, **(nothing | found))


def features(*values: float) -> list[float]:
    return [*(float(value) for value in values), *([0.0] * (128 - len(values)))]


def test_figures_in_closed_form():
    first = [
        image(Group.HEAD_FRONT, face=0.9, mesh=True, silhouette=0.9, identity=features(0)),
        image(Group.HEAD_FRONT, face=0.6, mesh=False, silhouette=0.7, identity=features(0.5)),
        image(Group.HEAD_BACK, face=0.55, mesh=False),
        image(Group.HEAD_BACK, mesh=False),
        image(Group.BODY_FRONT, joints=(11, 12), silhouette=0.8, body=0.5),
        image(Group.BODY_FRONT, joints=(4, 8), silhouette=1.0, body=0.7),
        image(Group.HAND, hands=2),
        image(Group.HAND, hands=0),
    ]
    second = [
        image(Group.HEAD_FRONT, face=0.8, mesh=True, identity=features(0, 2)),
        image(Group.HEAD_FRONT, mesh=False),
    ]
    records = [
        JudgesRecord(Source.AVATARS, 0, 0, "a", first, 1.0),
        JudgesRecord(Source.AVATARS, 1, 0, "b", second, 1.0),
        JudgesRecord(Source.TRUTH, 0, 0, "", first, 1.0),
    ]
    figures = summarise(records)
    assert list(figures) == ["lifelike renders", "avatars"]
    row = {name: (entry["value"], entry["n"]) for name, entry in figures["avatars"].items()}
    assert row["face found, head, front"] == (0.5, 4)
    assert row["face found, head, back"] == (0, 2)
    assert row["face at the detector's default, head, front"] == (0.75, 4)
    assert row["face at the detector's default, head, back"] == (0.5, 2)
    assert row["mean score of faces, head, front"] == (pytest.approx(2.3 / 3), 3)
    assert row["face mesh fitted, head, front"] == (0.5, 4)
    assert row["joints found, body, front"] == (0.75, 20)
    assert row["joints found, body, side"] == (None, 0)
    assert row["hand found"] == (0.5, 2)
    assert row["silhouette IoU, heads"] == (pytest.approx(0.8), 2)
    assert row["silhouette IoU, bodies"] == (pytest.approx(0.9), 2)
    assert row["IoU with the undressed body, bodies"] == (pytest.approx(0.6), 2)
    assert row["one subject: median distance"] == (0.5, 1)
    assert row["two subjects: median distance"] == (2, 1)
    assert row["two subjects: distance > 0.6"] == (1, 1)
    seconds = {source.value: [1.0] for source in Source}
    text = "\n".join(sections({"sources": figures, "seconds": seconds, "judges": {"mediapipe": "0"}}))
    assert "| face found, head, front | 0.50 [0.09, 0.91] (2) | 0.50 [0.15, 0.85] (4) |" in text
    assert "| joints found, body, side | – | – |" in text


def test_settings_that_judge_nothing_are_refused(prior, tmp_path):
    nothing = EvaluateConfig(judged_samples=0, judged_avatars=0)
    settings = lab_settings(stage="evaluate", suite=SuiteName.judges, evaluate=nothing)
    with pytest.raises(UserError, match="nothing to judge"):
        JudgesSuite(settings, prior, tmp_path).evaluate()


def test_without_the_judges_the_remedy_is_named(prior, tmp_path):
    config = EvaluateConfig(judged_samples=1, judged_avatars=0, judges=sys.executable)
    with pytest.raises(UserError, match="make judges"):
        JudgesSuite(lab_settings(stage="evaluate", evaluate=config), prior, tmp_path).evaluate()


def test_samples_are_judged_and_compared_with_mini(prior, judges_python, tmp_path, monkeypatch):  # noqa: F811
    config = EvaluateConfig(judged_samples=1, judged_avatars=0, judges=judges_python)
    settings = lab_settings(stage="evaluate", suite=SuiteName.judges, evaluate=config)
    report = run_suite(settings, prior, tmp_path, ["stage=evaluate", "suite=judges"])
    results = json.loads((tmp_path / "results.json").read_text())
    sources = results["figures"]["sources"]
    assert list(sources) == ["samples", "samples of mini"]
    for name, group in (("hand found", 1), ("face found, head, front", 1), ("joints found, body, side", 12)):
        assert sources["samples"][name]["n"] == sources["samples of mini"][name]["n"] == group * VIEWS_PER_GROUP
    assert sources["samples"]["hand found"]["value"] == 0, "random weights paint no hands"
    assert "samples of mini" in report.read_text()

    def never(*_, **__):
        raise AssertionError("made twice")

    monkeypatch.setattr(JudgesSuite, "_sample", never)
    run_suite(settings, prior, tmp_path, ["stage=evaluate", "suite=judges"])
    assert json.loads((tmp_path / "results.json").read_text())["figures"] == results["figures"]
