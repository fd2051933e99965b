"""Records on disk: one JSON file and one strip of pictures for everything that a suite has made, so that the same
command goes on where it was interrupted."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from avatar_gs.core.console import format_duration
from avatar_gs.core.images import write_png
from avatar_gs.core.io import write_json
from avatar_gs.lab.metrics.avatar import Strip

LOGGER = logging.getLogger(__name__)


@runtime_checkable
class Plain(Protocol):
    """A record that can be written as JSON."""

    def plain(self) -> dict[str, Any]: ...


R = TypeVar("R", bound=Plain)
J = TypeVar("J")


class RecordFolder(Generic[R]):
    """Records by key, which ``of_plain`` makes of what JSON holds. A record that cannot be read is made again."""

    def __init__(self, path: Path, of_plain: Callable[[dict[str, Any]], R]) -> None:
        self.path, self._of_plain = path, of_plain

    def load(self, key: str) -> R | None:
        if not self._strip(key).exists():
            return None
        try:
            return self._of_plain(json.loads(self._file(key).read_text(encoding="utf-8")))
        except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError, ValueError):
            return None

    def save(self, key: str, record: R, strip: Strip) -> None:
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


def complete(
    jobs: Iterable[J],
    folder: RecordFolder[R],
    *,
    key: Callable[[J], str],
    make: Callable[[J], tuple[R, Strip]],
    describe: Callable[[J], str],
    cost: Callable[[J], float] = lambda job: 1.0,
    what: str = "avatar",
) -> dict[str, R]:
    """The record of every job by its key, in the jobs' order; those in ``folder`` are not made again.

    Args:
        cost: what making one takes, in any unit, for the time that is left.
        what: is made, in the log.

    Raises:
        KeyboardInterrupt: after Ctrl-C; all records but the one in work are kept.
    """
    keys = {key(job): job for job in jobs}
    records = {name: record for name in keys if (record := folder.load(name)) is not None}
    missing = [name for name in keys if name not in records]
    if records:
        LOGGER.info("%d of %d %ss are there from before", len(records), len(keys), what)
    began = time.monotonic()
    costs = [cost(keys[name]) for name in missing]
    for done, name in enumerate(missing):
        left = _left(time.monotonic() - began, math.fsum(costs[:done]), math.fsum(costs[done:]))
        LOGGER.info("%s %d of %d%s: %s", what, len(records) + 1, len(keys), left, describe(keys[name]))
        record, pictures = make(keys[name])
        folder.save(name, record, pictures)
        records[name] = record
    return {name: records[name] for name in keys}


def _left(seconds: float, done: float, to_do: float) -> str:
    return f" ({format_duration(seconds / done * to_do)} left)" if done else ""
