"""What suite=identity makes: every person in every way, and the drawings that say what figures to expect."""

import copy
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from avatar_gs.guidance.config import Method
from avatar_gs.identity.config import Clothes, IdentityMethod
from avatar_gs.lab.metrics import people
from avatar_gs.lab.metrics.avatar import Pictures, Strip, draw_from, in_a_row
from avatar_gs.lab.metrics.likeness import Gallery, Judges, compare
from avatar_gs.lab.metrics.portraits import (
    AZIMUTHS,
    FRONTS,
    Portrait,
    back_views,
    drawn_anew,
    measured_views,
    portray,
    some_views,
    standing,
    through_prior,
)
from avatar_gs.lab.metrics.truth import neutral_body
from avatar_gs.lab.suites.config import EvaluateConfig
from avatar_gs.lab.suites.folder import RecordFolder, complete
from avatar_gs.lab.suites.identity.embeddings import Identities
from avatar_gs.lab.suites.identity.records import (
    ABLATIONS,
    CHOICES,
    DRAWN,
    METHODS,
    REDRESSED,
    Cost,
    Kind,
    Record,
)
from avatar_gs.lab.world.people import Person
from avatar_gs.prior.fingerprint import prior_fingerprint
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.settings import Settings
from avatar_gs.training.loop import optimize
from avatar_gs.training.prompts import run_prompts
from avatar_gs.types import Views

SCHEMA = 2
"""Raised whenever records of the same job would read differently."""
RESULT_SETTINGS = ("negative_prompt", "prior", "guidance", "cameras", "splats", "density", "optimize", "embed")
FEWER = (1, 2, 4)
STRIP_VIEWS = (0, 2, 4, len(AZIMUTHS))
"""Full body from the front, the left and the back, and the head from the front."""


@dataclass(frozen=True)
class Job:
    """One record to make. ``pictures``: how many the identity is trained on."""

    kind: Kind
    person: int
    seed: int
    pictures: int = people.PICTURES

    @property
    def other(self) -> int:
        """Another person of the crowd."""
        return (self.person + 1) % len(people.crowd())

    @property
    def prompt(self) -> str:
        if self.kind is Kind.NO_IDENTITY:
            return "a person"
        return people.outfit_prompt(people.other_outfit(self.person)) if self.kind in REDRESSED else "<id>"

    @property
    def cost(self) -> float:
        """Seconds on two cores, roughly; embeddings that other jobs share count where they are trained."""
        if self.kind in DRAWN:
            return 1.0
        trained = {
            Kind.CROSS_INIT: 25.0,
            Kind.TEXTUAL_INVERSION: 25.0,
            Kind.FEWER_PICTURES: 25.0,
            Kind.FAST: 5.0,
            Kind.BOUND: 25.0,
        }
        return 27.0 + trained.get(self.kind, 0.0)


def plan(config: EvaluateConfig, seed: int) -> Iterator[Job]:
    """Every job of the suite: the figures person by person, then (with the first seed only) what a few people are
    enough for, choices of defaults among it, and the drawings."""
    for index in range(config.seeds):
        for person in range(config.people):
            for kind in (*METHODS, Kind.NEW_OUTFIT):
                yield Job(kind, person, seed + index)
    few = range(min(config.few_people, config.people))
    for person in few:
        for pictures in FEWER:
            yield Job(Kind.FEWER_PICTURES, person, seed, pictures)
    choices = [kind for pair in list(CHOICES.items())[1:] for kind in pair]
    for kind in (*ABLATIONS, *choices):
        for person in few:
            yield Job(kind, person, seed)
    for kind in DRAWN:
        for person in range(config.people):
            yield Job(kind, person, seed)


