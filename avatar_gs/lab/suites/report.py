"""Parts of the suites' reports: Markdown tables and numbers, the head, and the machine that figures were taken on."""

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

LABEL = "logic, not photo quality"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | None, digits: int = 2) -> str:
    """A dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def plus_minus(mean: float | None, std: float | None, digits: int = 2) -> str:
    """Mean ± standard deviation, as far as they are known."""
    return number(mean, digits) + ("" if std is None else f" ± {number(std, digits)}")


def mean_of(values: Iterable[float | bool | None]) -> float | None:
    """The mean of the values that are not None; None without any."""
    known = [float(value) for value in values if value is not None]
    return fmean(known) if known else None


def deviation_of(values: Iterable[float | None]) -> float | None:
    """The standard deviation of the values that are not None; None with fewer than two."""
    known = [value for value in values if value is not None]
    return stdev(known) if len(known) > 1 else None


def joined(sections: Iterable[str]) -> str:
    """Sections of Markdown with a blank line between; empty ones are left out."""
    return "\n\n".join(text for section in sections if (text := section.strip("\n"))) + "\n"


def head(results: Mapping[str, Any], title: str, unseen: str = "prompts") -> str:
    """Title, label, and what it takes to reproduce the figures."""
    facts = [
        f"- command: `{results['command']}`",
        f"- seed: {results['seed']}",
        f"- prior: {results['prior']['name']}, weights {results['prior']['fingerprint']}",
        f"- machine: {in_words(results['machine'])}",
    ]
    label = f"**{LABEL[0].upper()}{LABEL[1:]}.** On {unseen} that training never saw."
    return joined([f"# {title}", label, "\n".join(facts)])


def full_grid_line(full: Mapping[str, str]) -> str:
    """How to run the full grid, and how long it takes."""
    return f"The full grid, not run here ({full['note']}): `{full['command']}`"


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, cores, threads and versions, as every report names them."""
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def in_words(facts: Mapping[str, Any]) -> str:
    """One line on the machine."""
    where = facts["cpu"] if facts["device"] == "cpu" else f"{facts['device']}, {facts['cpu']}"
    return f"{where}, {facts['cores']} cores, {facts['threads']} torch threads, torch {facts['torch']}"
