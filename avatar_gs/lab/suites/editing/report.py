"""suite=editing from end to end: people of whom one thing becomes another, by every method that can do it.

Every edit's record is kept under a hash of all that its result depends on, and the avatars that are edited are kept as
runs, so the same command goes on where it was interrupted, and more methods, people or seeds cost only what is new.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avatar_gs.core.console import format_duration
from avatar_gs.core.images import RGBImage, contact_sheet
from avatar_gs.guidance.presets import named_preset
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites.editing.records import BEFORE, EditRecord
from avatar_gs.lab.suites.editing.runs import STRIP_LABELS, make_records
from avatar_gs.lab.suites.editing.summary import summarise
from avatar_gs.lab.suites.folder import RecordFolder
from avatar_gs.lab.suites.report import LABEL, head, markdown_table, number
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior

CELL_SIZE = 112
TRUTH = "drawn truth"
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
FULL_PROMPTS, FULL_SEEDS = 12, 3


def measure_editing(
    settings: LabSettings, prior: StableDiffusionPrior, folder: Path
) -> tuple[dict[str, Any], RGBImage]:
    """The suite's figures and its sheet of pictures; makes the avatars and edits that ``folder`` does not hold yet."""
    kept = RecordFolder(folder / "edits", EditRecord.of_plain)
    records = make_records(settings, prior, kept, folder / "avatars")
    figures = summarise(list(records.values()))
    figures["guidance"] = {name: _settings_in_words(name) for name in figures["rows"] if name != BEFORE}
    return figures, _sheet(records, kept, settings.seed)


def full_seconds(costs: dict[str, Any]) -> float:
    """What the full grid takes, from the costs of a smaller one."""
    return FULL_PROMPTS * FULL_SEEDS * costs["wall_seconds"] / costs["edits"]


def _settings_in_words(name: str) -> str:
    config = named_preset(name)
    schedule = config.schedule
    method = config.method
    told = "from the old prompt to the new" if config.edits else "to the new prompt alone"
    return f"{method} {told}, s = {config.cfg_scale:g}, t {schedule.t_min:g} to {schedule.t_max:g}"


def _sheet(records: Mapping[str, EditRecord], kept: RecordFolder[EditRecord], seed: int) -> RGBImage:
    """A row for each method, the first seed's edits side by side; above them the drawn truth of the new prompts."""
    rows: dict[str, list[RGBImage]] = {TRUTH: []}
    columns: list[str] = []
    width = len(STRIP_LABELS)
    for key, record in records.items():
        if record.seed == seed:
            strip = kept.strip(key)
            if record.preset == BEFORE:
                rows[TRUTH] += strip[:width]
                columns += [f"{record.new} {record.changed}: {label}" for label in STRIP_LABELS]
            rows.setdefault(record.preset, []).extend(strip[width:])
    title = f"suite=editing, seed {seed}: {LABEL}"
    return contact_sheet(list(rows.values()), row_labels=list(rows), column_labels=columns, title=title, size=CELL_SIZE)


def editing_markdown(results: dict[str, Any]) -> str:
    """The report of suite=editing."""
    figures = results["figures"]
    sections = [
        head(results, "Editing changes what is asked, and keeps the rest", "outfits"),
        _text(figures),
        f"## All edits\n\n{_table(figures['rows'])}",
        _reading(figures["rows"]),
        *(f"## {_title(part)}\n\n{_table(rows)}" for part, rows in figures["changed"].items()),
        f"## Parts that were to be kept\n\n{_kept_table(figures['parts'])}",
        _costs(figures, results["full_grid"]),
    ]
    return "\n\n".join(section.strip("\n") for section in sections) + "\n"


def _title(part: str) -> str:
    return "A hat put on" if part == "hat" else f"Another colour of the {part}"


def _text(figures: Mapping[str, Any]) -> str:
    said = "\n".join(
        f"- {edit['from']}: *{edit['new']} {edit['changed']}*, seed {edit['seed']}" for edit in figures["edits"]
    )
    methods = "\n".join(
        f"- {name}: {words}, {figures['steps'][name]} steps" for name, words in figures["guidance"].items()
    )
    return (
        "Avatars of people, and edits of each: one thing becomes another, and both sentences name all the rest.\n\n"
        f"{said}\n\nBy the methods\n\n{methods}\n\n"
        "Means ± standard deviations over avatars. *before*: the avatar that is edited, measured as the others are.\n\n"
        "- *new colour*: the share of views in which the changed part has its new colour on 80 % of its pixels (eight "
        "views, as in suite=colours); *pixels*, *old colour*: the share of its pixels.\n"
        "- *other parts right*: the same share of views for hair and clothes that were to stay; *before* says how many "
        "were right to begin with.\n"
        "- *ΔE00*: CIEDE2000 between the avatar before and after, pixel by pixel, where the drawn truth shows hair and "
        "other clothes, the face (head views) and bare skin (full-body views).\n"
        "- *silhouette IoU*: before and after, of recoloured people; *new shape IoU*: of a new hat and the true one.\n"
    )


def _table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    shown = {
        name: words for name, words in COLUMNS.items() if any(one[name]["mean"] is not None for one in rows.values())
    }
    table = [
        [preset, str(one["avatars"]), *(_cell(one[name], digits) for name, (_, digits) in shown.items())]
        for preset, one in rows.items()
    ]
    return markdown_table(["guidance", "avatars", *(words for words, _ in shown.values())], table)


def _cell(figure: Mapping[str, float | None], digits: int) -> str:
    spread = "" if figure["std"] is None else f" ± {number(figure['std'], digits)}"
    return number(figure["mean"], digits) + spread


def _kept_table(parts: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> str:
    names = list(next(iter(parts.values())))
    table = [
        [preset, *(f"{number(one[part]['right'])}, {number(one[part]['difference'], 1)}" for part in names)]
        for preset, one in parts.items()
    ]
    text = "The share of views with the right colour, and ΔE00 from before.\n\n"
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


def _costs(figures: Mapping[str, Any], full: Mapping[str, str]) -> str:
    took = f"{format_duration(figures['costs']['wall_seconds'])} for all avatars and edits."
    return f"## Costs\n\n{took}\n\nThe full grid, not run here ({full['note']}): `{full['command']}`"
