"""The report of the check: one page of Markdown, and the same as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.gpu_check.running import Outcome, Status

ICONS = {Status.passed: "ok", Status.failed: "FAILED", Status.overran: "OVERRAN", Status.not_run: "not run"}


def write(out: Path, heading: str, outcomes: Sequence[Outcome], elapsed: float) -> None:
    """Write ``report.md`` and ``report.json`` to ``out``, atomically."""
    _replace(out / "report.md", markdown(heading, outcomes, elapsed))
    plain = {"heading": heading, "seconds": round(elapsed, 1), "parts": [outcome.plain() for outcome in outcomes]}
    _replace(out / "report.json", json.dumps(plain, indent=1))


def markdown(heading: str, outcomes: Sequence[Outcome], elapsed: float) -> str:
    """The parts' results, all tables, and the last lines of failed parts' output."""
    count = sum(outcome.status is Status.passed for outcome in outcomes)
    lines = [f"# {heading}", "", f"{count} of {len(outcomes)} parts passed; {elapsed:.0f} s.", ""]
    parts = [
        {
            "part": outcome.name,
            "what": outcome.title,
            "": ICONS[outcome.status],
            "began s": round(outcome.began, 1),
            "took s": round(outcome.seconds, 1),
            "note": outcome.note,
        }
        for outcome in sorted(outcomes, key=lambda outcome: outcome.began)
    ]
    lines += table(parts)
    for title in dict.fromkeys(outcome.table for outcome in outcomes if outcome.rows):
        rows = [row for outcome in outcomes if outcome.table == title for row in outcome.rows]
        lines += ["", f"## {title}", "", *table(rows)]
    for outcome in outcomes:
        if outcome.status in (Status.failed, Status.overran) and outcome.tail:
            lines += ["", f"## The end of {outcome.name}'s output", "", "```", *outcome.tail, "```"]
    return "\n".join(lines) + "\n"


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A Markdown table of rows; columns are the union of their keys, in order of appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return lines + [f"| {' | '.join(_cell(row.get(name)) for name in columns)} |" for row in rows]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(each)}" for name, each in value.items())
    return str(value).replace("|", "\\|").replace("\n", " ")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
