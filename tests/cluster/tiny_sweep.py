"""A sweep of tiny avatars that take seconds, and what its folder says about who made them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from avatar_gs.core.run_lock import LOCK_FILE
from avatar_gs.core.runs import RunFolder
from avatar_gs.export.ply import read_ply
from tests import tiny

SETTINGS = [
    "name=sweep",
    "prior=prior",
    "prior.prompts.style=mini",
    "device=cpu",
    "threads=1",
    "splats.count=300",
    "optimize.steps=60",
    "optimize.batch=1",
    "optimize.checkpoint_every=2",
    "export.video_size=64",
    "export.video_seconds=0.5",
]
FINISHED = " splats after "
"""What the log says once, when the optimisation of a run ends."""
RESUMED = "resuming at step "


@contextmanager
def started(folder: Path, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """The sweep in ``folder``, which gets the tiny prior; its output goes to ``output.txt`` there."""
    if not (folder / "prior").exists():
        tiny.save_prior(folder / "prior")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    with (folder / "output.txt").open("a") as output:
        sweep = subprocess.Popen(
            [sys.executable, "-m", "avatar_gs", "-m", *SETTINGS, *overrides],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        yield sweep
    finally:
        if sweep.poll() is None:
            sweep.kill()
            sweep.wait()


def runs(folder: Path) -> dict[str, Path]:
    """The run folders of the sweep that are there, by the name that the sweep gave them."""
    return {path.parent.name: path.parent for path in sorted((folder / "outputs" / "sweep").glob("*/config.yaml"))}


def owner(run: Path) -> dict[str, Any] | None:
    """The process that works on a run after its first checkpoint, as its lock names it; None if there is none."""
    try:
        return json.loads((run / LOCK_FILE).read_text()) if RunFolder(run).holds_avatar() else None
    except (FileNotFoundError, ValueError):
        return None


def wait_for_a_run_in_progress(folder: Path, sweep: subprocess.Popen[str]) -> tuple[Path, dict[str, Any]]:
    """A run that has written a checkpoint and is not finished, and its owner."""
    while sweep.poll() is None:
        for run in runs(folder).values():
            found = owner(run)
            if found and not (run / "metrics.json").exists():
                return run, found
        time.sleep(0.05)
    raise AssertionError(f"the sweep has ended:\n{(folder / 'output.txt').read_text()}")


def logs(folder: Path) -> Mapping[str, str]:
    """The log of every run."""
    return {name: (run / "log.txt").read_text() for name, run in runs(folder).items()}


def faults(folder: Path, count: int, interrupted: Path) -> list[str]:
    """What is wrong with a finished sweep of ``count`` jobs, one of which was interrupted; empty if nothing is."""
    found = []
    if len(runs(folder)) != count:
        found.append(f"{len(runs(folder))} runs instead of {count}")
    for name, log in logs(folder).items():
        run = runs(folder)[name]
        if not all((run / file).is_file() for file in ("avatar.ply", "avatar.html", "turntable.mp4")):
            found.append(f"{name}: files are missing")
        elif len(read_ply(run / "avatar.ply")) == 0:
            found.append(f"{name}: no splats")
        if log.count(FINISHED) != 1:
            found.append(f"{name}: its optimisation ended {log.count(FINISHED)} times")
        if log.count(RESUMED) != (run == interrupted):
            found.append(f"{name}: resumed {log.count(RESUMED)} times")
        if (run / LOCK_FILE).exists():
            found.append(f"{name}: locked")
    return found
