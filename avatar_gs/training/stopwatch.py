"""Time measurement by part of a step."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch


@runtime_checkable
class Event(Protocol):
    """The used part of ``torch.cuda.Event``."""

    def query(self) -> bool: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, end_event: Any, /) -> float: ...


class Seconds(dict[str, float]):
    """Seconds so far, by part. GPU times are read from events once these have passed, so that the host need not wait:
    call ``settle`` before using the sums."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._pending: list[tuple[str, Event, Event]] = []

    def add(self, part: str, seconds: float) -> None:
        self[part] = self.get(part, 0.0) + seconds

    def expect(self, part: str, begin: Event, end: Event) -> None:
        """Register the time between two recorded events; adds those that have passed by now."""
        self._pending.append((part, begin, end))
        while self._pending and self._pending[0][2].query():
            self._add_first()

    def settle(self) -> None:
        """Wait until all events have passed, and add their times."""
        if self._pending:
            self._pending[-1][2].synchronize()
        while self._pending:
            self._add_first()

    def _add_first(self) -> None:
        part, begin, end = self._pending.pop(0)
        self.add(part, begin.elapsed_time(end) / 1000)


class Stopwatch:
    """Sums seconds by part. With ``Seconds``, GPU times are measured by events. With a plain dictionary, a part waits
    for the GPU to finish, so that a single part is timed from start to end."""

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
