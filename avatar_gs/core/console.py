"""The terminal: log lines, progress bars with current values and time left, and Ctrl-C.

On a terminal the bar stays below the log lines; elsewhere (pipes, files) progress is a plain line every few seconds.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

LOGGER = logging.getLogger("avatar_gs")
SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_FIGURES = 0.25
Figure = float | int | str | Callable[[], float]

_console = Console(stderr=True, highlight=False)


class _ConsoleHandler(logging.Handler):
    """Prints through the console that draws the bar, so that neither overwrites the other."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "only_file", False):
            return
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        _console.print(prefix + record.getMessage(), markup=False, soft_wrap=True)


def start_logging() -> None:
    """Shows the program's own log on the terminal. Calling it again changes nothing."""
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    if not any(isinstance(handler, _ConsoleHandler) for handler in LOGGER.handlers):
        LOGGER.addHandler(_ConsoleHandler())


def silence() -> None:
    """Shows nothing from here on but errors: of several processes, one speaks."""
    LOGGER.setLevel(logging.ERROR)
    _console.quiet = True


def format_duration(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _format_figures(figures: dict[str, Figure]) -> str:
    figures = {name: value() if callable(value) else value for name, value in figures.items()}
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    )


class Progress:
    """How far a stage is. Made by ``progress``."""

    def __init__(self, stage: str, total: int | None, start: int, bar: RichProgress | None) -> None:
        self.stage, self.total, self.done = stage, total, start
        self._bar = bar
        self._first: tuple[int, float] | None = None
        # A pipe hears of a stage's first step at once.
        self._last_line = float("-inf") if bar is None else time.monotonic()
        self._last_shown = float("-inf")
        self._task = bar.add_task(stage, total=total, completed=start, figures="") if bar else None

    def update(self, done: int, **figures: Figure) -> None:
        """Says that ``done`` of ``total`` steps are behind us, and shows the current figures beside the bar. Functions
        are called only for what is shown: a few times a second on a terminal, and once a line elsewhere."""
        self.done = done
        if self._bar is not None and self._task is not None:
            if done == self.total or time.monotonic() - self._last_shown >= SECONDS_BETWEEN_FIGURES:
                self._last_shown = time.monotonic()
                self._bar.update(self._task, figures=_format_figures(figures))
            self._bar.update(self._task, completed=done)
        now = time.monotonic()
        # The first step compiles and warms up: it says nothing about the others' time.
        self._first = self._first or (done, now)
        if done == self.total or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            LOGGER.info(self._line(figures), extra={"only_file": self._bar is not None})

    def _line(self, figures: dict[str, Figure]) -> str:
        parts = [self.stage, f"{self.done}/{self.total}" if self.total else str(self.done)]
        if self.total and self._first and self.done > self._first[0]:
            first, began = self._first
            seconds_per_step = (time.monotonic() - began) / (self.done - first)
            parts.append(f"{format_duration(seconds_per_step * (self.total - self.done))} left")
        return "  ".join([*parts, _format_figures(figures)]).rstrip()


@contextmanager
def progress(stage: str, total: int | None = None, start: int = 0) -> Iterator[Progress]:
    """Shows a stage's progress until the block ends.

    Args:
        stage: its name, shown before the bar.
        total: the number of steps; None shows a spinner instead of a bar and a time.
        start: steps that an earlier run has done.
    """
    if not _console.is_terminal:
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
        TextColumn("{task.fields[figures]}", markup=False),
        console=_console,
        refresh_per_second=4,
    ) as bar:
        yield Progress(stage, total, start, bar)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int, float], None]]:
    """One bar after another, for a job of several parts: gives a function of (what, done, total, loss). Its first call
    with another ``what`` ends the bar before; a loss of 0 is not shown."""
    with ExitStack() as stack:
        bars: dict[str, Progress] = {}

        def report(what: str, done: int, total: int, loss: float) -> None:
            if what not in bars:
                stack.close()
                bars[what] = stack.enter_context(progress(what, total, start=done))
            figures = {"loss": loss} if loss else {}
            bars[what].update(done, **figures)

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
