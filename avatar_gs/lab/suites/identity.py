"""suite=identity: avatars of people from a few photos of each, measured against who they are."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from avatar_gs.core.errors import UserError
from avatar_gs.core.images import RGBImage
from avatar_gs.core.io import write_json
from avatar_gs.identity.config import Clothes, IdentityMethod
from avatar_gs.identity.cross_init import CACHE_VERSION, train_identity
from avatar_gs.identity.embedding import IdentityEmbedding, read_identity, write_identity
from avatar_gs.identity.photos import PhotoSet, load_photos
from avatar_gs.lab.metrics import people
from avatar_gs.lab.metrics.avatar import Strip, ViewImages, render_views, side_by_side
from avatar_gs.lab.metrics.likeness import Gallery, LikenessModels, compare, load_likeness_models
from avatar_gs.lab.metrics.portraits import Portrait, render_portrait, render_variation, through_prior
from avatar_gs.lab.metrics.views import FRONTS, ORBIT, back_views, measured_views, some_views, standing
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites.identity_figures import (
    ABLATIONS,
    CHOICES,
    DRAWN,
    METHODS,
    REDRESSED,
    Cost,
    IdentityRecord,
    Portrayal,
    summarise,
)
from avatar_gs.lab.suites.identity_report import sections
from avatar_gs.lab.suites.suite import RESULT_SETTINGS, AvatarSuite, Figures, FullGrid, Job, digest
from avatar_gs.lab.world.people import Person
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.training.reports import peak_memory_mib
from avatar_gs.types import Views

FEWER = (1, 2, 4)
"""Numbers of photos that are compared with all of them."""
STRIP_VIEWS = (0, 2, 4, len(ORBIT))
"""Full body from the front, the left and the back, and the head from the front."""
CELLS = len(STRIP_VIEWS)
TRAINING_COST = dict.fromkeys(
    (Portrayal.CROSS_INIT, Portrayal.TEXTUAL_INVERSION, Portrayal.FEWER_PHOTOS, Portrayal.BOUND), 25.0
) | {Portrayal.FAST: 5.0}
"""Approximate seconds on two cores; identities that other jobs share count where they are trained."""


@dataclass(frozen=True)
class IdentityJob(Job[Portrayal, int]):
    """One person (a number in the crowd) portrayed once.

    Args:
        photos: the number of photos that the identity is trained on.
    """

    photos: int = people.PHOTOS

    @property
    def redressed(self) -> bool:
        return self.variant in REDRESSED

    @property
    def prompt(self) -> str:
        if self.variant is Portrayal.NO_IDENTITY:
            return "a person"
        return people.outfit_prompt(people.other_outfit(self.subject)) if self.redressed else "<id>"


@dataclass(frozen=True)
class Portrayed:
    """Renders of an avatar, or drawings of a person, and what they took."""

    measured: ViewImages
    backs: ViewImages
    embedding: Cost | None = None
    metrics: dict[str, Any] | None = None
    seconds: float = 0.0


class IdentitySuite(AvatarSuite[IdentityJob, Portrayed, IdentityRecord]):
    """Every person by every method, ablations on a few people, and drawings that say what figures to expect."""

    title = "Avatars look like their people"
    unseen = "people"
    full_grid = FullGrid(
        ("evaluate.people=20", "evaluate.seeds=3"),
        "20 people × 3 seeds",
        lambda costs: 20 * 3 * costs["person_seconds"],
    )
    record = IdentityRecord
    version = 2
    result_settings = (*RESULT_SETTINGS, "embed")

    @cached_property
    def judges(self) -> LikenessModels:
        return load_likeness_models()

    @cached_property
    def identities(self) -> "Identities":
        return Identities(self.folder, self.prior, self.fingerprint)

    def plan(self) -> Iterator[IdentityJob]:
        """The methods person by person, then (with the first seed only) what a few people are enough for, alternatives
        to defaults among it, and the drawings."""
        config, seed = self.settings.lab.evaluate, self.settings.seed
        for index in range(config.seeds):
            for person in range(config.people):
                for portrayal in (*METHODS, Portrayal.NEW_OUTFIT):
                    yield IdentityJob(portrayal, person, seed + index)
        few = range(min(config.few_people, config.people))
        for person in few:
            for photos in FEWER:
                yield IdentityJob(Portrayal.FEWER_PHOTOS, person, seed, photos)
        choices = [portrayal for pair in list(CHOICES.items())[1:] for portrayal in pair]
        for portrayal in (*ABLATIONS, *choices):
            for person in few:
                yield IdentityJob(portrayal, person, seed)
        for portrayal in DRAWN:
            for person in range(config.people):
                yield IdentityJob(portrayal, person, seed)

    def cost(self, job: IdentityJob) -> float:
        return 1.0 if job.variant in DRAWN else 27.0 + TRAINING_COST.get(job.variant, 0.0)

    def describe(self, job: IdentityJob) -> str:
        given = f", {job.photos} photos" if job.variant is Portrayal.FEWER_PHOTOS else ""
        return f"person {job.subject}, {job.variant.value}{given}, seed {job.seed}, “{job.prompt}”"

    def facts(self, job: IdentityJob) -> list[Any]:
        fingerprints = [self.fingerprint, self.judges.fingerprint]
        return [job.variant.value, job.subject, job.prompt, job.seed, job.photos, fingerprints]

    def settings_of(self, job: IdentityJob) -> LabSettings:
        settings = replace(self.settings, prompt=job.prompt, seed=job.seed)
        settings.cameras = settings.cameras.for_identity()  # also without one: nothing else may differ
        if job.variant is Portrayal.TEXTUAL_INVERSION:
            settings.embed = replace(settings.embed, method=IdentityMethod.textual_inversion)
        elif job.variant is Portrayal.FAST:
            settings.embed = replace(settings.embed, fast=True)
        elif job.variant is Portrayal.NO_Y_CON:
            # SDS at s + 1 against the negative prompt has the gradient of DE-SDS at s
            scale = settings.guidance.cfg_scale + (settings.guidance.method == "de_sds")
            settings.guidance = replace(settings.guidance, method="sds", cfg_scale=scale)
        elif job.variant is Portrayal.NO_CONTROL:
            settings.prior = replace(settings.prior, control_scale=0.0)
        elif job.variant is Portrayal.NO_HEAD:
            head = replace(settings.cameras.head, probability=0.0)
            settings.cameras = replace(settings.cameras, head=head)
        elif job.variant in (Portrayal.BOUND, Portrayal.BOUND_REDRESSED):
            settings.embed = replace(settings.embed, clothes=Clothes.bound)
        elif job.variant in (Portrayal.NEAR_FACES, Portrayal.NEAR_FACES_REDRESSED):
            near = replace(
                settings.prior.prompts, identity_framings=["head", "upper"], identity_views=["front", "side"]
            )
            settings.prior = replace(settings.prior, prompts=near)
        return settings

    def make(self, job: IdentityJob) -> Portrayed:
        if job.variant in DRAWN:
            return Portrayed(self._drawing(job, measured_views()), self._drawing(job, back_views()))
        settings, cost = self.settings_of(job), None
        prior = self.prior.with_control_scale(settings.prior.control_scale).with_identity(None)
        if job.variant is not Portrayal.NO_IDENTITY:
            embedding, cost = self.identities.of(job.subject, job.photos, settings)
            prior = prior.with_identity(embedding.vectors, embedding.accessories)
        made = self.optimized(settings, prior)
        gaussians = made.model.pose(standing())
        measured, backs = (render_views(gaussians, views.cameras) for views in (measured_views(), back_views()))
        return Portrayed(measured, backs, cost, made.metrics, made.seconds)

    def _drawing(self, job: IdentityJob, views: Views) -> ViewImages:
        if job.variant is Portrayal.SAME_PERSON:
            return through_prior(render_variation(people.crowd()[job.subject], views, job.subject), self.prior)
        other = people.crowd()[(job.subject + 1) % len(people.crowd())]
        return render_portrait(self._dressed(job, other), views).images

    def measure(self, job: IdentityJob, made: Portrayed) -> tuple[IdentityRecord, Strip]:
        truth = self._truth(job)
        fronts = ViewImages(made.measured.rgb[list(FRONTS)], made.measured.alpha[list(FRONTS)])
        record = IdentityRecord(
            portrayal=job.variant,
            person=job.subject,
            seed=job.seed,
            photos=job.photos,
            prompt=job.prompt,
            views=compare(made.measured, truth, self.judges.scorer),
            nearest=self._gallery.distances(fronts),
            backs=len(made.backs.alpha),
            back_faces=int(self.judges.faces(made.backs.on_grey()).sum()),
            front_face=bool(self.judges.faces(fronts.on_grey())[-1]),
            embedding=made.embedding,
            metrics=made.metrics,
            seconds=made.seconds,
        )
        true, found = truth.images.on_grey(), made.measured.on_grey()
        return record, side_by_side([*(true[view] for view in STRIP_VIEWS), *(found[view] for view in STRIP_VIEWS)])

    def _truth(self, job: IdentityJob) -> Portrait:
        key = job.subject, job.redressed
        if key not in self._portraits:
            self._portraits[key] = render_portrait(self._dressed(job, people.crowd()[job.subject]), measured_views())
        return self._portraits[key]

    @cached_property
    def _portraits(self) -> dict[tuple[int, bool], Portrait]:
        return {}

    def _dressed(self, job: IdentityJob, person: Person) -> Person:
        return replace(person, outfit=people.other_outfit(job.subject)) if job.redressed else person

    @cached_property
    def _gallery(self) -> Gallery:
        fronts = some_views(measured_views(), FRONTS)
        return Gallery([render_portrait(person, fronts).images for person in people.crowd()], self.judges.scorer)

    def figures(self, records: Mapping[str, IdentityRecord]) -> Figures:
        return {**summarise(list(records.values())), "avatars": list(records)}

    def sheet(self, records: Mapping[str, IdentityRecord]) -> RGBImage:
        """A row for each person in their own clothes, truth next to the avatars of every method, then one for each in
        the new outfit."""
        rows, labels = [], []
        keys = {(one.portrayal, one.person): key for key, one in records.items() if one.seed == self.settings.seed}
        everyone = sorted({record.person for record in records.values()})
        for person in everyone:
            strips = [self.store.strip(keys[portrayal, person]) for portrayal in METHODS]
            rows.append([*strips[0][:CELLS], *(cell for strip in strips for cell in strip[CELLS:])])
            labels.append(f"person {person}")
        for person in everyone:
            key = keys[Portrayal.NEW_OUTFIT, person]
            rows.append(self.store.strip(key))
            labels.append(f"person {person}: {records[key].prompt}")
        columns = [
            name
            for group in ("truth", *(portrayal.value for portrayal in METHODS))
            for name in (group, *[""] * (CELLS - 1))
        ]
        return self.grid(rows, labels, columns, size=96)

    @classmethod
    def sections(cls, results: dict[str, Any]) -> list[str]:
        return sections(results)


def _embed_facts(settings: LabSettings) -> dict[str, Any]:
    """The embedding's settings with the former name of ``auto``, so that identities learned before remain valid."""
    return {name: "own" if value == "auto" else value for name, value in settings.plain()["embed"].items()}


