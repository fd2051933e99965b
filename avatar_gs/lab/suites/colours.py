"""suite=colours: avatars of held-out prompts, measured against drawn truth, beside controls that must fail.

Every avatar's record is kept under a hash of all that its result depends on, so the same command goes on where it was
interrupted, and more prompts or seeds cost only what is new.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from avatar_gs.core.seeding import generator
from avatar_gs.guidance.config import Method
from avatar_gs.lab.metrics.avatar import Strip, measure, strip
from avatar_gs.lab.metrics.truth import CLOSE_UP, Case, cases, red_blue_cases
from avatar_gs.lab.suites.config import EvaluateConfig
from avatar_gs.lab.suites.controls import with_random_weights, with_words_exchanged
from avatar_gs.lab.suites.folder import RecordFolder, complete
from avatar_gs.lab.suites.records import Kind, Record
from avatar_gs.lab.suites.theatre import Theatre
from avatar_gs.prior.fingerprint import prior_fingerprint
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.settings import Settings
from avatar_gs.splats.model import GaussianModel
from avatar_gs.splats.surface import surface_splats
from avatar_gs.training.loop import optimize
from avatar_gs.training.prompts import run_prompts

SCHEMA = 1
"""Raised whenever records of the same avatar would read differently."""
RESULT_SETTINGS = ("negative_prompt", "prior", "guidance", "cameras", "splats", "density", "optimize")
"""The settings that an avatar depends on, besides prompt and seed."""


@dataclass(frozen=True)
class Job:
    """One avatar to make."""

    kind: Kind
    case: Case
    seed: int


def plan(config: EvaluateConfig, seed: int) -> Iterator[Job]:
    """Every avatar of the suite: figures first, seed by seed, then the controls (with the first seed only)."""
    prompts = cases(max(config.prompts, config.controls))
    for index in range(config.seeds):
        for case in prompts[: config.prompts]:
            yield Job(Kind.AVATAR, case, seed + index)
    for kind in (Kind.NO_GUIDANCE, Kind.RANDOM_WEIGHTS):
        for case in prompts[: config.controls]:
            yield Job(kind, case, seed)
    for case in red_blue_cases(config.red_blue if config.controls else 0):
        yield Job(Kind.RED_BLUE, case, seed)
        yield Job(Kind.RED_BLUE_EXCHANGED, case, seed)


class Maker:
    """Makes and measures avatars with one prior and its spoilt copies."""

    def __init__(self, settings: Settings, prior: StableDiffusionPrior) -> None:
        self.settings, self.prior = settings, prior
        self.theatre = Theatre(prior.device)
        self.fingerprint = prior_fingerprint(prior)

    @cached_property
    def _random(self) -> StableDiffusionPrior:
        return with_random_weights(self.prior, seed=1)

    @cached_property
    def _exchanged(self) -> StableDiffusionPrior:
        return with_words_exchanged(self.prior, "red", "blue")

    def key(self, job: Job) -> str:
        """Sixteen hexadecimal digits that stand for all that the job's result depends on."""
        plain = self.settings_of(job).plain()
        facts = [SCHEMA, job.kind.value, job.case.prompt, job.seed, self.fingerprint]
        text = json.dumps([*facts, {name: plain[name] for name in RESULT_SETTINGS}], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def settings_of(self, job: Job) -> Settings:
        settings = replace(self.settings, prompt=job.case.prompt, seed=job.seed)
        if job.kind is Kind.NO_GUIDANCE:
            settings.guidance = replace(settings.guidance, method=Method.none)
        return settings

    def make(self, job: Job) -> tuple[Record, Strip]:
        """Optimises the job's avatar and measures it before the first step and at the end."""
        settings, prior, truth = self.settings_of(job), self._prior(job.kind), self.theatre.truth(job.case)
        start = self._start(settings)
        began = time.monotonic()
        result = optimize(settings, self.theatre.body, prior, run_prompts(settings, prior))
        seconds = time.monotonic() - began
        pictures = self.theatre.pictures(result.model)
        record = Record(
            kind=job.kind,
            prompt=job.case.prompt,
            seed=job.seed,
            asked={part: name for part, name in job.case.asked.items() if part in CLOSE_UP},
            start=measure(self.theatre.pictures(start), truth),
            end=measure(pictures, truth),
            metrics=result.metrics,
            seconds=seconds,
        )
        return record, strip(pictures, truth)

    def _prior(self, kind: Kind) -> StableDiffusionPrior:
        if kind is Kind.RANDOM_WEIGHTS:
            return self._random
        return self._exchanged if kind is Kind.RED_BLUE_EXCHANGED else self.prior

    def _start(self, settings: Settings) -> GaussianModel:
        """The grey avatar that ``optimize`` starts from."""
        begin = generator(settings.seed, 0, "splats")
        body = self.theatre.body
        return surface_splats(settings.splats, body.rest(), body.weights, begin).to(self.prior.device)


def make_records(settings: Settings, prior: StableDiffusionPrior, folder: RecordFolder[Record]) -> dict[str, Record]:
    """The record of every avatar of the suite by its key, in the plan's order; those in ``folder`` are not made again.

    Raises:
        UserError: if a run diverges, or the prior cannot serve for a control.
        KeyboardInterrupt: after Ctrl-C; all avatars but the one in work are kept.
    """
    maker = Maker(settings, prior)
    return complete(plan(settings.evaluate, settings.seed), folder, key=maker.key, make=maker.make, describe=_describe)


def _describe(job: Job) -> str:
    return f"{job.kind.value}, seed {job.seed}, “{job.case.prompt}”"
