"""suite=shading: DreamFusion's cumulative ablation (Poole et al. 2022, figure 6) with the command's own settings.

Nothing, then a full circle of views, then the words that tell the views apart, then light, then light without texture:
each row adds one, and every avatar is shown as albedo, lit, and lit without texture. Records are kept under a hash of
all that an avatar depends on, so the same command goes on where it was interrupted.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from avatar_gs.lab.metrics.avatar import Pictures, Strip, in_a_row, measure
from avatar_gs.lab.metrics.shading import Retrieval, blank, draw_looks, true_pictures
from avatar_gs.lab.metrics.truth import CLOSE_UP, Case, Truth, cases
from avatar_gs.lab.scorer.model import Scorer
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites.config import EvaluateConfig
from avatar_gs.lab.suites.folder import RecordFolder, complete
from avatar_gs.lab.suites.shading.records import Row, ShadingRecord
from avatar_gs.lab.suites.suite import RESULT_SETTINGS
from avatar_gs.lab.suites.theatre import Theatre
from avatar_gs.prior.fingerprint import prior_fingerprint, weights_fingerprint
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.render.shading import Shade
from avatar_gs.settings import short_hash
from avatar_gs.training.loop import optimize
from avatar_gs.training.prompts import run_prompts
from avatar_gs.types import Framing

SCHEMA = 1
"""Raised whenever records of the same avatar would read differently."""
FRONT_ONLY = 45.0
"""Degrees on both sides of the front that views are drawn from without ViewAug."""
LIT, WHITE = 0.75, 0.5
"""The shares of lit steps and, among these, of white ones: DreamFusion's (appendix A.2)."""
STRIP_SIDES = ("front", "back")
STRIP_LABELS = ["true front", *(f"{shade.value} {side}" for side in STRIP_SIDES for shade in Shade)]


@dataclass(frozen=True)
class Job:
    """One avatar to make."""

    row: Row
    case: Case
    seed: int


def plan(config: EvaluateConfig, seed: int) -> Iterator[Job]:
    """Every avatar of the suite, prompt by prompt: an interrupted table has whole columns."""
    for index in range(config.seeds):
        for case in cases(config.ablated):
            for row in Row:
                yield Job(row, case, seed + index)


def settings_of(settings: LabSettings, job: Job) -> LabSettings:
    """The command's settings with the switches of the job's row."""
    row, cameras = job.row, settings.cameras
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
        prompt=job.case.prompt,
        seed=job.seed,
        cameras=cameras,
        prior=replace(settings.prior, prompts=words),
        optimize=replace(settings.optimize, shading=shading),
    )


class Maker:
    """Makes and measures avatars with one prior and one scorer."""

    def __init__(self, settings: LabSettings, prior: StableDiffusionPrior, scorer: Scorer) -> None:
        self.settings, self.prior = settings, prior
        self.theatre = Theatre(prior.device)
        self.retrieval = Retrieval(scorer, self.theatre.stage)
        self.fingerprint = prior_fingerprint(prior) + weights_fingerprint({"scorer": scorer.model})

    def key(self, job: Job) -> str:
        """Hexadecimal digits that stand for all that the job's result depends on."""
        plain = settings_of(self.settings, job).plain()
        facts = {name: plain[name] for name in RESULT_SETTINGS}
        return short_hash(SCHEMA, job.row.value, job.case.prompt, job.seed, self.fingerprint, facts)

    def make(self, job: Job) -> tuple[ShadingRecord, Strip]:
        """Optimises the job's avatar and measures its three looks."""
        settings, truth = settings_of(self.settings, job), self.theatre.truth(job.case)
        began = time.monotonic()
        result = optimize(settings, self.theatre.body, self.prior, run_prompts(settings, self.prior))
        seconds = time.monotonic() - began
        looks = draw_looks(result.model, self.theatre.stage, settings.optimize.shading)
        shown = {shade.value: pictures.on_grey() for shade, pictures in looks.items()}
        shown |= {"truth": true_pictures(truth), "silhouette": blank(looks[Shade.ALBEDO])}
        record = ShadingRecord(
            row=job.row,
            prompt=job.case.prompt,
            seed=job.seed,
            asked={part: name for part, name in job.case.asked.items() if part in CLOSE_UP},
            albedo=measure(looks[Shade.ALBEDO], truth),
            shaded=measure(looks[Shade.LAMBERTIAN], truth),
            found={name: self.retrieval.found(job.case, pictures) for name, pictures in shown.items()},
            metrics=result.metrics,
            seconds=seconds,
        )
        return record, self._strip(looks, truth)

    def _strip(self, looks: dict[Shade, Pictures], truth: Truth) -> Strip:
        """As ``STRIP_LABELS`` names its pictures."""
        sides = [self.theatre.stage.index(Framing.BODY, side) for side in STRIP_SIDES]
        cells: list[np.ndarray] = [truth.picture(sides[0])]
        cells += [looks[shade].on_grey()[view] for view in sides for shade in Shade]
        return in_a_row(cells)


def make_records(
    settings: LabSettings, prior: StableDiffusionPrior, scorer: Scorer, folder: RecordFolder[ShadingRecord]
) -> dict[str, ShadingRecord]:
    """The record of every avatar of the suite by its key, in the plan's order; those in ``folder`` are not made again.

    Raises:
        UserError: if a run diverges.
        KeyboardInterrupt: after Ctrl-C; all avatars but the one in work are kept.
    """
    maker = Maker(settings, prior, scorer)
    return complete(
        plan(settings.lab.evaluate, settings.seed), folder, key=maker.key, make=maker.make, describe=_describe
    )


def _describe(job: Job) -> str:
    return f"{job.row.value}, seed {job.seed}, “{job.case.prompt}”"
