"""Run the parts of the check: each a process with a time limit, some in parallel.

Standard library only, so that a broken torch fails a part and not the check.
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KILL_AFTER = 3.0
"""Seconds from SIGTERM to SIGKILL."""
POLL = 0.2
"""Seconds between checks for finished parts and signals."""
LEAST = 8.0
"""Minimum remaining seconds to start a part."""
TAIL = 12


class Status(Enum):
    """How a part ended."""

    passed = "passed"
    failed = "failed"
    overran = "overran its limit"
    not_run = "not run"


@dataclass(frozen=True)
class Part:
    """One process.

    Args:
        name: a word for ``--parts``.
        title: heading in the report.
        command: arguments; ``{json}`` is a file for its rows, ``{out}`` the folder of the report.
        limit: in seconds.
        table: heading of a table shared with other parts; empty: a separate table.
        after: name of the part that must have passed.
        skip: reason why it cannot run, or empty.
        facts: columns added before its rows' own.
    """

    name: str
    title: str
    command: tuple[str, ...]
    limit: float
    table: str = ""
    after: str = ""
    skip: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


Lane = Sequence[Part]
"""Parts that run one after another."""
Wave = Sequence[Lane]
"""Lanes that run in parallel; the next wave starts when all have ended."""


@dataclass
class Outcome:
    """Result of a part. ``began``: seconds since the start of the check; ``seconds``: duration."""

    name: str
    title: str
    status: Status
    began: float = 0.0
    seconds: float = 0.0
    note: str = ""
    table: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    tail: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        return asdict(self) | {"status": self.status.value}


class Check:
    """Runs waves within a budget of seconds and calls ``report`` after every part."""

    def __init__(self, out: Path, scratch: Path, budget: float, report: Callable[[list[Outcome]], None]) -> None:
        self.out, self.scratch, self.budget, self.report = out, scratch, budget, report
        self.outcomes: list[Outcome] = []
        self.began = time.monotonic()
        self._lock = threading.RLock()
        self._running: set[subprocess.Popen[Any]] = set()
        self._stopped = False

    def run(self, waves: Sequence[Wave]) -> None:
        """Run all waves; an exception, including one from a signal, kills every running part."""
        for wave in waves:
            with ThreadPoolExecutor(max(len(wave), 1)) as pool:
                try:
                    lanes = [pool.submit(self._lane, lane) for lane in wave]
                    # a signal that comes just before an endless wait would be noticed at its end only
                    while wait(lanes, timeout=POLL).not_done:
                        pass
                    for lane in lanes:
                        lane.result()
                except BaseException:
                    self.stop()  # before the pool waits for its threads
                    raise

    def stop(self) -> None:
        """Kill all running parts and start no others."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                _signal(process, signal.SIGKILL)

    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def _lane(self, lane: Lane) -> None:
        for part in lane:
            self._say(f"{part.name} …")
            outcome = self._outcome(part)
            with self._lock:
                self.outcomes.append(outcome)
                self.report(self.outcomes)
            note = f": {outcome.note}" if outcome.note else ""
            self._say(f"{part.name} {outcome.status.value} after {outcome.seconds:.1f} s{note}")

    def _say(self, line: str) -> None:
        with self._lock:
            print(f"[{self.elapsed():6.1f} s] {line}", flush=True)

    def _outcome(self, part: Part) -> Outcome:
        outcome = Outcome(part.name, part.title, Status.not_run, self.elapsed(), table=part.table or part.title)
        left = self.budget - outcome.began
        passed = {done.name for done in self.outcomes if done.status is Status.passed}
        if part.skip:
            outcome.note = part.skip
        elif part.after and part.after not in passed:
            outcome.note = f"{part.after} did not pass"
        elif left < LEAST or self._stopped:
            outcome.note = "no time left"
        else:
            self._execute(part, min(part.limit, left), outcome)
        return outcome

    def _execute(self, part: Part, limit: float, outcome: Outcome) -> None:
        log, rows = self.scratch / f"{part.name}.log", self.scratch / f"{part.name}.json"
        command = [word.replace("{json}", str(rows)).replace("{out}", str(self.out)) for word in part.command]
        began = time.monotonic()
        with log.open("wb") as output:
            try:
                code = self._wait(command, output, environment(part.environment), limit)
            except OSError as error:
                code, outcome.note = -1, str(error)
        outcome.seconds = time.monotonic() - began
        text = log.read_text(encoding="utf-8", errors="replace")
        outcome.rows, failures = read_rows(rows, part.facts), []
        if "pytest" in command:
            row, failures = read_tests(text)
            outcome.rows = [dict(part.facts) | row]
        outcome.tail = text.rstrip().splitlines()[-TAIL:]
        outcome.status = {None: Status.overran, 0: Status.passed}.get(code, Status.failed)
        if code is None:
            outcome.note = f"more than {limit:.0f} s"
        elif code:
            outcome.note = outcome.note or "; ".join(failures) or last_line(text) or f"exit code {code}"
        with self._lock, (self.out / "log.txt").open("a", encoding="utf-8") as whole:
            whole.write(f"==== {part.name}: {' '.join(command)}\n{text}\n")

    def _wait(self, command: list[str], output: Any, variables: dict[str, str], limit: float) -> int | None:
        """The exit code; None if the limit was exceeded and the process and its children were killed."""
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        with self._lock:
            process = subprocess.Popen(command, cwd=ROOT, env=variables, start_new_session=True, **options)
            self._running.add(process)
            if self._stopped:  # since the part was chosen
                _signal(process, signal.SIGKILL)
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(KILL_AFTER)
            return None
        finally:
            _signal(process, signal.SIGKILL)  # including children it has left behind
            process.wait()
            with self._lock:
                self._running.discard(process)


def _signal(process: "subprocess.Popen[Any]", number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of parts: the checkout is first on the path, output is unbuffered, idle threads sleep."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    ours = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    defaults = {"OMP_WAIT_POLICY": "PASSIVE", "NUMBA_CACHE_DIR": str(ROOT / ".cache" / "numba")}
    return defaults | dict(os.environ) | ours | dict(more)


def read_rows(file: Path, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows in a part's JSON file; empty if it is missing or incomplete."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    rows = rows if isinstance(rows, list) else [rows]
    return [dict(facts) | row for row in rows if isinstance(row, dict)]


def read_tests(text: str) -> tuple[dict[str, Any], list[str]]:
    """Numbers of passed, failed and skipped tests, and failed tests with their reasons, from the possibly truncated
    output of ``pytest -v -rfE``."""
    counts: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0}
    words = {"PASSED": "passed", "FAILED": "failed", "ERROR": "failed", "SKIPPED": "skipped"}
    reasons: dict[str, str] = {}
    for line in text.splitlines():
        first, _, rest = line.partition(" ")
        if first in ("FAILED", "ERROR"):
            name, _, reason = rest.partition(" - ")
            reasons[name.rpartition("::")[2]] = reason.strip()
        elif "::" in line:
            verdict = next((word for word in words if f" {word}" in line), None)
            if verdict is None:
                continue
            counts[words[verdict]] += 1
            if verdict in ("FAILED", "ERROR"):
                name = line.partition(f" {verdict}")[0]
                reasons.setdefault(name.rpartition("::")[2], "")
    return counts, [f"{name}: {reason}" if reason else name for name, reason in reasons.items()]


def last_line(text: str) -> str:
    """The last line of a program's output."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
