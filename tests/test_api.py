"""The Python API on a tiny random prior, and the scripts that show it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import avatar_gs
from avatar_gs import UserError, cli
from avatar_gs.cli.overrides import as_overrides, settings_of
from avatar_gs.core.paths import PACKAGE
from avatar_gs.export.config import Frame
from tests.tiny import save_prior

EXAMPLES = PACKAGE.parent / "docs" / "examples"
SMALL = {
    "optimize.steps": 3,
    "optimize.batch": 1,
    "optimize.preview_every": 0,
    "splats.count": 300,
    "density.enabled": False,
    "export.video": False,
    "export.video_size": 64,
    "export.video_seconds": 0.5,
    "threads": 1,
}


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return save_prior(tmp_path_factory.mktemp("prior") / "tiny")


@pytest.fixture
def make(prior, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(**more):
        return avatar_gs.make(
            "a man in red, (tall)", prior=prior, device="cpu", **{"overrides": SMALL, "name": "a"} | more
        )

    return run


def test_importing_the_package_is_light():
    code = "import sys, avatar_gs; print([m for m in ('torch', 'hydra', 'numpy') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout == "[]\n"
    assert avatar_gs.__all__ == ["Avatar", "UserError", "load", "make"]
    with pytest.raises(AttributeError, match="nonsense"):
        avatar_gs.nonsense  # noqa: B018


def test_libraries_load_in_the_environment_that_the_command_gives_them():
    code = (
        "import sys; sys.modules['torch'] = None  # the API cannot be loaded\n"
        "import os, avatar_gs\n"
        "try: avatar_gs.make\n"
        "except ImportError: print(os.environ['OMP_WAIT_POLICY'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert result.stdout == "PASSIVE\n", result.stderr


def test_an_avatar_is_made_posed_rendered_saved_and_loaded(make, tmp_path):
    steps = []
    avatar = make(on_step=lambda state, report: steps.append(state.step))
    assert steps == [1, 2, 3]
    run = tmp_path / "outputs" / "a"
    assert (run / "avatar.ply").is_file() and "a man in red, (tall)" in (run / "config.yaml").read_text()
    front = avatar.render(avatar.camera(size=64))
    assert front.shape == (64, 64, 3) and front.dtype == np.uint8
    assert front[32, 32].tolist() != front[0, 0].tolist(), "the avatar is in the middle"
    bowed = avatar.pose(spine1=(0.8, 0, 0))
    assert not np.array_equal(bowed.render(avatar.camera(size=64)), front)
    assert torch.equal(avatar.pose().current_pose.axis_angles, avatar.current_pose.axis_angles)
    assert avatar._repr_png_().startswith(b"\x89PNG")
    assert avatar.save(tmp_path / "files" / "a.ply").read_bytes() == (run / "avatar.ply").read_bytes()
    assert b"a man in red" in avatar.save(tmp_path / "a.html").read_bytes()
    assert avatar.save(tmp_path / "a.mp4").stat().st_size > 0
    for name in ("a", str(run)):
        loaded = avatar_gs.load(name, device="cpu")
        assert np.array_equal(loaded.render(avatar.camera(size=64)), front)
    again = make(on_step=lambda state, report: steps.append(state.step))
    assert steps == [1, 2, 3], "the run is finished"
    assert np.array_equal(again.render(avatar.camera(size=64)), front)


def test_the_command_makes_the_same_bytes(make, prior, tmp_path):
    make()
    given = as_overrides(SMALL)
    command = ["prompt=a man in red, (tall)", f"prior={prior}", "device=cpu", "name=b", *given]
    assert cli.main(command) == 0
    first, second = (tmp_path / "outputs" / name / "avatar.ply" for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_ctrl_c_leaves_a_run_that_resumes(make, tmp_path):
    def stop(state, report):
        if state.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        make(on_step=stop)
    steps = []
    make(on_step=lambda state, report: steps.append(state.step))
    assert steps == [3] and (tmp_path / "outputs" / "a" / "avatar.ply").is_file()


def test_mistakes_are_user_errors(make, tmp_path):
    for mistake, words in (
        ({"overrides": {"optimize.steps": 0}}, "optimize.steps=0"),
        ({"overrides": ["optimise.steps=3"]}, "optimize.steps"),
        ({"overrides": {"seed": "many"}}, "seed"),
        ({"guidance": "desds"}, "de_sds"),
    ):
        with pytest.raises(UserError, match=words) as error:
            make(**mistake)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="nobody holds no avatar"):
        avatar_gs.load("nobody")
    avatar = make()
    for camera in ({"framing": "nose"}, {"elevation": 95.0}, {"size": 0}):
        (name, value), *_ = camera.items()
        with pytest.raises(UserError, match=f"{name}={value}: expected"):
            avatar.camera(**camera)
    with pytest.raises(UserError, match="no joint knee"):
        avatar.pose(knee=(0, 0, 1))
    with pytest.raises(UserError, match=r"left_elbow=.*three finite angles"):
        avatar.pose(left_elbow=(0, 0, float("nan")))
    with pytest.raises(UserError, match=r"background=7.0"):
        avatar.render(background=7.0)
    with pytest.raises(UserError, match="device=gpu: expected auto, cpu, cuda"):
        avatar_gs.load("a", device="gpu")
    with pytest.raises(UserError, match=r"a\.obj has none of the suffixes"):
        avatar.save("a.obj")


@pytest.mark.parametrize("text", ["it's", '"quoted"', "a, b=[c] ${x}", "@home", "true", "größer\\"])
def test_python_values_become_settings(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"prompt": text, "export.frame": Frame.yup, "body.betas": [1, -0.5], "prior": "sd15", "threads": 2}
    settings = settings_of(as_overrides({**given, "prior.lora": ["a, b.pt:0.5"], "guidance.clip": 1e-3}))
    assert settings.prompt == text and settings.export.frame is Frame.yup and settings.body.betas == [1, -0.5]
    assert settings.prior.name == "sd15" and settings.prior.lora == ["a, b.pt:0.5"] and settings.guidance.clip == 1e-3


def test_the_examples_run(prior, tmp_path):
    small = [f"prior={prior}", "device=cpu", *as_overrides(SMALL)]
    scripts = {"make_avatar.py": small, "pose_and_render.py": [], "edit_avatar.py": small}
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*scripts, "seeds.py"}
    for name, arguments in scripts.items():
        environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
        command = [sys.executable, str(EXAMPLES / name), *arguments]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250)
        assert result.returncode == 0, result.stderr
    written = {path.name for path in Path(tmp_path / "outputs/examples").iterdir()}
    assert {"anna", "anna.html", "waving_front.png", "waving_head.png", "waving.ply", "anna-in-red.html"} <= written
