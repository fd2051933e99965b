"""What else happens to runs: full disks, places that cannot be written, moved folders, clocks, two processes.

Every scenario takes the folder of inputs, a folder to work in and the files of an unbroken run, and returns what is
wrong, "" if nothing is.
"""

import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from avatar_gs.core.run_lock import LOCK_FILE
from tests.robustness import killing

HALFWAY = 40
"""A file operation in the middle of a run."""
YEAR = 365 * 86400.0
"""Seconds."""
Scenario = Callable[[Path, Path, Mapping[str, bytes]], str]


def full_disk(prepared: Path, folder: Path, reference: Mapping[str, bytes]) -> str:
    """No file may grow beyond a limit, first a small one, then a larger one, then none."""
    killing.work_folder(prepared, folder)
    for limit in (0, 20_000, 90_000):
        ended = killing.run(folder, before=lambda limit=limit: _limit_files(limit))
        if ended.code != 1 or "Traceback" in ended.output or not ended.last_line.startswith("error: "):
            return f"with at most {limit} bytes a file: {ended.code}, {ended.output[-2000:]}"
        killing.check_visible(folder, reference)
    return _completed(folder, reference)


def _limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def small_disk(prepared: Path, folder: Path, reference: Mapping[str, bytes]) -> str:
    """A file system that is full at some write, again after it has grown, and at last large enough."""
    killing.work_folder(prepared, folder)
    (folder / "outputs").mkdir()
    with _mounted(folder / "outputs", "size=4k") as remount:
        for size in ("4k", "24k", "160k", "300k", "520k"):
            remount(f"size={size}")
            ended = killing.run(folder)
            if ended.code != 1 or "Traceback" in ended.output or not ended.last_line.startswith("error: "):
                return f"on a disk of {size}: {ended.code}, {ended.output[-2000:]}"
            killing.check_visible(folder, reference)
        remount("size=20m")
        return _completed(folder, reference)


def read_only_outputs(prepared: Path, folder: Path, reference: Mapping[str, bytes]) -> str:
    """A killed run whose file system can only be read for a while."""
    killing.work_folder(prepared, folder)
    (folder / "outputs").mkdir()
    with _mounted(folder / "outputs", "size=20m") as remount:
        killing.run(folder, at_operation=HALFWAY)
        before = killing.files(folder)
        remount("ro")
        ended = killing.run(folder)
        if ended.code != 1 or "Traceback" in ended.output or "cannot write the run there" not in ended.last_line:
            return f"{ended.code}, {ended.output[-2000:]}"
        remount("rw")
        return _completed(folder, reference) if killing.files(folder) == before else "files have changed"


@contextmanager
def _mounted(place: Path, options: str) -> Iterator[Callable[[str], object]]:
    """A file system in memory at ``place``; yields a function that mounts it again with other options."""

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)

    mount(options)
    try:
        yield lambda changed: mount(f"remount,{changed}")
    finally:
        subprocess.run(["umount", place], check=True)


def clock_set_back(prepared: Path, folder: Path, reference: Mapping[str, bytes]) -> str:
    """A killed run goes on when the clock shows an earlier time than all of its files."""
    killing.work_folder(prepared, folder)
    killing.run(folder, at_operation=HALFWAY)
    for path in (folder / "outputs").rglob("*"):
        later = time.time() + YEAR
        os.utime(path, (later, later))
    return _completed(folder, reference)


def unwritable_place(prepared: Path, folder: Path, reference: Mapping[str, bytes]) -> str:
    """Outputs below a file, and below a file system that takes none."""
    killing.work_folder(prepared, folder)
    for place in ("anna/0.png/runs", "/proc/runs"):
        ended = killing.run(folder, f"outputs={place}")
        if ended.code != 1 or "Traceback" in ended.output or "cannot write the run there" not in ended.last_line:
            return f"{place}: {ended.code}, {ended.last_line}"
    return ""


def moved_and_copied(prepared: Path, folder: Path, reference: Mapping[str, bytes]) -> str:
    """A killed run is copied, and the copy is moved; both go on."""
    killing.work_folder(prepared, folder)
    killing.run(folder, at_operation=HALFWAY)
    copy = killing.work_folder(prepared, folder.with_name("copy"))
    shutil.copytree(folder / "outputs", folder.with_name("on the way"))
    shutil.move(folder.with_name("on the way"), copy / "outputs")
    return _completed(folder, reference) or _completed(copy, reference)


def other_working_folder(prepared: Path, folder: Path, reference: Mapping[str, bytes]) -> str:
    """A killed run goes on from another folder, with ``outputs``, which its settings record."""
    killing.work_folder(prepared, folder)
    killing.run(folder, at_operation=HALFWAY)
    elsewhere = killing.work_folder(prepared, folder / "elsewhere")
    ended = killing.run(elsewhere, "outputs=../outputs")
    if ended.code:
        return ended.last_line
    return _difference(folder, reference, but="config.yaml")


def two_processes(prepared: Path, folder: Path, reference: Mapping[str, bytes]) -> str:
    """A second process on a run in progress is refused, and the first one does not notice."""
    killing.work_folder(prepared, folder)
    child, output = killing.start(folder)
    while not (folder / killing.RUN / LOCK_FILE).exists():
        os.sched_yield()
    for more in ((), ("overwrite=true", "prompt=<id> in blue"), ("stage=embed",)):
        second = killing.run(folder, *more)
        if second.code != 1 or "is in use by process" not in second.last_line:
            return f"{more}: {second.code}, {second.last_line}"
    first = killing.wait(child, output)
    return first.last_line if first.code else _difference(folder, reference)


def _completed(folder: Path, reference: Mapping[str, bytes]) -> str:
    """What is wrong with a run after the same command has completed it."""
    ended = killing.run(folder)
    return ended.last_line if ended.code else _difference(folder, reference)


def _difference(folder: Path, reference: Mapping[str, bytes], but: str = "") -> str:
    found = killing.files(folder)
    everything = (found.keys() | reference.keys()) - {but}
    names = [name for name in everything if found.get(name) != reference.get(name)]
    return f"other {', '.join(sorted(names))}" if names else ""


SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (
        *(full_disk, unwritable_place, moved_and_copied, other_working_folder, clock_set_back, two_processes),
        *((small_disk, read_only_outputs) if os.geteuid() == 0 else ()),  # only root mounts file systems
    )
}
