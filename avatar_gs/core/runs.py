"""The folder of a run: its file names, its state, and writing to it. Does not import torch.

A run's folder holds ``config.yaml``, ``log.txt``, ``metrics.json``, ``checkpoints/``, ``previews/`` and the exports.
"""

import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from avatar_gs.core.errors import UserError, first_line
from avatar_gs.core.io import write_json, write_text

METRICS_SCHEMA = 1
CONFIG_FILE, METRICS_FILE, CHECKPOINTS = "config.yaml", "metrics.json", "checkpoints"
IDENTITY_FILE, AVATAR_CHECKPOINT, IDENTITY_CHECKPOINT = "identity.safetensors", "last.safetensors", "embed.safetensors"
FILES = (CONFIG_FILE, "log.txt", METRICS_FILE, IDENTITY_FILE, "avatar.ply", "avatar.html", "turntable.mp4")
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


def holds_an_avatar(folder: Path) -> bool:
    """Whether the run has a checkpoint of an avatar."""
    return (folder / CHECKPOINTS / AVATAR_CHECKPOINT).is_file()


def has_only_an_identity(folder: Path) -> bool:
    """Whether only ``stage=embed`` has run: prompt, cameras and the other settings of the avatar may still change."""
    checkpoints = folder / CHECKPOINTS
    begun = (folder / IDENTITY_FILE).exists() or (checkpoints / IDENTITY_CHECKPOINT).exists()
    return begun and not (checkpoints / AVATAR_CHECKPOINT).exists()


class RunFolder:
    """One run on disk.

    ``metrics.json`` holds ``schema`` and, under ``stages``, each stage's values and whether it has ``finished``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / CHECKPOINTS
        self.previews = self.path / "previews"

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @classmethod
    @contextmanager
    def open(
        cls, path: str | os.PathLike[str], config: Mapping[str, Any], *, overwrite: bool = False
    ) -> Iterator["RunFolder"]:
        """Create or continue the run in folder ``path``, and copy the program's log to its ``log.txt`` until the
        block ends.

        Args:
            path: the run's folder.
            config: resolved settings as plain values; saved if the run (or its avatar) has not begun.
            overwrite: remove the files of an earlier run first.

        Raises:
            UserError: if the folder cannot be written.
        """
        run = cls(path)
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            if overwrite:
                run._remove_files()
            if not has_begun(run.path) or has_only_an_identity(run.path):
                write_text(run / CONFIG_FILE, yaml.safe_dump(dict(config), allow_unicode=True, sort_keys=False))
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
        except BaseException as error:  # the command prints it on the terminal
            logger.error("%s: %s", type(error).__name__, error, extra={"only_file": True})
            raise
        finally:
            logger.removeHandler(handler)
            handler.close()

    def _remove_files(self) -> None:
        for name in FILES:
            (self / name).unlink(missing_ok=True)
        for name in FOLDERS:
            if (self / name).is_dir():
                shutil.rmtree(self / name)

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
