"""What suite=scores makes: avatars of held-out prompts by the command's guidance and by CLIP's, and what they are
measured against. All of it is kept as pictures, so that another judge scores them without making them again."""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from avatar_gs.core.seeding import generator
from avatar_gs.lab.metrics import shots
from avatar_gs.lab.metrics.avatar import Strip
from avatar_gs.lab.metrics.clip import Clip
from avatar_gs.lab.metrics.truth import Case, cases
from avatar_gs.lab.metrics.views import neutral_body, scored_views
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites.config import EvaluateConfig
from avatar_gs.lab.suites.folder import RecordFolder, complete
from avatar_gs.lab.suites.scores.clip_guidance import WEIGHT, optimize_by_similarity
from avatar_gs.lab.suites.scores.records import AVATARS, Kind, Record
from avatar_gs.lab.suites.suite import RESULT_SETTINGS
from avatar_gs.prior.fingerprint import prior_fingerprint
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.splats.surface import surface_splats
from avatar_gs.training.config import PoseMap
from avatar_gs.training.loop import Result, optimize
from avatar_gs.training.prompts import run_prompts

SCHEMA = 1
"""Raised whenever pictures of the same job would look different."""


@dataclass(frozen=True)
class Job:
    """One set of pictures to make; ``index`` is the case's place in the fixed list."""

    kind: Kind
    index: int
    case: Case
    seed: int


def plan(config: EvaluateConfig, seed: int) -> Iterator[Job]:
    """Every job of the suite, seed by seed."""
    some = cases(config.scored_prompts)
    for index, case in enumerate(some):
        yield Job(Kind.TRUTH, index, case, seed)
    for turn in range(config.scored_seeds):
        for kind in (Kind.SAMPLES, Kind.START, *AVATARS):
            for index, case in enumerate(some):
                yield Job(kind, index, case, seed + turn)


class Maker:
    """Makes the pictures with one prior; CLIP guidance climbs ``clip``."""

    def __init__(self, settings: LabSettings, prior: StableDiffusionPrior, clip: Clip) -> None:
        self.settings, self.prior, self.clip = settings, prior, clip
        self.body = neutral_body(prior.device)
        self.fingerprint = prior_fingerprint(prior)

    def key(self, job: Job) -> str:
        """Sixteen hexadecimal digits that stand for all that the job's pictures depend on."""
        plain = self.settings.plain()
        facts: list[Any] = [SCHEMA, job.kind.value, job.case.prompt]
        if job.kind is not Kind.TRUTH:
            facts += [job.seed, self.fingerprint, {name: plain[name] for name in RESULT_SETTINGS}]
        if job.kind is Kind.CLIP:
            facts += [self.clip.fingerprint, WEIGHT]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def make(self, job: Job) -> tuple[Record, Strip]:
        """The job's pictures, and what they took."""
        began = time.monotonic()
        pictures, metrics = self._make(job)
        record = Record(job.kind, job.index, job.case.prompt, job.seed, metrics, time.monotonic() - began)
        return record, pictures.strip()

    def _make(self, job: Job) -> tuple[shots.ScoredImages, dict[str, Any] | None]:
        settings = replace(self.settings, prompt=job.case.prompt, seed=job.seed)
        if job.kind is Kind.TRUTH:
            return shots.person_images(job.case, scored_views()), None
        if job.kind is Kind.SAMPLES:
            return self._sample(job), None
        if job.kind is Kind.START:
            begin = generator(job.seed, 0, "splats")
            model = surface_splats(settings.splats, self.body.rest(), self.body.weights, begin).to(self.prior.device)
            return shots.avatar_images(model, scored_views()), None
        result = self._optimize(job.kind, settings)
        return shots.avatar_images(result.model, scored_views()), result.metrics

    def _sample(self, job: Job) -> shots.ScoredImages:
        return shots.sample_images(
            job.case.prompt,
            self.settings.negative_prompt,
            self.prior,
            scored_views(),
            self.settings.prior.prompts,
            full_pose_maps=self.settings.optimize.pose_map is PoseMap.full,
            generator=generator(job.seed, job.index, "samples"),
        )

    def _optimize(self, kind: Kind, settings: LabSettings) -> Result:
        prompts = run_prompts(settings.training, self.prior)
        if kind is Kind.CLIP:
            return optimize_by_similarity(settings, self.body, self.prior, self.clip, prompts)
        return optimize(settings.training, self.body, self.prior, prompts)


def make_records(
    settings: LabSettings, prior: StableDiffusionPrior, clip: Clip, kept: RecordFolder[Record]
) -> dict[str, Record]:
    """The record of every job of the suite by its key, in the plan's order; those in ``kept`` are not made again.

    Raises:
        UserError: if a run diverges.
        KeyboardInterrupt: after Ctrl-C; all but the one in work are kept.
    """
    maker, jobs = Maker(settings, prior, clip), plan(settings.lab.evaluate, settings.seed)
    costs = {Kind.AVATAR: 27.0, Kind.CLIP: 15.0, Kind.SAMPLES: 12.0}  # seconds on two cores, roughly
    return complete(
        jobs,
        kept,
        key=maker.key,
        make=maker.make,
        describe=lambda job: f"{job.kind.value}, seed {job.seed}, “{job.case.prompt}”",
        cost=lambda job: costs.get(job.kind, 1.0),
    )
