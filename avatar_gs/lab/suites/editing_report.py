"""suite=editing: what is recorded of each edit, the figures, and the report."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from avatar_gs.core.console import format_duration
from avatar_gs.lab.metrics.avatar import Measurement
from avatar_gs.lab.suites.edits import BARE
from avatar_gs.lab.suites.parts import REPORTED, ExpectedPart, expected_parts, pixel_fraction, right_fraction
from avatar_gs.lab.suites.report import deviation_of, markdown_table, mean_of, number, plus_minus
from avatar_gs.lab.suites.suite import Figures, Record

BEFORE = "before"
"""In the place of a preset: the avatar that is to be edited."""
COLUMNS = {
    "new": ("new colour", 2),
    "new_pixels": ("pixels", 2),
    "old_pixels": ("old colour, pixels", 2),
    "kept": ("other parts right", 2),
    "clothes": ("ΔE00 of them", 1),
    "face": ("of the face", 1),
    "skin": ("of the skin", 1),
    "overlap": ("silhouette IoU", 3),
    "shape": ("new shape IoU", 2),
    "seconds": ("seconds", 0),
}
"""Heading and digits of each figure."""


@dataclass(frozen=True)
class EditRecord(Record):
    """One edit by one method, or (``BEFORE``) the avatar that it started from.

    Args:
        preset: of ``guidance``.
        changed: the part that is changed.
        old: its colour before; empty if there was no such part.
        new: its colour in the new prompt.
        asked: the colours of all parts in the new prompt.
        end: measured against the drawn truth of the new prompt.
        differences: by part, for every view that shows it, the mean CIEDE2000 between before and after over the pixels
            that are this part in the truth of both.
        overlap: intersection over union of the two silhouettes, averaged over the full-body views.
        metrics: ``training.loop.metrics``.
    """

    preset: str
    changed: str
    old: str
    new: str
    source_prompt: str
    prompt: str
    seed: int
    asked: dict[str, str]
    end: Measurement
    differences: dict[str, list[float]]
    overlap: float
    metrics: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Wall time of all steps."""
        return self.metrics["seconds_per_step"]["total"] * self.metrics["steps"]


# ---- figures


FIGURES: dict[str, Callable[[EditRecord], float | None]] = {
    "new": lambda record: right_fraction(_changed(record, record.new)),
    "new_pixels": lambda record: pixel_fraction(_changed(record, record.new)),
    "old_pixels": lambda record: pixel_fraction(_changed(record, record.old)) if record.old else None,
    "kept": lambda record: right_fraction(_others(record)),
    "clothes": lambda record: mean_of(_difference(record, part) for part in REPORTED if part != record.changed),
    "face": lambda record: _difference(record, "face"),
    "skin": lambda record: _difference(record, "skin"),
    "overlap": lambda record: record.overlap if record.old else None,
    "shape": lambda record: None if record.old else _shape(record),
    "seconds": lambda record: record.seconds,
}
"""Figures of one record; None where it has no such thing. ``overlap`` is of recoloured people only: who puts on a hat
must have another silhouette, and that is ``shape``."""


def summarise(records: Sequence[EditRecord]) -> Figures:
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


def row(records: Sequence[EditRecord]) -> Figures:
    """The mean of each figure over avatars, and (``std``) its standard deviation."""
    figures: Figures = {"avatars": len(records)}
    for name, figure in FIGURES.items():
        values = [value for record in records if (value := figure(record)) is not None]
        figures[name] = {"mean": mean_of(values), "std": deviation_of(values)}
    return figures


def part_row(records: Sequence[EditRecord], parts: Iterable[str]) -> dict[str, dict[str, float | None]]:
    """Of each part, where it was to be kept: the fraction of views with its colour (``right``), and ``difference``."""
    figures = {}
    for part in parts:
        kept = [record for record in records if record.changed != part]
        items = [item for record in kept for item in _others(record) if item.part == part]
        differences = [_difference(record, part) for record in kept]
        figures[part] = {"right": right_fraction(items), "difference": mean_of(differences)}
    return figures


def _parts(records: Sequence[EditRecord]) -> list[str]:
    return list(dict.fromkeys(record.changed for record in records))