class Maker:
    """Makes and measures avatars of the suite's people with one prior."""

    def __init__(self, settings: Settings, prior: StableDiffusionPrior, judges: Judges, folder: Path) -> None:
        self.settings, self.prior, self.judges = settings, prior, judges
        self.body = neutral_body(prior.device)
        digest = prior_fingerprint(prior)
        self._fingerprints = [digest, judges.fingerprint]
        self._identities = Identities(folder, prior, digest)
        self._truths: dict[tuple[int, bool], Portrait] = {}

    def key(self, job: Job) -> str:
        """Sixteen hexadecimal digits that stand for all that the job's result depends on."""
        plain = self.settings_of(job).plain()
        facts: list[Any] = [SCHEMA, job.kind.value, job.person, job.prompt, job.seed, job.pictures]
        facts += [self._fingerprints, {name: plain[name] for name in RESULT_SETTINGS}]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def settings_of(self, job: Job) -> Settings:
        """The command's settings with what makes the job's kind."""
        settings = replace(self.settings, prompt=job.prompt, seed=job.seed)
        settings.cameras = settings.cameras.for_identity()  # also without one: nothing else may differ
        if job.kind is Kind.TEXTUAL_INVERSION:
            settings.embed = replace(settings.embed, method=IdentityMethod.textual_inversion)
        elif job.kind is Kind.FAST:
            settings.embed = replace(settings.embed, fast=True)
        elif job.kind is Kind.NO_Y_CON:
            # SDS at s + 1 against the negative prompt pulls as DE-SDS does at s
            scale = settings.guidance.cfg_scale + (settings.guidance.method is Method.de_sds)
            settings.guidance = replace(settings.guidance, method=Method.sds, cfg_scale=scale)
        elif job.kind is Kind.NO_CONTROL:
            settings.prior = replace(settings.prior, control_scale=0.0)
        elif job.kind is Kind.NO_HEAD:
            head = replace(settings.cameras.head, probability=0.0)
            settings.cameras = replace(settings.cameras, head=head)
        elif job.kind in (Kind.BOUND, Kind.BOUND_REDRESSED):
            settings.embed = replace(settings.embed, clothes=Clothes.bound)
        elif job.kind in (Kind.NEAR_FACES, Kind.NEAR_FACES_REDRESSED):
            near = replace(
                settings.prior.prompts, identity_framings=["head", "upper"], identity_views=["front", "side"]
            )
            settings.prior = replace(settings.prior, prompts=near)
        return settings

    def make(self, job: Job) -> tuple[Record, Strip]:
        """Makes (or draws) what the job names, and measures it against the person's truth."""
        settings, truth = self.settings_of(job), self._truth(job)
        shots = self._draw(job) if job.kind in DRAWN else self._optimize(job, settings)
        fronts = Pictures(shots.measured.rgb[list(FRONTS)], shots.measured.alpha[list(FRONTS)])
        record = Record(
            kind=job.kind,
            person=job.person,
            seed=job.seed,
            pictures=job.pictures,
            prompt=job.prompt,
            views=compare(shots.measured, truth, self.judges.scorer),
            nearest=self._gallery.distances(fronts),
            backs=len(shots.backs.alpha),
            back_faces=int(self.judges.faces(shots.backs.on_grey()).sum()),
            front_face=bool(self.judges.faces(fronts.on_grey())[-1]),
            embedding=shots.embedding,
            metrics=shots.metrics,
            seconds=shots.seconds,
        )
        true, found = truth.pictures.on_grey(), shots.measured.on_grey()
        return record, in_a_row([*(true[view] for view in STRIP_VIEWS), *(found[view] for view in STRIP_VIEWS)])

    def _optimize(self, job: Job, settings: Settings) -> "Shots":
        prior, cost = copy.copy(self.prior), None  # the networks are shared
        prior.control_scale = settings.prior.control_scale
        prior.identity, prior.accessories = None, ""
        if job.kind is not Kind.NO_IDENTITY:
            trained = self._identities.of(job.person, job.pictures, settings)
            prior.identity, cost = trained.embedding.vectors.to(prior.device), trained.cost
            prior.accessories = trained.embedding.accessories
        began = time.monotonic()
        result = optimize(settings, self.body, prior, run_prompts(settings, prior))
        seconds = time.monotonic() - began
        gaussians = result.model.pose(standing())
        measured, backs = (draw_from(gaussians, views.cameras) for views in (measured_views(), back_views()))
        return Shots(measured, backs, cost, result.metrics, seconds)

    def _draw(self, job: Job) -> "Shots":
        def shoot(views: Views) -> Pictures:
            if job.kind is Kind.SAME_PERSON:
                return through_prior(drawn_anew(people.crowd()[job.person], views, job.person), self.prior)
            other = people.crowd()[job.other]
            return portray(self._as_worn(job, other), views).pictures

        return Shots(shoot(measured_views()), shoot(back_views()))

    def _truth(self, job: Job) -> Portrait:
        key = job.person, job.kind in REDRESSED
        if key not in self._truths:
            self._truths[key] = portray(self._as_worn(job, people.crowd()[job.person]), measured_views())
        return self._truths[key]

    def _as_worn(self, job: Job, person: Person) -> Person:
        return replace(person, outfit=people.other_outfit(job.person)) if job.kind in REDRESSED else person

    @cached_property
    def _gallery(self) -> Gallery:
        fronts = some_views(measured_views(), FRONTS)
        return Gallery([portray(person, fronts).pictures for person in people.crowd()], self.judges.scorer)


@dataclass(frozen=True)
class Shots:
    """The pictures of an avatar or of a drawn person, and what they took to make."""

    measured: Pictures
    backs: Pictures
    embedding: Cost | None = None
    metrics: dict[str, Any] | None = None
    seconds: float = 0.0


def make_records(
    settings: Settings, prior: StableDiffusionPrior, judges: Judges, folder: Path, kept: RecordFolder[Record]
) -> dict[str, Record]:
    """The record of every job of the suite by its key, in the plan's order; those in ``kept`` are not made again.

    Args:
        folder: where the people's pictures and identities are kept.

    Raises:
        UserError: if a run diverges.
        KeyboardInterrupt: after Ctrl-C; all records but the one in work are kept.
    """
    maker, jobs = Maker(settings, prior, judges, folder), plan(settings.evaluate, settings.seed)
    return complete(jobs, kept, key=maker.key, make=maker.make, describe=_describe, cost=lambda job: job.cost)


def _describe(job: Job) -> str:
    given = f", {job.pictures} pictures" if job.kind is Kind.FEWER_PICTURES else ""
    return f"person {job.person}, {job.kind.value}{given}, seed {job.seed}, “{job.prompt}”"
