"""What is kept of every avatar that a suite has made: one JSON file, and one strip of pictures beside it."""

import json
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from avatar_gs.evaluation.avatar import Measurement, Strip
from avatar_gs.export.sheets import write_png
from avatar_gs.io import write_json


class Kind(str, Enum):
    """What an avatar is for: a figure, or a control that must fail."""

    AVATAR = "avatar"
    NO_GUIDANCE = "no guidance"
    RANDOM_WEIGHTS = "random weights"
    RED_BLUE = "red and blue"
    RED_BLUE_EXCHANGED = "red and blue exchanged"


@dataclass(frozen=True)
class Record:
    """One avatar: what was asked, what it measures before the first step and at the end, and what it cost."""

    kind: Kind
    prompt: str
    seed: int
    asked: dict[str, str]
    start: Measurement
    end: Measurement
    metrics: dict[str, Any]
    """``training.loop.metrics``: splats, seconds a step by part, peak memory."""
    seconds: float
    """Wall time of the optimisation."""

    def plain(self) -> dict[str, Any]:
        return asdict(self) | {"kind": self.kind.value}

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> "Record":
        moments = {name: Measurement.of_plain(plain[name]) for name in ("start", "end")}
        return cls(**{**plain, **moments, "kind": Kind(plain["kind"])})


class RecordFolder:
    """Records by key. A record that cannot be read is made again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, key: str) -> Record | None:
        if not self._strip(key).exists():
            return None
        try:
            return Record.of_plain(json.loads(self._file(key).read_text(encoding="utf-8")))
        except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError, ValueError):
            return None

    def save(self, key: str, record: Record, strip: Strip) -> None:
        write_png(self._strip(key), strip)
        write_json(self._file(key), record.plain())

    def strip(self, key: str) -> list[UInt8[np.ndarray, "S S 3"]]:
        """The square pictures of a record's strip."""
        with Image.open(self._strip(key)) as image:
            pixels = np.asarray(image.convert("RGB"))
        return np.split(pixels, pixels.shape[1] // pixels.shape[0], axis=1)

    def _file(self, key: str) -> Path:
        return self.path / f"{key}.json"

    def _strip(self, key: str) -> Path:
        return self.path / f"{key}.png"
