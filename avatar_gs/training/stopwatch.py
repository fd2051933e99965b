"""Seconds by part of a step."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch


@runtime_checkable
class Event(Protocol):
    """What is used of ``torch.cuda.Event``."""

    def query(self) -> bool: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, end_event: Any, /) -> float: ...


class Seconds(dict[str, float]):
    """Seconds so far, by part. A GPU's are read from its events once they have passed, so that the host need not wait:
    ``settle`` before the sums are used."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._pending: list[tuple[str, Event, Event]] = []

    def add(self, part: str, seconds: float) -> None:
        self[part] = self.get(part, 0.0) + seconds

    def expect(self, part: str, begin: Event, end: Event) -> None:
        """Will add the time between two recorded events; adds those that have passed by now."""
        self._pending.append((part, begin, end))
        while self._pending and self._pending[0][2].query():
            self._add_first()

    def settle(self) -> None:
        """Waits until all events have passed, and adds their times."""
        if self._pending:
            self._pending[-1][2].synchronize()
        while self._pending:
            self._add_first()

    def _add_first(self) -> None:
        part, begin, end = self._pending.pop(0)
        self.add(part, begin.elapsed_time(end) / 1000)


class Stopwatch:
    """Adds up seconds by part. With ``Seconds``, a GPU's are those between two of its events. With a plain dictionary
    it waits for a GPU to finish, so that a part that stands alone is timed from its beginning to its end."""

    def __init__(self, seconds: dict[str, float], device: torch.device) -> None:
        self.seconds, self.device = seconds, device

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        if self.device.type == "cuda" and isinstance(self.seconds, Seconds):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self.seconds.expect(part, begin, end)
            return
        began = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began