def _of(records: Sequence[EditRecord], changed: str) -> list[EditRecord]:
    return [record for record in records if record.changed == changed]


def _changed(record: EditRecord, name: str) -> list[ExpectedPart]:
    """The changed part, expected to have the colour ``name``."""
    return expected_parts(record.end, {record.changed: name}, [record.changed])


def _others(record: EditRecord) -> list[ExpectedPart]:
    return expected_parts(record.end, record.asked, [part for part in REPORTED if part != record.changed])


def _difference(record: EditRecord, part: str) -> float | None:
    return mean_of(record.differences.get(part, []))


def _shape(record: EditRecord) -> float | None:
    """Intersection over union with the true new volume, outside the bare body."""
    if record.changed not in record.end.volumes:
        return None
    both, either = record.end.volumes[record.changed]
    return both / max(either, 1)


# ---- report


def sections(results: dict[str, Any]) -> list[str]:
    """The report of suite=editing, below its head."""
    figures = results["figures"]
    took = f"{format_duration(figures['costs']['wall_seconds'])} for all avatars and edits."
    return [
        _text(figures),
        f"## All edits\n\n{_table(figures['rows'])}",
        _reading(figures["rows"]),
        *(f"## {_title(part)}\n\n{_table(rows)}" for part, rows in figures["changed"].items()),
        f"## Parts that were to be kept\n\n{_kept_table(figures['parts'])}",
        f"## Costs\n\n{took}",
    ]


def _title(part: str) -> str:
    return "A hat put on" if part == "hat" else f"Another colour of the {part}"


def _text(figures: Mapping[str, Any]) -> str:
    listed = "\n".join(
        f"- {edit['from']}: *{edit['new']} {edit['changed']}*, seed {edit['seed']}" for edit in figures["edits"]
    )
    methods = "\n".join(
        f"- {name}: {words}, {figures['steps'][name]} steps" for name, words in figures["guidance"].items()
    )
    return (
        "Avatars of people, and edits of each: one thing becomes another, and both sentences name all the rest.\n\n"
        f"{listed}\n\nBy the methods\n\n{methods}\n\n"
        "Means ± standard deviations over avatars. *before*: the avatar that is edited, measured as the others are.\n\n"
        "- *new colour*: the fraction of views in which the changed part has its new colour on 80 % of its pixels "
        "(eight views, as in suite=colours); *pixels*, *old colour*: the fraction of its pixels.\n"
        "- *other parts right*: the same fraction of views for hair and clothes that were to stay; *before* shows how "
        "many were right to begin with.\n"
        "- *ΔE00*: CIEDE2000 between the avatar before and after, pixel by pixel, where the drawn truth shows hair and "
        "other clothes, the face (head views) and bare skin (full-body views).\n"
        "- *silhouette IoU*: before and after, of recoloured people; *new shape IoU*: of a new hat and the true one.\n"
    )


def _table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    shown = {
        name: words for name, words in COLUMNS.items() if any(one[name]["mean"] is not None for one in rows.values())
    }
    table = [
        [preset, str(one["avatars"]), *(plus_minus(**one[name], digits=digits) for name, (_, digits) in shown.items())]
        for preset, one in rows.items()
    ]
    return markdown_table(["guidance", "avatars", *(words for words, _ in shown.values())], table)


def _kept_table(parts: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> str:
    names = list(next(iter(parts.values())))
    table = [
        [preset, *(f"{number(one[part]['right'])}, {number(one[part]['difference'], 1)}" for part in names)]
        for preset, one in parts.items()
    ]
    text = "The fraction of views with the right colour, and ΔE00 from before.\n\n"
    return text + markdown_table(["guidance", *names], table)


def _reading(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Which methods changed the part, and what each of the others spoilt or left undone."""
    before, lines = rows[BEFORE], []
    for preset, one in rows.items():
        if preset != BEFORE:
            new, lost = one["new"]["mean"], before["kept"]["mean"] - one["kept"]["mean"]
            spoilt = f"{max(lost, 0):.0%} of the other parts' views lost their colour"
            lines.append(f"- `{preset}`: the new colour in {new:.0%} of the views; {spoilt}.")
    return "\n".join(lines)