class Identities:
    """The identities of the suite's people, each trained once and stored next to the records.

    Args:
        folder: the suite's; photos go to ``pictures/``, identities to ``identities/``.
        prior: trains them.
        fingerprint: of its weights.
    """

    def __init__(self, folder: Path, prior: StableDiffusionPrior, fingerprint: str) -> None:
        self.folder, self.prior, self.fingerprint = folder, prior, fingerprint

    def of(self, person: int, count: int, settings: LabSettings) -> tuple[IdentityEmbedding, Cost]:
        """The identity of a person from the first ``count`` photos, trained as ``settings.embed`` says."""
        photos = self._photos(person, count, settings)
        style = settings.prior.prompts.style
        facts = [CACHE_VERSION, photos.hashes, _embed_facts(settings), style.name, settings.seed, self.fingerprint]
        own = self.folder / "identities" / digest(facts)
        try:
            cost = Cost(**json.loads((own / "cost.json").read_text(encoding="utf-8")))
            return read_identity(own / "identity.safetensors"), cost
        except (OSError, json.JSONDecodeError, TypeError, UserError):
            pass  # not trained yet, or not to the end
        began = time.monotonic()
        embedding = train_identity(self.prior, photos, settings.embed, settings.seed, own, style=style, key=own.name)
        cost = Cost(
            steps=int(embedding.metadata["steps"]),
            seconds=time.monotonic() - began,
            peak_memory_mib=max(peak_memory_mib(self.prior.device).values()),
        )
        write_identity(own / "identity.safetensors", embedding)
        write_json(own / "cost.json", asdict(cost))
        return embedding, cost

    def _photos(self, person: int, count: int, settings: LabSettings) -> PhotoSet:
        source = people.write_photos(person, self.folder / "pictures")
        photos = load_photos(str(source), self.prior.image_size, min_size=settings.embed.min_size)
        if len(photos.names) != people.PHOTOS:
            raise UserError(
                f"{source}: expected {people.PHOTOS} photos, found {len(photos.names)} that can be used: "
                "leave embed.min_size as it is, and delete that folder"
            )
        return replace(photos, images=photos.images[:count], names=photos.names[:count], hashes=photos.hashes[:count])
