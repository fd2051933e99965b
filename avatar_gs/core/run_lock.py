"""One process at a time in a run's folder: a lock file that names its owner.

Locks of the operating system are missing on some network file systems, and local to one machine on others. Here a
file is created exclusively, which is atomic everywhere. A process of this machine is looked up; the owner on another
machine touches the file every few seconds, so a file that nobody touches is left over from a process that was killed.
Clocks are never compared.
"""

import json
import logging
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from avatar_gs.core.errors import UserError

LOGGER = logging.getLogger(__name__)

LOCK_FILE = ".lock"
BEAT = 2.0
"""Seconds between two touches of the file."""
PATIENCE = 12.0
"""Seconds without a touch after which an owner on another machine counts as dead."""


@dataclass(frozen=True)
class Owner:
    """The process that works in a folder.

    Args:
        host: for messages.
        machine: where ``pid`` means something: one boot of one machine, one namespace of processes.
        pid: of the process.
        started: tells apart processes that had the same ``pid``.
        inode: of the lock file; a copy of the folder has another one.
    """

    host: str
    machine: str
    pid: int
    started: str
    inode: int


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock until the block ends.

    Raises:
        UserError: if another process holds it.
        OSError: if the folder cannot be written.
    """
    path = folder / LOCK_FILE
    while not _create(path):
        seen = _content(path)
        if seen is not None and _is_alive(path, seen):
            raise UserError(_refusal(folder, seen))
        if seen is not None:
            _remove(path, seen)
    ended = threading.Event()
    beats = threading.Thread(target=_beat, args=(path, ended), name="run lock", daemon=True)
    beats.start()
    try:
        yield
    finally:
        ended.set()
        beats.join()
        path.unlink(missing_ok=True)


def _create(path: Path) -> bool:
    """Create the file with this process as the owner; False if there is one."""
    try:
        with path.open("x", encoding="utf-8") as file:
            inode = os.fstat(file.fileno()).st_ino
            owner = Owner(platform.node(), _machine(), os.getpid(), _started(os.getpid()) or "", inode)
            file.write(json.dumps(asdict(owner)))
    except FileExistsError:
        return False
    return True


def _content(path: Path) -> str | None:
    """The file's text; None if it has gone."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _owner(content: str) -> Owner | None:
    """The owner that a lock file names; None if the file is empty or damaged."""
    try:
        return Owner(**json.loads(content))
    except (ValueError, TypeError):
        return None


def _is_alive(path: Path, content: str) -> bool:
    """Whether the file's owner still works in the folder."""
    owner = _owner(content)
    if owner is not None and owner.inode != _inode(path):
        return False
    if owner is not None and owner.machine == _machine():
        return bool(owner.started) and _started(owner.pid) == owner.started
    LOGGER.info("%s: waiting up to %.0f s to see whether %s still works there", path.parent, PATIENCE, _name(owner))
    touched, ends = _touched(path), time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        time.sleep(0.2)
        if _touched(path) != touched:
            return _content(path) is not None
    return False


def _remove(path: Path, content: str) -> None:
    """Remove a dead owner's file, unless another process has been faster."""
    aside = path.with_name(f"{LOCK_FILE}.{os.getpid()}.{threading.get_ident()}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if _content(aside) != content:  # the lock of a process that has taken the folder meanwhile
        aside.rename(path)
    aside.unlink(missing_ok=True)


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        try:
            os.utime(path)
        except OSError:  # the folder was moved, or the file system is away for a while
            continue


def _touched(path: Path) -> int | None:
    """Time of the file's last change; reading it makes network file systems ask their server."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _machine() -> str:
    """A name for where process numbers are unique."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _started(pid: int) -> str | None:
    """When a process started, in a unit of the system that ignores the clock; None if it does not run."""
    try:
        state, *fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
        return None if state in "ZX" else fields[18]
    except (OSError, IndexError):
        pass
    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _name(owner: Owner | None) -> str:
    return f"process {owner.pid} on {owner.host}" if owner is not None else "another process"


def _refusal(folder: Path, content: str) -> str:
    return (
        f"{folder} is in use by {_name(_owner(content))}: wait until it ends, or stop it; name=… starts another run "
        "next to it"
    )
