"""Runs that are killed at any moment end with the files of an unbroken run once the command is repeated."""

import subprocess
import sys

import pytest

from avatar_gs.core.paths import PACKAGE


def kill(*arguments: str) -> None:
    command = [sys.executable, "-m", "tests.robustness.killing", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing is lost" in done.stdout


@pytest.mark.timeout(1800)
def test_a_few_seeded_moments():
    kill("--moments", "4", "--seed", "1")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_moments_full_disks_and_moved_folders():
    kill("--moments", "50", "--adversity")
