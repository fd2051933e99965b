"""The terminal: log lines, progress bars with current values and time left, and Ctrl-C.

On a terminal (or in a notebook with ipywidgets) the bar stays below the log lines; elsewhere (pipes, files) progress is
a plain line every few seconds.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

LOGGER = logging.getLogger("avatar_gs")
SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_VALUES = 0.25
Value = float | int | str | Callable[[], float]

_console = Console(stderr=True, highlight=False)


class _ConsoleHandler(logging.Handler):
    """Prints through the console of the bar, so that neither overwrites the other."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "only_file", False):
            return
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        _console.print(prefix + record.getMessage(), markup=False, soft_wrap=True)


def start_logging() -> None:
    """Show the program's log on the terminal. Idempotent."""
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    if not any(isinstance(handler, _ConsoleHandler) for handler in LOGGER.handlers):
        LOGGER.addHandler(_ConsoleHandler())


def silence() -> None:
    """Show only errors from now on (for all but one of several processes)."""
    LOGGER.setLevel(logging.ERROR)
    _console.quiet = True


def format_duration(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def rounded_duration(seconds: float) -> str:
    """Seconds as ``0.25 s``, ``88 s``, ``3 min`` or ``2.1 h``, for estimates."""
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _format_values(values: dict[str, Value]) -> str:
    numbers = {name: value() if callable(value) else value for name, value in values.items()}
    return "  ".join(f"{name} {v:.4g}" if isinstance(v, float) else f"{name} {v}" for name, v in numbers.items())


class Progress:
    """Progress of a stage. Made by ``progress``."""

    def __init__(self, stage: str, total: int | None, start: int, bar: RichProgress | None) -> None:
        self.stage, self.total, self.done = stage, total, start
        self._bar = bar
        self._first: tuple[int, float] | None = None
        # In a pipe, the first step is reported at once.
        self._last_line = float("-inf") if bar is None else time.monotonic()
        self._last_shown = float("-inf")
        self._task = bar.add_task(stage, total=total, completed=start, values="") if bar else None

    def update(self, done: int, **values: Value) -> None:
        """Report progress.

        Args:
            done: number of finished steps.
            values: current values to show. Functions are called only when shown (a few times a second on a terminal,
                once per line elsewhere), so that a GPU is rarely synchronised.
        """
        self.done = done
        if self._bar is not None and self._task is not None:
            if done == self.total or time.monotonic() - self._last_shown >= SECONDS_BETWEEN_VALUES:
                self._last_shown = time.monotonic()
                self._bar.update(self._task, values=_format_values(values))
            self._bar.update(self._task, completed=done)
        now = time.monotonic()
        # The first step compiles and warms up: it does not count for the time left.
        self._first = self._first or (done, now)
        if done == self.total or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            LOGGER.info(self._line(values), extra={"only_file": self._bar is not None})

    def _line(self, values: dict[str, Value]) -> str:
        parts = [self.stage, f"{self.done}/{self.total}" if self.total else str(self.done)]
        if self.total and self._first and self.done > self._first[0]:
            first, began = self._first
            seconds_per_step = (time.monotonic() - began) / (self.done - first)
            parts.append(f"{format_duration(seconds_per_step * (self.total - self.done))} left")
        return "  ".join([*parts, _format_values(values)]).rstrip()


def _shows_bars() -> bool:
    """Whether the output can be redrawn: a terminal, or a notebook with ipywidgets."""
    return _console.is_terminal or (_console.is_jupyter and find_spec("ipywidgets") is not None)


@contextmanager
def progress(stage: str, total: int | None = None, start: int = 0) -> Iterator[Progress]:
    """Show a stage's progress until the block ends.

    Args:
        stage: name shown before the bar.
        total: number of steps; None shows a spinner instead of a bar and a time.
        start: number of steps done by an earlier run.
    """
    if not _shows_bars():
        if total is None:
            LOGGER.info("%s …", stage)
        yield Progress(stage, total, start, None)
        return
    columns = (
        [BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left")]
        if total is not None
        else [SpinnerColumn()]
    )
    with RichProgress(
        TextColumn("{task.description}", markup=False),
        *columns,
        TextColumn("{task.fields[values]}", markup=False),
        console=_console,
        refresh_per_second=4,
    ) as bar:
        yield Progress(stage, total, start, bar)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int, float], None]]:
    """Show one bar after another for a job of several parts.

    Yields:
        A function of (part, done, total, loss). A call with a new ``part`` ends the previous bar; a loss of 0 is not
        shown.
    """
    with ExitStack() as stack:
        bars: dict[str, Progress] = {}

        def report(part: str, done: int, total: int, loss: float) -> None:
            if part not in bars:
                stack.close()
                bars[part] = stack.enter_context(progress(part, total, start=done))
            values = {"loss": loss} if loss else {}
            bars[part].update(done, **values)

        yield report


@dataclass
class Interrupt:
    """Whether the user has requested a stop. Made by ``interruptible``."""

    requested: bool = False


@contextmanager
def interruptible(message: str = "stopping after this step (Ctrl-C again stops at once)") -> Iterator[Interrupt]:
    """Let the first Ctrl-C (or SIGTERM) only set ``requested``; the second raises KeyboardInterrupt.

    A loop can thus write its checkpoint before it raises KeyboardInterrupt itself. No effect outside the main thread.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested = True
        LOGGER.info(message)

    earlier: dict[int, Callable[..., Any] | int | None] = {
        number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield interrupt
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
