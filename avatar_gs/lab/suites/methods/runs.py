"""What suite=methods makes: avatars of the same prompts by every method, with equal steps and with equal compute."""

import copy
import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from avatar_gs.core.errors import UserError
from avatar_gs.guidance.config import GuidanceConfig
from avatar_gs.guidance.presets import fitted, named_preset, preset_names
from avatar_gs.lab.metrics.avatar import Pictures, Strip, draw, draw_from, in_a_row, measure
from avatar_gs.lab.metrics.truth import DIRECTIONS, Case, cases
from avatar_gs.lab.scorer.model import Scorer
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites.config import EvaluateConfig
from avatar_gs.lab.suites.folder import RecordFolder, complete
from avatar_gs.lab.suites.methods.records import Record
from avatar_gs.lab.suites.methods.reference import around, sample_colours, saturation
from avatar_gs.lab.suites.theatre import Theatre
from avatar_gs.prior.fingerprint import prior_fingerprint, weights_fingerprint
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.training.loop import optimize
from avatar_gs.training.prompts import run_prompts
from avatar_gs.types import Framing

SCHEMA = 1
"""Raised whenever records of the same job would read differently."""
RESULT_SETTINGS = ("negative_prompt", "prior", "guidance", "cameras", "splats", "density", "optimize")
DEFAULT = "anchored_de_sds"
LARGE_PRIORS = ("rescaled_de_sds",)
"""Presets for other priors than the packaged one: compared only if they are named."""
CALLS = 3
"""Equal compute: so many predicted pictures for each of ``method_steps`` steps and each view."""


@dataclass(frozen=True)
class Job:
    """One avatar to make."""

    preset: str
    control: bool
    case: Case
    seed: int
    steps: int

    @property
    def cost(self) -> float:
        """In any unit: what the job's method asks of the prior, beside rendering."""
        guidance = named_preset(self.preset)
        return self.steps * (3.0 * guidance.inner_steps + guidance.chosen.cost)


def compared(config: EvaluateConfig) -> list[str]:
    """The presets to compare.

    Raises:
        UserError: for a name that no preset has, or a preset that edits, or does nothing.
    """
    if not config.methods:
        return [name for name in preset_names() if name not in LARGE_PRIORS and _begins_anew(named_preset(name))]
    for name in config.methods:
        if not _begins_anew(named_preset(name)):
            raise UserError(f"evaluate.methods: {name} makes no avatar from nothing; leave it out")
    return list(config.methods)


def _begins_anew(config: GuidanceConfig) -> bool:
    return not config.edits and config.method != "none"


def equal_steps(config: EvaluateConfig, seed: int) -> Iterator[Job]:
    """Every avatar with the same number of steps: prompt by prompt and seed by seed, with ControlNet and without."""
    presets, prompts = compared(config), cases(config.method_prompts)
    for index in range(config.method_seeds):
        for case in prompts:
            for control in (True, False):
                for name in presets:
                    yield Job(name, control, case, seed + index, config.method_steps)


def equal_compute(config: EvaluateConfig, jobs: Iterable[Job], records: Iterable[Record]) -> Iterator[Job]:
    """The same with about the same number of prior calls, by what each took a step."""
    for job, record in zip(jobs, records, strict=True):
        steps = max(1, round(CALLS * config.method_steps / record.calls_per_step))
        yield replace(job, steps=steps)


class Maker:
    """Makes and measures avatars with one prior."""

    def __init__(self, settings: LabSettings, prior: StableDiffusionPrior, scorer: Scorer) -> None:
        self.settings, self.prior, self.scorer = settings, prior, scorer
        self.theatre = Theatre(prior.device)
        self._fingerprints = [prior_fingerprint(prior), weights_fingerprint({"scorer": scorer.model})]
        self._colours: dict[str, Float[np.ndarray, "N 3"]] = {}

    def settings_of(self, job: Job) -> LabSettings:
        """The command's settings with the job's method, steps and ControlNet."""
        given = self.settings
        scale = given.prior.control_scale if job.control else 0.0
        return replace(
            given,
            prompt=job.case.prompt,
            seed=job.seed,
            guidance=fitted(named_preset(job.preset), job.steps),
            optimize=replace(given.optimize, steps=job.steps),
            prior=replace(given.prior, control_scale=scale),
        )

    def key(self, job: Job) -> str:
        """Sixteen hexadecimal digits that stand for all that the job's result depends on."""
        plain = self.settings_of(job).plain()
        facts = [SCHEMA, job.preset, job.case.prompt, job.seed, self._fingerprints]
        text = json.dumps([*facts, {name: plain[name] for name in RESULT_SETTINGS}], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def make(self, job: Job) -> tuple[Record, Strip]:
        """Optimises the job's avatar and measures it. The strip shows the true person from the front, and the avatar
        from four sides."""
        settings, truth = self.settings_of(job), self.theatre.truth(job.case)
        own = self._own_colours(job.case)
        prior = copy.copy(self.prior)  # the networks are shared
        prior.control_scale = settings.prior.control_scale
        began = time.monotonic()
        result = optimize(settings, self.theatre.body, prior, run_prompts(settings, prior))
        seconds = time.monotonic() - began
        gaussians = result.model.pose(self.theatre.stage.posed)
        pictures = draw(gaussians, self.theatre.stage)
        orbit = draw_from(gaussians, around().stages[0].views.cameras)
        record = Record(
            preset=job.preset,
            control=job.control,
            prompt=job.case.prompt,
            seed=job.seed,
            steps=job.steps,
            batch=settings.optimize.batch,
            asked=job.case.asked,
            end=measure(pictures, truth),
            orbit=self._features(orbit),
            saturation=saturation(orbit, own),
            metrics=result.metrics,
            seconds=seconds,
        )
        views, shown = [self.theatre.stage.index(Framing.BODY, name) for name in DIRECTIONS], pictures.on_grey()
        return record, in_a_row([truth.picture(views[0]), *(shown[view] for view in views)])

    def _features(self, orbit: Pictures) -> list[list[float]]:
        with torch.no_grad():
            seen = self.scorer.image_features(torch.from_numpy(orbit.on_grey().astype(np.float32)))
        return seen.cpu().numpy().round(5).tolist()

    def _own_colours(self, case: Case) -> Float[np.ndarray, "N 3"]:
        if case.prompt not in self._colours:
            settings = replace(self.settings, prompt=case.prompt)
            self._colours[case.prompt] = sample_colours(settings, self.prior)
        return self._colours[case.prompt]


def make_records(
    settings: LabSettings, prior: StableDiffusionPrior, scorer: Scorer, folder: RecordFolder[Record]
) -> tuple[dict[str, Record], dict[str, Record]]:
    """The records by key, in the plan's order: with equal steps, and with equal compute (where a method needs the same
    number of steps for both, the same record). Those in ``folder`` are not made again.

    Raises:
        UserError: if a run diverges, or a method is not to be compared.
        KeyboardInterrupt: after Ctrl-C; all avatars but the one in work are kept.
    """
    maker, config = Maker(settings, prior, scorer), settings.lab.evaluate

    def completed(jobs: list[Job]) -> dict[str, Record]:
        return complete(jobs, folder, key=maker.key, make=maker.make, describe=_describe, cost=lambda job: job.cost)

    first = list(equal_steps(config, settings.seed))
    steps = completed(first)
    return steps, completed(list(equal_compute(config, first, steps.values())))


def _describe(job: Job) -> str:
    control = "with" if job.control else "without"
    return f"{job.preset} {control} ControlNet, {job.steps} steps, seed {job.seed}, “{job.case.prompt}”"
