"""What the pages show of a run, read from its folder. A damaged or unfinished run is shown as far as it can be read."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from avatar_gs.core.runs import CHECKPOINTS, CONFIG_FILE, METRICS_FILE, MOTIONS

MAX_DEPTH = 4
"""Folders below ``outputs`` in which a run may lie."""
MAX_FOLDERS = 20_000
"""Folders that are looked into, in case ``outputs`` is the folder of something large."""
MAX_TEXT_BYTES = 16 * 2**20
"""Larger settings or figures are not read."""
_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class State(Enum):
    """How far a run has come."""

    finished = "finished"
    unfinished = "unfinished"
    empty = "not begun"
    damaged = "damaged"


@dataclass(frozen=True)
class Run:
    """A run on disk.

    Args:
        folder: of the run.
        config: its settings; {} where they cannot be read.
        stages: its figures by stage; {} where there are none.
        state: how far it has come.
        changed: seconds since the epoch of its last change.
    """

    folder: Path
    config: Mapping[str, Any]
    stages: Mapping[str, Mapping[str, Any]]
    state: State
    changed: float

    @property
    def prompt(self) -> str:
        """What the avatar is said to look like; may be empty."""
        return string(self.config.get("prompt"))

    @property
    def title(self) -> str:
        """The prompt, else the folder's name."""
        return " ".join(self.prompt.split()) or self.folder.name

    @property
    def seed(self) -> str:
        """The seed as text; empty if it is unknown."""
        return string(self.config.get("seed"))

    @property
    def day(self) -> str:
        """Day and time of the last change, local."""
        try:
            return datetime.fromtimestamp(self.changed).strftime("%Y-%m-%d %H:%M")
        except (ValueError, OverflowError, OSError):
            return ""

    def setting(self, name: str) -> str:
        """A setting by its dotted name, as text; empty if it is not there."""
        value: Any = self.config
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return string(value)

    def has(self, name: str) -> bool:
        """Whether a file of the run exists."""
        return (self.folder / name).is_file()

    def previews(self) -> list[Path]:
        """The sheets of the optimisation, from the first step to the last."""
        return sorted((self.folder / "previews").glob("step_*.png"))

    def motions(self) -> list[Path]:
        """The videos of ``stage=animate``."""
        return sorted(path for path in (self.folder / MOTIONS).glob("*") if path.suffix in (".mp4", ".webm"))


def string(value: Any) -> str:
    """A plain value as text; other ones and None are empty."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int | float) else ""


def number(value: Any) -> float | None:
    """A finite number, else None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        return float(value) if is_number and math.isfinite(value) else None
    except OverflowError:
        return None


def read_run(folder: Path) -> Run | None:
    """The run in a folder; None if its settings are none of this program's."""
    damaged = False
    try:
        config = yaml.load(_content(folder / CONFIG_FILE), Loader=_Loader)  # a safe loader
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        config, damaged = {}, True
    if not damaged and not (isinstance(config, dict) and isinstance(config.get("prompt"), str)):
        return None
    stages: dict[str, Any] = {}
    try:
        stages = _stages(json.loads(_content(folder / METRICS_FILE)))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RecursionError):
        damaged = True
    config = {str(key): value for key, value in config.items()}
    return Run(folder, config, stages, _state(folder, stages, damaged), _changed(folder))


def find_runs(runs: Path) -> list[Run]:
    """The runs below a folder, the last one that changed first. Hidden folders and links are left out."""
    found = (read_run(folder) for folder in _folders_of_runs(runs))
    return sorted((run for run in found if run is not None), key=lambda run: (-run.changed, str(run.folder)))


def _folders_of_runs(runs: Path) -> Iterator[Path]:
    waiting, looked = [(runs, 0)], 0
    while waiting and looked < MAX_FOLDERS:
        folder, depth = waiting.pop()
        looked += 1
        try:
            with os.scandir(folder) as content:
                entries = sorted(content, key=lambda entry: entry.name)
                inner = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
                is_run = depth > 0 and any(entry.name == CONFIG_FILE and entry.is_file() for entry in entries)
        except OSError:
            continue
        if is_run:
            yield folder
        elif depth < MAX_DEPTH:
            waiting += [(folder / name, depth + 1) for name in inner if not name.startswith(".")]


def _content(path: Path) -> str:
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise ValueError(f"{path} is too large")
    return path.read_text(encoding="utf-8")


def _stages(metrics: Any) -> dict[str, Any]:
    stages = metrics.get("stages") if isinstance(metrics, dict) else None
    if not isinstance(stages, dict):
        raise ValueError("no figures")
    return {str(name): record for name, record in stages.items() if isinstance(record, dict)}


def _state(folder: Path, stages: Mapping[str, Mapping[str, Any]], damaged: bool) -> State:
    if damaged:
        return State.damaged
    if stages.get("optimize", {}).get("finished") and stages.get("export", {}).get("finished"):
        return State.finished
    return State.unfinished if (folder / CHECKPOINTS).is_dir() or stages else State.empty


def _changed(folder: Path) -> float:
    times = []
    for name in (CONFIG_FILE, METRICS_FILE, "avatar.ply", f"{CHECKPOINTS}/last.safetensors"):
        try:
            times.append((folder / name).stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)
