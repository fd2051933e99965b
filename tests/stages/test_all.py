"""The main job from the command line, with a tiny random prior: files, resuming, exporting again."""

import json

import numpy as np
import pytest
import torch

from avatar_gs import cli
from avatar_gs.body.config import BodyConfig
from avatar_gs.body.model import load_body
from avatar_gs.cli.overrides import settings_of
from avatar_gs.core.runs import RunFolder
from avatar_gs.export.config import ExportConfig, Format, Frame
from avatar_gs.export.ply import read_ply
from avatar_gs.splats.binding import BoundModel
from avatar_gs.splats.config import SplatsConfig
from avatar_gs.splats.surface import surface_splats
from avatar_gs.stages import export
from avatar_gs.training.config import PoseMode

PROMPT = "prompt=a man in red (tall)"
SMALL = ["optimize.steps=2", "splats.count=300", "export.video_size=64", "export.video_seconds=0.5", "device=cpu"]


@pytest.fixture(scope="module")
def model():
    body = load_body(BodyConfig())
    return surface_splats(SplatsConfig(count=500), body.rest(), body.weights, torch.Generator().manual_seed(0)), body


def test_the_main_job(prior, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = [PROMPT, "name=red", f"prior={prior}", *SMALL]
    assert cli.main(command) == 0
    run = tmp_path / "outputs" / "red"
    names = {path.name for path in run.iterdir()}
    assert {"avatar.ply", "avatar.html", "turntable.mp4", "config.yaml", "log.txt", "metrics.json"} <= names
    output = capsys.readouterr()
    for word in (str(run), "avatar.html", "double-click", "avatar.ply", "superspl.at", "turntable.mp4"):
        assert word in output.out
    assert "optimize" in output.err
    assert output.out.splitlines()[-1] == f"All of it in one page: {(run / 'index.html').as_uri()}"
    assert "red/index.html" in (tmp_path / "outputs" / "index.html").read_text()
    assert [path for path in tmp_path.rglob("*") if "partial" in path.name or path.name == ".hydra"] == []

    first = (run / "avatar.ply").read_bytes()
    assert cli.main(command) == 0
    assert "is finished" in capsys.readouterr().err
    assert (run / "avatar.ply").read_bytes() == first

    assert cli.main(["stage=export", "name=red", "export.frame=yup", "export.video=false"]) == 0
    assert len(read_ply(run / "avatar.ply", Frame.yup)) > 0
    assert (run / "avatar.ply").read_bytes() != first
    assert cli.main(command) == 0, "the first command's export settings are asked for again"
    assert (run / "avatar.ply").read_bytes() == first

    assert cli.main([*command, "seed=7"]) == 1
    assert "seed (saved 0, given 7)" in capsys.readouterr().err
    assert cli.main([*command, "seed=7", "overwrite=true"]) == 0
    assert json.loads((run / "metrics.json").read_text())["stages"]["optimize"]["seed"] == 7
    assert (run / "avatar.ply").read_bytes() != first


def test_more_steps_go_on_from_the_checkpoint(prior, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = [PROMPT, "name=red", f"prior={prior}", *SMALL, "export.video=false", "export.html=false"]
    assert cli.main(command) == 0
    run = tmp_path / "outputs" / "red"
    first = (run / "avatar.ply").read_bytes()
    more = [word.replace("steps=2", "steps=3") for word in command]
    assert cli.main(more) == 0
    said = capsys.readouterr().err
    assert "resuming at step 2 of 3" in said and "optimize.steps was 2" in said
    assert (run / "avatar.ply").read_bytes() != first
    assert json.loads((run / "metrics.json").read_text())["stages"]["optimize"]["steps"] == 3
    assert "  steps: 3" in (run / "config.yaml").read_text()
    assert cli.main(["name=red"]) == 0, "the run has three steps from now on"
    assert "is finished" in capsys.readouterr().err
    assert cli.main(command) == 1
    assert "optimize.steps (saved 3, given 2)" in capsys.readouterr().err


def test_a_run_is_exported_again_in_other_formats(prior, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main([PROMPT, "name=red", f"prior={prior}", *SMALL, "export.video=false", "export.html=false"]) == 0
    run = tmp_path / "outputs" / "red"
    written = lambda: {path.name for path in run.iterdir()} & {entry.value for entry in Format}
    first = (run / "avatar.ply").read_bytes()
    assert written() == {"avatar.ply"}
    settings, body = settings_of(["name=red"]), load_body(BodyConfig())
    assert isinstance(export.shown_avatar(settings, RunFolder(run), body), BoundModel)
    settings.optimize.poses = PoseMode.random
    assert not isinstance(export.shown_avatar(settings, RunFolder(run), body), BoundModel), "tried in all poses"
    assert cli.main(["stage=export", "name=red", "export.formats=[spz,glb,mp4]"]) == 0
    assert written() == {"avatar.ply", "avatar.spz", "avatar.glb", "turntable.mp4"}, "what is asked for now counts"
    assert settings_of(["prompt=a man in blue", f"init={run}/avatar.ply"]).init == "outputs/red", "still its own file"
    assert cli.main(["stage=export", "name=red"]) == 0, "as saved: without page and video"
    assert (run / "avatar.ply").read_bytes() == first
    assert json.loads((run / "metrics.json").read_text())["stages"]["export"]["files"] == ["avatar.ply"]


def test_a_ply_of_this_program_is_the_run_that_wrote_it(prior, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rest = [f"prior={prior}", *SMALL, "export.video=false", "export.html=false"]
    assert cli.main([PROMPT, "name=red", *rest]) == 0
    ply = tmp_path / "outputs" / "red" / "avatar.ply"
    assert settings_of(["prompt=a man in blue", f"init={ply}"]).init == "outputs/red"
    assert settings_of(["prompt=a man in blue", "init=red/avatar.ply"]).init == "outputs/red"
    lone = tmp_path / "lone.ply"
    lone.write_bytes(ply.read_bytes())
    ply.write_bytes(ply.read_bytes()[:-4] + b"abcd")
    for file, words in ((lone, "does not say how they follow a body"), (ply, "it was edited since")):
        assert cli.main(["prompt=a man in blue", f"init={file}", *rest]) == 1
        assert words in capsys.readouterr().err.splitlines()[-1]


def test_exporting_a_run_without_a_checkpoint_is_a_users_mistake(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with RunFolder.open(tmp_path / "outputs" / "empty", {"prompt": "a man"}) as run:
        run.checkpoints.mkdir()
    assert cli.main(["stage=export", "name=empty"]) == 1
    assert "no avatar to export" in capsys.readouterr().err


def test_the_exported_avatar_stands_on_the_ground_in_the_a_pose(model):
    gaussians, posed = export.standing(*model)
    assert posed.vertices[:, 1].min().abs() < 1e-5
    assert 1.4 < posed.vertices[:, 1].max() < 2.2
    assert gaussians.means[:, 1].min().abs() < 0.03
    left_hand, left_shoulder = posed.joints[20], posed.joints[16]
    assert left_hand[0] > left_shoulder[0]
    assert left_shoulder[1] - left_hand[1] > 0.2, "arms hang at 45 degrees"


def test_the_turntable_shows_the_whole_avatar_from_all_sides(model):
    gaussians, posed = export.standing(*model)
    frames = export.turntable(gaussians, posed, ExportConfig(video_size=96, video_fps=8, video_seconds=1.0))
    assert frames.shape == (8, 96, 96, 3)
    background = round(255 * export.TURNTABLE_BACKGROUND)
    drawn = np.any(np.abs(frames.astype(int) - background) > 20, axis=-1)
    assert not drawn[:, [0, -1], :].any(), "nothing touches the edge"
    assert not drawn[:, :, [0, -1]].any()
    widths = np.any(drawn, axis=1).sum(-1)
    assert widths[0] > 1.5 * widths[2], "the front is wider than the side"
    assert abs(int(widths[0]) - int(widths[4])) <= 4, "as wide from the back as from the front"
