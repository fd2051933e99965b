"""The folder of a run: its file names, its state, and writing to it. Does not import torch.

A run's folder holds ``config.yaml``, ``log.txt``, ``metrics.json``, ``checkpoints/``, ``previews/`` and the exports.
"""

import errno
import json
import logging
import logging.handlers
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from avatar_gs.core.errors import UserError, first_line
from avatar_gs.core.io import PARTIAL, write_json, write_text
from avatar_gs.core.run_lock import locked

METRICS_SCHEMA = 1
CONFIG_FILE, METRICS_FILE, CHECKPOINTS = "config.yaml", "metrics.json", "checkpoints"
IDENTITY_FILE, IDENTITY_CHECKPOINT = "identity.safetensors", "embed.safetensors"
LOG_FILE, EARLIER_LOG, LOG_BYTES = "log.txt", "log.txt.1", 2**20
"""The log starts again at ``LOG_BYTES``; the lines before that stay in ``EARLIER_LOG`` until it does so again."""
PAGE, POSTER, TURNTABLE = "index.html", "poster.webp", "turntable.webp"
FILES = (
    CONFIG_FILE, LOG_FILE, EARLIER_LOG, METRICS_FILE, IDENTITY_FILE,
    "avatar.ply", "avatar.html", "turntable.mp4", "avatar.spz", "avatar.glb", "mesh.glb", PAGE, POSTER, TURNTABLE,
)  # fmt: skip
MOTIONS = "motions"
FOLDERS = (CHECKPOINTS, "previews", "tensorboard", MOTIONS)
"""``FILES`` and ``FOLDERS`` are removed when a run starts from scratch; anything else in the folder is the user's."""


def has_begun(folder: Path) -> bool:
    """Whether there is work to lose or to resume.

    A run that failed before its first checkpoint (e.g. because of a wrong path) has not begun: its settings may change.
    """
    return (folder / CONFIG_FILE).exists() and ((folder / METRICS_FILE).exists() or (folder / CHECKPOINTS).exists())


def read_config(folder: Path) -> dict[str, Any]:
    """The saved settings of a run, as ``config.yaml`` has them.

    Raises:
        UserError: if the file is missing or damaged.
    """
    file = folder / CONFIG_FILE
    try:
        saved = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file} cannot be read ({first_line(error)})") from error
    if not isinstance(saved, dict):
        raise UserError(f"{file} is damaged (no settings in it)")
    return saved


def has_only_an_identity(folder: Path) -> bool:
    """Whether only ``stage=embed`` has run: prompt, cameras and the other settings of the avatar may still change."""
    begun = (folder / IDENTITY_FILE).exists() or (folder / CHECKPOINTS / IDENTITY_CHECKPOINT).exists()
    return begun and not RunFolder(folder).holds_avatar()


class RunFolder:
    """One run on disk.

    ``metrics.json`` holds ``schema`` and, under ``stages``, each stage's values and whether it has ``finished``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / CHECKPOINTS
        self.avatar_checkpoint = self.checkpoints / "last.safetensors"
        self.previews = self.path / "previews"

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @classmethod
    @contextmanager
    def open(
        cls, path: str | os.PathLike[str], config: Mapping[str, Any], *, overwrite: bool = False
    ) -> Iterator["RunFolder"]:
        """Create or continue the run in folder ``path``, hold its lock, and copy the program's log to its ``log.txt``
        until the block ends.

        Args:
            path: the run's folder.
            config: resolved settings as plain values; saved if the run (or its avatar) has not begun.
            overwrite: remove the files of an earlier run first.

        Raises:
            UserError: if the folder cannot be written, or another process works in it.
        """
        run = cls(path)
        with ExitStack() as stack:
            with _writing_into(run.path):
                run.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(run.path))
                if overwrite:
                    run._remove_files()
                run._remove_partial_files()
                if not has_begun(run.path) or has_only_an_identity(run.path):
                    run._write_config(config)
                handler = _LogFile(
                    run / LOG_FILE, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace"
                )
            stack.callback(handler.close)
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            logger = logging.getLogger("avatar_gs")
            logger.addHandler(handler)
            stack.callback(logger.removeHandler, handler)
            try:
                yield run
            except BaseException as error:  # the command prints it on the terminal
                logger.error("%s: %s", type(error).__name__, error, extra={"only_file": True})
                raise

    def raise_steps(self, steps: int) -> None:
        """Save ``optimize.steps`` in the run's settings, if it is larger than there."""
        config = read_config(self.path)
        section = config.get("optimize", {})
        if section.get("steps", 0) < steps:
            self._write_config(config | {"optimize": section | {"steps": steps}})

    def _write_config(self, config: Mapping[str, Any]) -> None:
        write_text(self / CONFIG_FILE, yaml.safe_dump(dict(config), allow_unicode=True, sort_keys=False))

    def _remove_partial_files(self) -> None:
        """Remove what a killed process was writing."""
        for folder in (self.path, *(self / name for name in FOLDERS)):
            for partial in folder.glob(f".*{PARTIAL}*"):
                partial.unlink(missing_ok=True)

    def _remove_files(self) -> None:
        for name in FILES:
            (self / name).unlink(missing_ok=True)
        for name in FOLDERS:
            if (self / name).is_dir():
                shutil.rmtree(self / name)

    def holds_avatar(self) -> bool:
        """Whether the run has a checkpoint of an avatar."""
        return self.avatar_checkpoint.is_file()

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Recorded values by stage name.

        Raises:
            UserError: if ``metrics.json`` is damaged or of another schema.
        """
        path = self / METRICS_FILE
        if not path.exists():
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema"] != METRICS_SCHEMA:
                raise UserError(
                    f"{path}: found schema {content['schema']}, this version reads {METRICS_SCHEMA}; "
                    "give overwrite=true to start from scratch"
                )
            return content["stages"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}): give overwrite=true to start from scratch") from error

    def record(self, stage: str, *, finished: bool = True, **values: Any) -> None:
        """Write a stage's values to ``metrics.json``, replacing those it has recorded before."""
        stages = self.metrics() | {stage: {"finished": finished, **values}}
        write_json(self / METRICS_FILE, {"schema": METRICS_SCHEMA, "stages": stages})

    def finished(self, stage: str) -> bool:
        """Whether the stage is recorded as finished."""
        return bool(self.metrics().get(stage, {}).get("finished"))

    def has_optimized(self, steps: int) -> bool:
        """Whether the optimisation is recorded as finished, with at least ``steps`` steps."""
        record = self.metrics().get("optimize", {})
        return bool(record.get("finished")) and record.get("steps", steps) >= steps


class _LogFile(logging.handlers.RotatingFileHandler):
    """A log of bounded size whose disk may be full: the work goes on, and what it writes says so."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Print no traceback for a line that could not be written."""

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def _writing_into(folder: Path) -> Iterator[None]:
    """Raise UserError for a folder that cannot be written in the block; a full disk has its own message."""
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{folder}: cannot write the run there ({reason}); run avatar-gs from a folder that you may write to, or "
            "give outputs=<folder>"
        ) from error
