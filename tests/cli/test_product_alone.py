"""The product installs and runs without the laboratory."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from avatar_gs.core.paths import PACKAGE
from tests import tiny

ROOT = PACKAGE.parent


@pytest.fixture(scope="module")
def product(tmp_path_factory) -> Path:
    """The checkout without ``avatar_gs/lab``."""
    folder = tmp_path_factory.mktemp("product")
    shutil.copytree(PACKAGE, folder / "avatar_gs", ignore=shutil.ignore_patterns("lab", "__pycache__"))
    for name in ("conf", "body_models"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture
def command(product, tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "avatar_gs", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(product)},
            capture_output=True,
            text=True,
            timeout=280,
        )

    return run


def test_help_and_settings_show_no_laboratory(command):
    shown = command("--help")
    assert shown.returncode == 0 and "preview" in shown.stdout
    assert "Laboratory" not in shown.stdout and "evaluate" not in shown.stdout
    settings = command("--cfg", "job")
    assert settings.returncode == 0 and settings.stdout.startswith("stage: all\n")
    assert "lab:" not in settings.stdout and "playground" not in settings.stdout


@pytest.mark.parametrize("argument", ["stage=evaluate", "evaluate.seeds=2"])
def test_the_laboratory_is_missed_in_one_line(command, argument):
    result = command(argument)
    assert result.returncode == 1
    assert "laboratory (avatar_gs/lab)" in result.stderr and result.stderr.count("\n") == 1


def test_a_run_makes_an_avatar(command, tmp_path):
    prior = tiny.save_prior(tmp_path / "tiny")
    small = ("splats.count=200", "density.enabled=false", "export.video=false", "optimize.preview_every=0")
    # view words that leave the tiny prior room for a prompt
    words = ("prior.prompts.style=mini", "name=a", "device=cpu", "threads=1")
    result = command("prompt=a man in red", f"prior={prior}", "optimize.steps=2", "optimize.batch=1", *small, *words)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "outputs/a/avatar.ply").is_file()
