"""Kill a run at any moment, resume it, and compare its files with an unbroken run's.

    python -m tests.robustness.killing --moments 50 --seed 0

The program is imported once; every command runs in a forked child. A moment is a number of file operations, which is
the same on every machine, or a fraction of the run's duration, which also falls between and within operations.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from avatar_gs import cli
from avatar_gs.core import console
from avatar_gs.core.io import load_state
from avatar_gs.identity.embedding import read_identity
from avatar_gs.stages import embed
from tests import tiny

RUN = Path("outputs") / "a"
COMMAND = [
    "name=a",
    "prompt=<id> in red",
    "photos=anna",
    "device=cpu",
    "threads=1",
    "prior=prior",
    "prior.prompts.style=mini",
    "embed.steps=3",
    "embed.batch=2",
    "embed.tokens=1",
    "embed.min_size=8",
    "embed.clothes=bound",
    "embed.preview_every=2",
    "embed.checkpoint_every=1",
    "optimize.steps=8",
    "optimize.batch=1",
    "optimize.poses=random",
    "optimize.checkpoint_every=2",
    "optimize.preview_every=3",
    "guidance.inner_steps=2",
    "splats.count=300",
    "density.start=0.2",
    "density.stop=0.9",
    "density.prune_stop=1",
    "density.every=2",
    "export.video_size=64",
    "export.video_seconds=0.5",
]
"""A run of a few seconds in which everything happens: learning a person, checkpoints, densification, several updates
per target, previews and all exports."""
MARK = "\n--- operations: "
OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "shutil.rmtree")


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (-9: killed), its output, and its file operations below ``outputs``."""

    code: int
    output: str
    operations: int
    seconds: float

    @property
    def last_line(self) -> str:
        return (self.output.strip().splitlines() or [""])[-1]


def prepare(folder: Path) -> None:
    """Put a tiny prior and photos of a person into a working folder."""
    tiny.save_prior(folder / "prior")
    (folder / "anna").mkdir()
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "anna" / f"{seed}.png")


def work_folder(prepared: Path, folder: Path) -> Path:
    """A working folder with the inputs of ``prepared``."""
    folder.mkdir(parents=True)
    for name in ("prior", "anna"):
        (folder / name).symlink_to(prepared / name)
    return folder


def run(
    folder: Path,
    *more: str,
    at_operation: int = 0,
    after_seconds: float = 0.0,
    before: Callable[[], object] = lambda: None,
) -> Ended:
    """Run the command in ``folder``.

    Args:
        folder: the working folder.
        more: further overrides.
        at_operation: kill it before this file operation (1: the first one); 0: never.
        after_seconds: kill it after this time; 0: never.
        before: called in the child, before the command.
    """
    began = time.monotonic()
    child, read_end = start(folder, *more, at_operation=at_operation, before=before)
    if after_seconds:
        _kill_after(child, began + after_seconds)
    return wait(child, read_end, began)


