"""suite=shading: DreamFusion's cumulative ablation (Poole et al. 2022, figure 6) with the command's own settings.

Nothing, then a full circle of views, then the words that name the views, then light, then light without texture: each
row adds one, and every avatar is rendered as albedo, lit, and lit without texture.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np

from avatar_gs.core.console import format_duration
from avatar_gs.core.images import RGBImage
from avatar_gs.lab.metrics.avatar import Measurement, Strip, measure, side_by_side
from avatar_gs.lab.metrics.shading import POOL, Retrieval, render_shades, silhouette_images, truth_images
from avatar_gs.lab.metrics.truth import CLOSE_UP, Case, cases
from avatar_gs.lab.metrics.views import DIRECTIONS
from avatar_gs.lab.scorer.model import load_scorer
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites.parts import expected_parts
from avatar_gs.lab.suites.report import deviation_of, markdown_table, mean_of, number, plus_minus
from avatar_gs.lab.suites.suite import AvatarSuite, Figures, Job, Made, Record
from avatar_gs.prior.fingerprint import weights_fingerprint
from avatar_gs.render.shading import Shade
from avatar_gs.types import Framing

FRONT_ONLY = 45.0
"""Degrees on both sides of the front that views are sampled from without ViewAug."""
LIT, WHITE = 0.75, 0.5
"""The fractions of lit steps and, among these, of white ones: DreamFusion's (appendix A.2)."""
STRIP_SIDES = ("front", "back")
STRIP_LABELS = ["true front", *(f"{shade.value} {side}" for side in STRIP_SIDES for shade in Shade)]
LOOKS = ("albedo", "shaded", "textureless")


class Row(str, Enum):
    """Each row has all that the rows above it have (Poole et al. 2022, figure 6)."""

    NOTHING = "none"
    VIEW_AUG = "+ ViewAug"
    VIEW_DEP = "+ ViewDep"
    LIGHTING = "+ Lighting"
    TEXTURELESS = "+ Textureless"

    def has(self, other: "Row") -> bool:
        rows = list(Row)
        return rows.index(other) <= rows.index(self)


@dataclass(frozen=True)
class ShadingRecord(Record):
    """One avatar.

    Args:
        albedo: colours of the albedo against the drawn truth.
        shaded: the same of lit renders.
        found: by look (``LOOKS``, and the controls ``truth`` and ``silhouette``) and direction, whether the scorer
            finds the prompt.
        metrics: ``training.loop.metrics``.
        seconds: wall time of the optimisation.
    """

    row: Row
    prompt: str
    seed: int
    asked: dict[str, str]
    albedo: Measurement
    shaded: Measurement
    found: dict[str, dict[str, bool]]
    metrics: dict[str, Any]
    seconds: float


ShadingJob = Job[Row, Case]


