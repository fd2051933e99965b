"""From the records of all edits to the rows of the tables."""

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, stdev
from typing import Any

from avatar_gs.lab.suites.editing.kept import BARE
from avatar_gs.lab.suites.editing.records import BEFORE, EditRecord
from avatar_gs.lab.suites.parts import REPORTED, ExpectedPart, expected_parts

FIGURES: dict[str, Callable[[EditRecord], float | None]] = {
    "new": lambda record: _right(_changed(record, record.new)),
    "new_pixels": lambda record: _pixels(_changed(record, record.new)),
    "old_pixels": lambda record: _pixels(_changed(record, record.old)) if record.old else None,
    "kept": lambda record: _right(_others(record)),
    "clothes": lambda record: _mean(_difference(record, part) for part in REPORTED if part != record.changed),
    "face": lambda record: _difference(record, "face"),
    "skin": lambda record: _difference(record, "skin"),
    "overlap": lambda record: record.overlap if record.old else None,
    "shape": lambda record: None if record.old else _shape(record),
    "seconds": lambda record: record.seconds,
}
"""Figures of one record; None where it has no such thing. ``overlap`` is of recoloured people only: who puts on a hat
must have another silhouette, and that is ``shape``."""


def summarise(records: Sequence[EditRecord]) -> dict[str, Any]:
    """All figures of suite=editing, by method; ``BEFORE`` is one of them."""
    presets = list(dict.fromkeys(record.preset for record in records))
    by_preset = {preset: [record for record in records if record.preset == preset] for preset in presets}
    parts = [part for part in (*REPORTED, *BARE) if any(part in record.differences for record in records)]
    return {
        "rows": {preset: row(some) for preset, some in by_preset.items()},
        "changed": {part: {p: row(_of(some, part)) for p, some in by_preset.items()} for part in _parts(records)},
        "parts": {preset: part_row(some, parts) for preset, some in by_preset.items()},
        "steps": {preset: some[0].metrics["steps"] for preset, some in by_preset.items()},
        "edits": [
            {"changed": r.changed, "old": r.old, "new": r.new, "seed": r.seed, "from": r.source_prompt}
            for r in by_preset[BEFORE]
        ],
        "costs": {"wall_seconds": sum(record.seconds for record in records), "edits": len(by_preset[BEFORE])},
    }


def row(records: Sequence[EditRecord]) -> dict[str, Any]:
    """The mean of each figure over avatars, and (``std``) its standard deviation."""
    figures: dict[str, Any] = {"avatars": len(records)}
    for name, figure in FIGURES.items():
        values = [value for record in records if (value := figure(record)) is not None]
        figures[name] = {"mean": _mean(values), "std": stdev(values) if len(values) > 1 else None}
    return figures


def part_row(records: Sequence[EditRecord], parts: Iterable[str]) -> dict[str, dict[str, float | None]]:
    """Of each part, where it was to be kept: the share of views with its colour (``right``), and ``difference``."""
    figures = {}
    for part in parts:
        kept = [record for record in records if record.changed != part]
        items = [item for record in kept for item in _others(record) if item.part == part]
        differences = [_difference(record, part) for record in kept]
        figures[part] = {"right": _right(items), "difference": _mean(differences)}
    return figures


def _parts(records: Sequence[EditRecord]) -> list[str]:
    return list(dict.fromkeys(record.changed for record in records))


def _of(records: Sequence[EditRecord], changed: str) -> list[EditRecord]:
    return [record for record in records if record.changed == changed]


def _changed(record: EditRecord, name: str) -> list[ExpectedPart]:
    """The changed part, asked whether it has the colour ``name``."""
    return expected_parts(record.end, {record.changed: name}, [record.changed])


def _others(record: EditRecord) -> list[ExpectedPart]:
    return expected_parts(record.end, record.asked, [part for part in REPORTED if part != record.changed])


def _right(items: Sequence[ExpectedPart]) -> float | None:
    """The share of parts and views that have the asked colour."""
    return _mean(hit for item in items for hit in item.hits())


def _pixels(items: Sequence[ExpectedPart]) -> float | None:
    """The share of pixels with the asked colour, in the mean over parts and views."""
    return _mean(view.share(item.name) for item in items for view in item.views)


def _difference(record: EditRecord, part: str) -> float | None:
    return _mean(record.differences.get(part, []))


def _shape(record: EditRecord) -> float | None:
    """Intersection over union with the true new volume, outside the bare body."""
    if record.changed not in record.end.volumes:
        return None
    both, either = record.end.volumes[record.changed]
    return both / max(either, 1)


def _mean(values: Iterable[float | bool | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return fmean(known) if known else None
