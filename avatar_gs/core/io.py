"""Files: atomic writes, tensors with their state, and the folder that one run lives in.

Every file is written under a temporary name and renamed, so that a full disk or a kill leaves the file before it whole.
"""

import errno
import json
import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from avatar_gs.core import run_files as runs
from avatar_gs.core.errors import UserError

METRICS_SCHEMA = 1
_STATE_KEY = "state"


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path in the folder of ``path`` (made if need be), with the same suffix, that takes the name
    ``path`` when the block ends well, and is deleted when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:  # a rename may reach the disk before the bytes it names
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def save_state(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], state: Any = None) -> None:
    """Writes tensors, and a JSON value in the header beside them, as one safetensors file, atomically."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(contiguous, metadata={_STATE_KEY: json.dumps(state)})
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def load_state(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], Any]:
    """Reads what ``save_state`` wrote: the tensors and the JSON value.

    Raises:
        UserError: if the file is missing, cut short or not ours.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a file, not a dict)
        return tensors, json.loads(header[_STATE_KEY])
    except FileNotFoundError:
        raise UserError(f"{path} is not there") from None
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path} is damaged or not a file of avatar_gs ({error}): delete it, or give another"
        ) from error


@dataclass
class Interrupt:
    """Whether the user has asked to stop. Made by ``interruptible``."""

    requested: bool = False


@contextmanager
def interruptible(message: str = "stopping after this step (Ctrl-C again stops at once)") -> Iterator[Interrupt]:
    """Makes the first Ctrl-C (or SIGTERM) only set ``requested``, so that a loop can write its checkpoint and raise
    KeyboardInterrupt itself; the second one raises it on the spot. Outside the main thread nothing changes."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested = True
        logging.getLogger(__name__).info(message)

    earlier: dict[int, Callable[..., Any] | int | None] = {
        number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield interrupt
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


class RunFolder:
    """One run on disk: ``config.yaml``, ``log.txt``, ``metrics.json``, ``checkpoints/``, ``previews/`` and the exports.

    ``metrics.json`` holds ``schema`` and, under ``stages``, each stage's figures and whether it has ``finished``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / runs.CHECKPOINTS
        self.previews = self.path / "previews"

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @classmethod
    @contextmanager
    def open(
        cls, path: str | os.PathLike[str], config: Mapping[str, Any], *, anew: bool = False
    ) -> Iterator["RunFolder"]:
        """Makes or continues the run in folder ``path``; the program's log goes to its ``log.txt``
        until the block ends.

        Args:
            config: the resolved settings as plain values; saved if the run (or its avatar) has not begun.
            anew: first remove what an earlier run left there.

        Raises:
            UserError: if the folder cannot be written.
        """
        run = cls(path)
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            if anew:
                run._remove_files()
            if not runs.has_begun(run.path) or runs.has_only_an_identity(run.path):
                write_text(run / runs.CONFIG_FILE, yaml.safe_dump(dict(config), allow_unicode=True, sort_keys=False))
            handler = logging.FileHandler(run / "log.txt", encoding="utf-8")
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise UserError(
                f"{run.path}: cannot write the run there ({error.strerror}); "
                "run avatar-gs from a folder that you may write to"
            ) from error
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger = logging.getLogger("avatar_gs")
        logger.addHandler(handler)
        try:
            yield run
        except BaseException as error:  # the command says it on the terminal
            logger.error("%s: %s", type(error).__name__, error, extra={"only_file": True})
            raise
        finally:
            logger.removeHandler(handler)
            handler.close()

    def _remove_files(self) -> None:
        for name in runs.FILES:
            (self / name).unlink(missing_ok=True)
        for name in runs.FOLDERS:
            if (self / name).is_dir():
                shutil.rmtree(self / name)

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Each stage's figures, by the stage's name."""
        path = self / runs.METRICS_FILE
        if not path.exists():
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema"] != METRICS_SCHEMA:
                raise UserError(
                    f"{path}: found schema {content['schema']}, this version reads {METRICS_SCHEMA}; "
                    "give overwrite=true to start anew"
                )
            return content["stages"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}): give overwrite=true to start anew") from error

    def record(self, stage: str, *, finished: bool = True, **figures: Any) -> None:
        """Adds a stage's figures to ``metrics.json``, replacing what it had recorded before."""
        stages = self.metrics() | {stage: {"finished": finished, **figures}}
        write_json(self / runs.METRICS_FILE, {"schema": METRICS_SCHEMA, "stages": stages})

    def finished(self, stage: str) -> bool:
        """Whether the stage has recorded that it came to its end."""
        return bool(self.metrics().get(stage, {}).get("finished"))
