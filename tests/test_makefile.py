"""The Makefile passes the prompt unchanged and names a missing Python."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

PROMPTS = [
    "a man, tall (very)",
    'say "hello", it\'s $HOME $(shell id) ${x} $$ `id` \\n',
    "größer; rm -rf # no",
    "a=b: c",
]


@pytest.fixture
def checkout(tmp_path):
    """The Makefile with an installed environment whose commands print their arguments, one per line."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    commands = tmp_path / ".venv" / "bin"
    commands.mkdir(parents=True)
    for name in ("avatar-gs", "python"):
        (commands / name).write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        (commands / name).chmod(0o755)
    for stamp in (".installed", ".installed-dev"):
        (tmp_path / ".venv" / stamp).touch()
    return tmp_path


def make(folder, *arguments, **environment):
    ours = ("PROMPT", "PHOTOS")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key not in ours}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=folder, env=clean | environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_any_prompt_reaches_the_command_unchanged(checkout, prompt):
    assert make(checkout, "avatar", f"PROMPT={prompt}").stdout == f"prompt={prompt}\n"
    assert make(checkout, "avatar", PROMPT=prompt).stdout == f"prompt={prompt}\n"


def test_a_prompt_is_optional_and_settings_can_be_added(checkout):
    lines = make(checkout, "avatar", "ARGS=seed=3 name=anna").stdout.splitlines()
    assert lines[0].startswith("prompt=a ")
    assert lines[1:] == ["seed=3", "name=anna"]


@pytest.mark.parametrize("photos", ["./anna", "my photos (1)/*.jpg", "$HOME/it's $x"])
def test_any_photos_reach_the_command(checkout, photos):
    lines = make(checkout, "avatar", "PROMPT=<id> in red", f"PHOTOS={photos}").stdout.splitlines()
    assert lines == ["prompt=<id> in red", f"photos={photos}"]
    assert make(checkout, "avatar", PHOTOS=photos).stdout.splitlines() == ["prompt=", f"photos={photos}"]


def test_the_default_target_is_the_avatar(checkout):
    assert make(checkout).stdout.startswith("prompt=")


def test_an_installed_environment_is_not_installed_again(checkout):
    assert "pip" not in make(checkout, "test").stdout
    assert "pytest" in make(checkout, "test").stdout


def test_a_changed_project_file_installs_again(checkout):
    os.utime(checkout / "pyproject.toml", (4e9, 4e9))
    assert "pip" in make(checkout, "setup").stdout


def test_a_missing_python_is_named(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    result = make(tmp_path, "avatar", "PYTHON=no-such-python")
    assert result.returncode != 0
    assert "no-such-python is missing or older than 3.11" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_gpu_check_needs_no_environment_and_keeps_the_callers_packages(tmp_path, checkout):
    """Without .venv it runs with PYTHON and installs nothing; otherwise with .venv."""
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(ROOT / "Makefile", bare)
    (bare / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$PYTHONPATH" "$@"\n')
    (bare / "python").chmod(0o755)
    result = make(bare, "gpu-check", "PYTHON=./python", "OUT=a b", "ARGS=--parts steps", PYTHONPATH="/some/site")
    assert result.stdout.splitlines() == ["/some/site", "tests/gpu_check", "--out", "a b", "--parts", "steps"]
    assert not (bare / ".venv").exists()
    lines = make(checkout, "gpu-check", "PYTHON=no-such-python").stdout.splitlines()
    assert lines == ["tests/gpu_check", "--out", "outputs/gpu-check"]