def start(
    folder: Path, *more: str, at_operation: int = 0, before: Callable[[], object] = lambda: None
) -> tuple[int, int]:
    """Start the command in a child, as ``run``; returns its number and the descriptor of its output."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _run_child(folder, [*COMMAND, *more], write_end, at_operation, before)
    os.close(write_end)
    return child, read_end


def wait(child: int, read_end: int, began: float = 0.0) -> Ended:
    """Wait until a child of ``start`` has ended."""
    with os.fdopen(read_end, errors="replace") as stream:
        output, _, operations = stream.read().partition(MARK)
    _, status = os.waitpid(child, 0)
    return Ended(os.waitstatus_to_exitcode(status), output, int(operations or 0), time.monotonic() - began)


def _kill_after(child: int, moment: float) -> None:
    while time.monotonic() < moment:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)


def _run_child(folder: Path, command: list[str], output: int, at_operation: int, before: Callable[[], object]) -> None:
    code = 70
    try:
        os.chdir(folder)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        console._console.file = sys.stderr
        done = _count_operations(at_operation)
        before()
        code = cli.main(command)
        print(f"{MARK}{len(done)}", end="")
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _count_operations(kill_at: int) -> list[str]:
    """Note every file operation below ``outputs`` from now on, and end the process before number ``kill_at``."""
    done: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in OPERATIONS and str(arguments[0]).startswith("outputs"):
            done.append(event)
            if len(done) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return done


def files(folder: Path) -> dict[str, bytes]:
    """The files of a finished run that do not depend on time."""
    found = {}
    for path in sorted((folder / RUN).rglob("*")):
        name = path.relative_to(folder / RUN).as_posix()
        timed = name in ("log.txt", "metrics.json", "index.html")
        if path.is_file() and not timed and path.parent.name != "checkpoints":
            found[name] = path.read_bytes()
    return found


def check_visible(folder: Path, reference: Mapping[str, bytes]) -> None:
    """Every file that a killed run left under its own name is whole."""
    for path in (folder / "outputs").rglob("*"):
        if path.is_dir() or path.name.startswith("."):
            continue
        name = path.relative_to(folder / RUN).as_posix() if path.is_relative_to(folder / RUN) else path.name
        if path.suffix == ".png":  # the loss curve grows
            Image.open(path).load()
        elif name in reference:
            assert path.read_bytes() == reference[name], f"{name} differs"
        elif name == "metrics.json":
            json.loads(path.read_text())
        elif name == "index.html":
            assert path.read_text().rstrip().endswith("</html>")
        elif name == "config.yaml":
            assert isinstance(yaml.safe_load(path.read_text()), dict)
        elif path.parent.name == "checkpoints":
            load_state(path)
        elif path.parent.name == ".identities":
            read_identity(path)
        else:
            assert name == "log.txt", f"{name} is not known"


def kill_and_resume(prepared: Path, folder: Path, reference: Mapping[str, bytes], moment: int | float) -> str:
    """Kill a run at a moment, then resume it; returns what differs from the unbroken run, "" if nothing.

    Args:
        prepared: folder of the inputs.
        folder: the run's working folder, which is removed after a success.
        reference: ``files`` of the unbroken run.
        moment: number of file operations (an integer) or seconds.
    """
    work_folder(prepared, folder)
    by_operation = isinstance(moment, int)
    killed = run(folder, at_operation=moment) if by_operation else run(folder, after_seconds=moment)
    if killed.code not in (0, -signal.SIGKILL):
        return f"it ended with {killed.code}: {killed.last_line}"
    if (folder / "outputs").exists():
        check_visible(folder, reference)
    resumed = run(folder)
    if resumed.code != 0:
        return f"resumed, it ended with {resumed.code}: {resumed.last_line}"
    found = files(folder)
    if found != reference:
        names = [name for name in found.keys() | reference.keys() if found.get(name) != reference.get(name)]
        return f"other {', '.join(sorted(names))}"
    shutil.rmtree(folder)
    return ""


def moments(unbroken: Ended, count: int, seed: int) -> list[int | float]:
    """Random moments of a run: file operations and times in turn."""
    draw = random.Random(seed)
    pairs = [(draw.randint(1, unbroken.operations), draw.uniform(0.0, unbroken.seconds)) for _ in range(count)]
    return [pair[index % 2] for index, pair in enumerate(pairs)]


def main() -> int:
    """Kill as many runs as asked for; returns 1 if one of them lost something."""
    from tests.robustness import adversity

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--adversity", action="store_true", help="also full disks, moved folders and the like")
    parser.add_argument("--only", action="append", default=[], help="only this", choices=adversity.SCENARIOS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    embed.SAMPLE_STEPS = 2
    with tempfile.TemporaryDirectory() as temporary:
        prepared = Path(temporary) / "prepared"
        prepared.mkdir()
        prepare(prepared)
        whole = work_folder(prepared, Path(temporary) / "whole")
        run(whole)  # compiles what the machine does not have in its cache yet
        shutil.rmtree(whole / "outputs")
        unbroken = run(whole)
        if unbroken.code:
            print(unbroken.output)
            return 1
        reference = files(whole)
        print(f"unbroken: {unbroken.seconds:.1f} s, {unbroken.operations} file operations", flush=True)
        lost = 0
        for index, moment in enumerate(moments(unbroken, options.moments, options.seed)):
            place = f"operation {moment}" if isinstance(moment, int) else f"{moment:.2f} s"
            wrong = kill_and_resume(prepared, Path(temporary) / str(index), reference, moment)
            lost += bool(wrong)
            print(f"{index + 1}: killed at {place}: {wrong or 'the same files'}", flush=True)
        for name, scenario in adversity.SCENARIOS.items():
            if name not in options.only and not options.adversity:
                continue
            wrong = scenario(prepared, Path(temporary) / name, reference)
            lost += bool(wrong)
            print(f"{name}: {wrong or 'as it should be'}", flush=True)
    print("nothing is lost" if not lost else f"{lost} runs lost something")
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