class ShadingSuite(AvatarSuite[ShadingJob, Made, ShadingRecord]):
    """Every row of the ablation for each prompt."""

    title = "DreamFusion’s ablation of views and light"
    record = ShadingRecord

    @cached_property
    def retrieval(self) -> Retrieval:
        return Retrieval(load_scorer(), self.viewpoints)

    def plan(self) -> Iterator[ShadingJob]:
        """Prompt by prompt, so that an interrupted table has complete columns."""
        for index in range(self.settings.lab.evaluate.seeds):
            for case in cases(self.settings.lab.evaluate.ablated):
                for row in Row:
                    yield Job(row, case, self.settings.seed + index)

    def settings_of(self, job: ShadingJob) -> LabSettings:
        row, settings, cameras = job.variant, self.settings, self.settings.cameras
        if not row.has(Row.VIEW_AUG):
            cameras = replace(cameras, azimuth_min=-FRONT_ONLY, azimuth_max=FRONT_ONLY)
        words = replace(settings.prior.prompts, view_words=row.has(Row.VIEW_DEP))
        shading = replace(
            settings.optimize.shading,
            probability=LIT if row.has(Row.LIGHTING) else 0.0,
            textureless=WHITE if row.has(Row.TEXTURELESS) else 0.0,
        )
        return replace(
            settings,
            prompt=job.subject.prompt,
            seed=job.seed,
            cameras=cameras,
            prior=replace(settings.prior, prompts=words),
            optimize=replace(settings.optimize, shading=shading),
        )

    @cached_property
    def _fingerprints(self) -> str:
        return self.fingerprint + weights_fingerprint({"scorer": self.retrieval.scorer.model})

    def facts(self, job: ShadingJob) -> list[Any]:
        return [job.variant.value, job.subject.prompt, job.seed, self._fingerprints]

    def describe(self, job: ShadingJob) -> str:
        return f"{job.variant.value}, seed {job.seed}, “{job.subject.prompt}”"

    def make(self, job: ShadingJob) -> Made:
        return self.optimized(self.settings_of(job), self.prior)

    def measure(self, job: ShadingJob, made: Made) -> tuple[ShadingRecord, Strip]:
        case, truth = job.subject, self.truth(job.subject)
        looks = render_shades(made.model, self.viewpoints, self.settings_of(job).optimize.shading)
        shown = {shade.value: images.on_grey() for shade, images in looks.items()}
        shown |= {"truth": truth_images(truth), "silhouette": silhouette_images(looks[Shade.ALBEDO])}
        record = ShadingRecord(
            row=job.variant,
            prompt=case.prompt,
            seed=job.seed,
            asked={part: name for part, name in case.asked.items() if part in CLOSE_UP},
            albedo=measure(looks[Shade.ALBEDO], truth),
            shaded=measure(looks[Shade.LAMBERTIAN], truth),
            found={name: self.retrieval.found(case, images) for name, images in shown.items()},
            metrics=made.metrics,
            seconds=made.seconds,
        )
        sides = [self.viewpoints.index(Framing.BODY, side) for side in STRIP_SIDES]
        cells: list[np.ndarray] = [truth.image(sides[0])]
        return record, side_by_side(cells + [looks[shade].on_grey()[view] for view in sides for shade in Shade])

    def figures(self, records: Mapping[str, ShadingRecord]) -> Figures:
        return {**summarise(list(records.values())), "avatars": list(records)}

    def sheet(self, records: Mapping[str, ShadingRecord]) -> RGBImage:
        """A row for each avatar (``STRIP_LABELS``)."""
        labels = [
            f"{r.row.value}: {', '.join(f'{name} {part}' for part, name in r.asked.items())}" for r in records.values()
        ]
        return self.grid([self.store.strip(key) for key in records], labels, STRIP_LABELS)

    @classmethod
    def sections(cls, results: dict[str, Any]) -> list[str]:
        figures = results["figures"]
        columns = ["row", "avatars", "colours right", "from the front", "from behind", "lit: right"]
        columns += [f"R-Precision, {look}" for look in LOOKS] + ["stray alpha", "seconds"]
        rows = [
            [
                name,
                str(row["avatars"]),
                plus_minus(**row["albedo_colours"]["all"]),
                number(row["albedo_colours"]["from"]["front"]),
                number(row["albedo_colours"]["from"]["back"]),
                plus_minus(**row["shaded_colours"]["all"]),
                *(plus_minus(**row["found"][look]) for look in LOOKS),
                number(row["stray"], 3),
                number(row["seconds"], 0),
            ]
            for name, row in figures["rows"].items()
        ]
        controls = figures["controls"]
        text = (
            f"DreamFusion's cumulative ablation at {figures['steps']} steps. *none*: views within {FRONT_ONLY:.0f} "
            "degrees of the front, prompts without view words, albedo only. *ViewAug*: a full circle of views. "
            f"*ViewDep*: view words in the prompts. *Lighting*: {LIT:.0%} of the steps after the warm-up are lit. "
            f"*Textureless*: {WHITE:.0%} of these are white. *Colours right*: the fraction of parts and views with the "
            "asked colour (as in suite=colours), of the albedo and of lit renders; ± is the standard deviation over "
            "avatars. *R-Precision*: full-body renders whose own prompt the packaged scorer prefers to "
            f"{POOL - 1} others of held-out people, over {len(DIRECTIONS)} directions; chance "
            f"{number(controls['chance'])}, drawn truth {plus_minus(**controls['truth'])}, avatars as flat white "
            f"silhouettes {plus_minus(**controls['silhouette'])}. "
            "Prompts differ mostly in colours, of which a textureless render shows none. The pose map tells the prior "
            "the view in every row; DreamFusion had none."
        )
        took = f"{format_duration(figures['wall_seconds'])} for all avatars."
        return [text, markdown_table(columns, rows), took]


def summarise(records: Sequence[ShadingRecord]) -> Figures:
    """All figures of suite=shading, by row of the ablation: means over avatars, with their standard deviation."""
    by_row = {row: [record for record in records if record.row is row] for row in Row}
    controls = {name: _found(records, name) for name in ("truth", "silhouette")}
    return {
        "rows": {row.value: _row(some) for row, some in by_row.items() if some},
        "controls": controls | {"chance": 1 / POOL},
        "steps": records[0].metrics["steps"],
        "wall_seconds": sum(record.seconds for record in records),
    }


def _row(records: Sequence[ShadingRecord]) -> Figures:
    figures: Figures = {"avatars": len(records)}
    for look in ("albedo", "shaded"):
        right = [right_views(getattr(record, look), record.asked) for record in records]
        sides = {side: mean_of(one[side] for one in right) for side in DIRECTIONS}
        figures[f"{look}_colours"] = {"all": _mean_and_std([one["all"] for one in right]), "from": sides}
    figures["found"] = {look: _found(records, look) for look in LOOKS}
    figures["stray"] = fmean(record.albedo.stray for record in records)
    figures["seconds"] = fmean(record.seconds for record in records)
    return figures


def right_views(measurement: Measurement, asked: dict[str, str]) -> dict[str, float | None]:
    """The fraction of parts and views with the right colour, of all and by direction (None: no part is visible)."""
    hits: dict[str, list[bool]] = {"all": [], **{side: [] for side in DIRECTIONS}}
    for item in expected_parts(measurement, asked):
        for view, hit in zip(item.views, item.hits(), strict=True):
            hits["all"].append(hit)
            hits[view.direction].append(hit)
    return {name: mean_of(values) for name, values in hits.items()}


def _found(records: Sequence[ShadingRecord], look: str) -> dict[str, float | None]:
    """R-Precision: the fraction of full-body renders whose own prompt the scorer finds."""
    return _mean_and_std([fmean(record.found[look].values()) for record in records])


def _mean_and_std(values: Sequence[float | None]) -> dict[str, float | None]:
    return {"mean": mean_of(values), "std": deviation_of(values)}
