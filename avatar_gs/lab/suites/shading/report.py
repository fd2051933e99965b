"""suite=shading from end to end: records, figures, sheet and tables."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from avatar_gs.core.console import format_duration
from avatar_gs.core.images import RGBImage, contact_sheet
from avatar_gs.lab.metrics.avatar import Measurement
from avatar_gs.lab.metrics.shading import POOL
from avatar_gs.lab.metrics.truth import DIRECTIONS
from avatar_gs.lab.scorer.model import load_scorer
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites import report as tables
from avatar_gs.lab.suites.folder import RecordFolder
from avatar_gs.lab.suites.parts import expected_parts
from avatar_gs.lab.suites.shading.ablation import FRONT_ONLY, LIT, STRIP_LABELS, WHITE, make_records
from avatar_gs.lab.suites.shading.records import Row, ShadingRecord
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior

LOOKS = ("albedo", "shaded", "textureless")


def measure_shading(
    settings: LabSettings, prior: StableDiffusionPrior, folder: Path
) -> tuple[dict[str, Any], RGBImage]:
    """The figures and the sheet of suite=shading."""
    kept = RecordFolder(folder / "avatars", ShadingRecord.of_plain)
    records = make_records(settings, prior, load_scorer(), kept)
    labels = [
        f"{r.row.value}: {', '.join(f'{name} {part}' for part, name in r.asked.items())}" for r in records.values()
    ]
    title = f"suite=shading, seed {settings.seed}: {tables.LABEL}"
    rows = [kept.strip(key) for key in records]
    picture = contact_sheet(rows, row_labels=labels, column_labels=STRIP_LABELS, title=title, size=128)
    return {**summarise(list(records.values())), "avatars": list(records)}, picture


def summarise(records: Sequence[ShadingRecord]) -> dict[str, Any]:
    """All figures, by row of the ablation; shares are means over avatars, with their standard deviation."""
    by_row = {row: [record for record in records if record.row is row] for row in Row}
    controls = {name: _found(records, name) for name in ("truth", "silhouette")}
    return {
        "rows": {row.value: _row(some) for row, some in by_row.items() if some},
        "controls": controls | {"chance": 1 / POOL},
        "steps": records[0].metrics["steps"],
        "wall_seconds": sum(record.seconds for record in records),
    }


def _row(records: Sequence[ShadingRecord]) -> dict[str, Any]:
    figures: dict[str, Any] = {"avatars": len(records)}
    for look in ("albedo", "shaded"):
        shares = [right_views(getattr(record, look), record.asked) for record in records]
        sides = {side: _mean([share[side] for share in shares]) for side in DIRECTIONS}
        figures[f"{look}_colours"] = {"all": _spread([share["all"] for share in shares]), "from": sides}
    figures["found"] = {look: _found(records, look) for look in LOOKS}
    figures["stray"] = fmean(record.albedo.stray for record in records)
    figures["seconds"] = fmean(record.seconds for record in records)
    return figures


def right_views(measurement: Measurement, asked: dict[str, str]) -> dict[str, float | None]:
    """The share of parts and views whose colour is right, in all and from each direction (None: no part is seen)."""
    hits: dict[str, list[bool]] = {"all": [], **{side: [] for side in DIRECTIONS}}
    for item in expected_parts(measurement, asked):
        for view, hit in zip(item.views, item.hits(), strict=True):
            hits["all"].append(hit)
            hits[view.direction].append(hit)
    return {name: fmean(values) if values else None for name, values in hits.items()}


def _found(records: Sequence[ShadingRecord], look: str) -> dict[str, Any]:
    """R-Precision: the share of full-body pictures whose own prompt the scorer finds."""
    return _spread([fmean(record.found[look].values()) for record in records])


def _spread(values: Sequence[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    return {"mean": _mean(known), "std": stdev(known) if len(known) > 1 else None}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def shading_markdown(results: dict[str, Any]) -> str:
    """The report of suite=shading."""
    figures = results["figures"]
    columns = ["row", "avatars", "colours right", "from the front", "from behind", "lit: right"]
    columns += [f"R-Precision, {look}" for look in LOOKS] + ["stray alpha", "seconds"]
    rows = [
        [
            name,
            str(row["avatars"]),
            _with_spread(row["albedo_colours"]["all"]),
            tables.number(row["albedo_colours"]["from"]["front"]),
            tables.number(row["albedo_colours"]["from"]["back"]),
            _with_spread(row["shaded_colours"]["all"]),
            *(_with_spread(row["found"][look]) for look in LOOKS),
            tables.number(row["stray"], 3),
            tables.number(row["seconds"], 0),
        ]
        for name, row in figures["rows"].items()
    ]
    controls = figures["controls"]
    text = (
        f"DreamFusion's cumulative ablation at {figures['steps']} steps. *none*: views within {FRONT_ONLY:.0f} degrees "
        "of the front, prompts without view words, albedo only. *ViewAug*: a full circle of views. *ViewDep*: view "
        f"words in the prompts. *Lighting*: {LIT:.0%} of the steps after the warm-up are lit. *Textureless*: "
        f"{WHITE:.0%} of these are white. *Colours right*: the share of parts and views with the asked colour (as in "
        "suite=colours), of the albedo and of lit pictures; ± is the standard deviation over avatars. *R-Precision*: "
        f"full-body pictures whose own prompt the packaged scorer prefers to {POOL - 1} others of held-out people, "
        f"over {len(DIRECTIONS)} directions; chance {tables.number(controls['chance'])}, drawn truth "
        f"{_with_spread(controls['truth'])}, avatars as flat white silhouettes {_with_spread(controls['silhouette'])}. "
        "Prompts differ mostly in colours, of which a textureless picture shows none. The pose map tells the prior the "
        "view in every row; DreamFusion had none.\n"
    )
    took = f"{format_duration(figures['wall_seconds'])} for all avatars."
    table = tables.markdown_table(columns, rows)
    return f"{tables.head(results, 'DreamFusion’s ablation of views and light')}\n{text}\n{table}\n\n{took}\n"


def _with_spread(figure: dict[str, float | None]) -> str:
    if figure["std"] is None:
        return tables.number(figure["mean"])
    return f"{tables.number(figure['mean'])} ± {tables.number(figure['std'])}"
