"""suite=judges: what networks trained on photographs of real people find in renders, samples and avatars."""

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch.nn import functional as F

from avatar_gs.core.errors import UserError
from avatar_gs.core.images import RGBImage
from avatar_gs.core.seeding import generator
from avatar_gs.lab.judges.figures import correct_joints, overlap
from avatar_gs.lab.judges.process import Judges
from avatar_gs.lab.metrics.avatar import Strip, render_views, to_bytes
from avatar_gs.lab.metrics.truth import BACKGROUND, cases
from avatar_gs.lab.people.person import Person, held_out, random_person
from avatar_gs.lab.people.rendering import render, to_linear
from avatar_gs.lab.people.samples import random_light
from avatar_gs.lab.people.wardrobe import Wardrobe, dress, load_wardrobe
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites.judged_views import (
    BODIES,
    HEADS,
    SIZE,
    VIEWS_PER_GROUP,
    Group,
    JudgedViews,
    judged_views,
    subject_pose,
)
from avatar_gs.lab.suites.judges_report import JudgedImage, JudgesRecord, Source, sections, summarise
from avatar_gs.lab.suites.suite import AvatarSuite, Figures, Job, digest
from avatar_gs.prior.config import PriorConfig
from avatar_gs.prior.fingerprint import prior_fingerprint
from avatar_gs.prior.prompts import bucket_prompts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior, load_prior

MINI = PriorConfig(name="mini")
"""The packaged prior that others are compared with."""
SAMPLE_BATCH = 7
SHEET_SUBJECTS = 3
COSTS = {Source.AVATARS: 40.0, Source.MINI_AVATARS: 40.0}
"""Duration of a job relative to rendering or sampling."""

JudgesJob = Job[Source, int]
"""A subject (by index) from one source of images."""


@dataclass(frozen=True)
class Portrayed:
    """A subject's images with the silhouettes that they have; None for samples, which have none of their own."""

    views: JudgedViews
    images: UInt8[np.ndarray, "V S S 3"]
    silhouettes: Bool[np.ndarray, "V S S"] | None
    prompt: str
    seconds: float


class JudgesSuite(AvatarSuite[JudgesJob, Portrayed, JudgesRecord]):
    """Ground-truth renders of lifelike people, samples of the prior and avatars, and the same of ``mini``."""

    title = "Judged by networks that know real people"
    record = JudgesRecord
    item = "subject"
    judges: Judges

    def evaluate(self) -> tuple[Figures, RGBImage]:
        """Raises UserError also if the judges are not installed, or nothing is to be judged."""
        config = self.settings.lab.evaluate
        if not (config.judged_samples or config.judged_avatars or (config.assets and config.judged_people)):
            raise UserError(
                "suite=judges: nothing to judge: give evaluate.judged_samples, evaluate.judged_avatars, or "
                "evaluate.assets with evaluate.judged_people"
            )
        with Judges(self.settings.lab.evaluate.judges) as judges:
            self.judges = judges
            return super().evaluate()

    def plan(self) -> Iterator[JudgesJob]:
        """Renders, samples and avatars; those of ``mini``, unless it is the prior."""
        config, seed = self.settings.lab.evaluate, self.settings.seed
        counts = {
            Source.TRUTH: config.judged_people if config.assets else 0,
            Source.SAMPLES: config.judged_samples,
            Source.AVATARS: config.judged_avatars,
        }
        if self.fingerprint != self.mini_fingerprint:
            counts |= {Source.MINI_SAMPLES: config.judged_samples, Source.MINI_AVATARS: config.judged_avatars}
        for source, count in counts.items():
            for index in range(count):
                yield Job(source, index, seed)

    @cached_property
    def mini(self) -> StableDiffusionPrior:
        """The packaged prior."""
        return load_prior(MINI, self.prior.device)

    @cached_property
    def mini_fingerprint(self) -> str:
        return prior_fingerprint(self.mini)

    @cached_property
    def wardrobe(self) -> Wardrobe:
        """Of the lifelike people."""
        return load_wardrobe(Path(self.settings.lab.evaluate.assets).expanduser())

    def settings_of(self, job: JudgesJob) -> LabSettings:
        settings = replace(self.settings, prompt=self._prompt(job), seed=job.seed)
        return replace(settings, prior=MINI) if job.variant.of_mini else settings

    def _prompt(self, job: JudgesJob) -> str:
        return "" if job.variant is Source.TRUTH else self._prompts[job.subject]

    @cached_property
    def _prompts(self) -> list[str]:
        """Held-out prompts in words that every packaged prior knows."""
        config = self.settings.lab.evaluate
        return [case.prompt for case in cases(max(config.judged_samples, config.judged_avatars))]

    def facts(self, job: JudgesJob) -> list[Any]:
        facts = [job.variant.sort, job.subject, job.seed, SIZE, VIEWS_PER_GROUP, self.judges.versions]
        if job.variant is Source.TRUTH:
            return [*facts, self._assets_fingerprint]
        weights = self.mini_fingerprint if job.variant.of_mini else self.fingerprint
        return [*facts, self._prompt(job), weights, self.settings.lab.evaluate.pose_scale]

    @cached_property
    def _assets_fingerprint(self) -> str:
        return hashlib.sha256((self.wardrobe.assets.folder / "catalogue.json").read_bytes()).hexdigest()

    def key(self, job: JudgesJob) -> str:
        if job.variant.are_avatars:
            return super().key(job)
        facts = [self.version, *self.facts(job)]
        if job.variant is not Source.TRUTH:
            plain = self.settings_of(job).plain()
            facts += [plain["prior"], plain["negative_prompt"]]
        return digest(facts)

    def cost(self, job: JudgesJob) -> float:
        return COSTS.get(job.variant, 1.0)

    def describe(self, job: JudgesJob) -> str:
        return f"{job.variant.value}, {job.subject}"

    def make(self, job: JudgesJob) -> Portrayed:
        began = time.monotonic()
        if job.variant is Source.TRUTH:
            views, images, silhouettes = self._render(job)
        else:
            posed = self.body.to("cpu").pose(subject_pose(job.subject, job.seed))
            views = judged_views(posed, job.subject, job.seed)
            images, silhouettes = self._avatar(job, views) if job.variant.are_avatars else self._sample(job, views)
        return Portrayed(views, images, silhouettes, self._prompt(job), time.monotonic() - began)

    def _render(self, job: JudgesJob) -> tuple[JudgedViews, UInt8[np.ndarray, "V S S 3"], Bool[np.ndarray, "V S S"]]:
        """A held-out lifelike person."""
        rng = np.random.default_rng([job.seed, job.subject, 71_000])
        dressed = dress(self.wardrobe, _held_out_person(self.wardrobe, rng), subject_pose(job.subject, job.seed))
        views = judged_views(dressed.posed.body, job.subject, job.seed)
        grey, light = to_linear([255 * BACKGROUND] * 3), random_light(self.wardrobe, rng)
        drawn = [render(dressed.layers, views.cameras, index, light, grey) for index in range(len(views))]
        return views, np.stack([one.image for one in drawn]), np.stack([one.alpha > 0.5 for one in drawn])

    @torch.no_grad()
    def _sample(self, job: JudgesJob, views: JudgedViews) -> tuple[UInt8[np.ndarray, "V S S 3"], None]:
        """Samples of the prior for the views' pose maps, enlarged if they are smaller."""
        prior, settings = self.mini if job.variant.of_mini else self.prior, self.settings_of(job)
        words = settings.prior.prompts
        prompts = bucket_prompts(self._prompt(job), settings.negative_prompt, words)
        positives, negatives = [], []
        for index in range(len(views)):
            bucket = views.bucket(index)
            positives.append(self._prompt(job) if bucket is None else prompts[bucket].positive)
            negatives.append(
                (settings.negative_prompt or words.negative) if bucket is None else prompts[bucket].negative
            )
        control = views.pose_maps(prior.image_size).to(prior.device)
        noise, images = generator(job.seed, job.subject, "judged samples"), []
        for start in range(0, len(views), SAMPLE_BATCH):
            some = slice(start, start + SAMPLE_BATCH)
            drawn = prior.sample(
                positives[some], negatives[some], control[some], generator=noise,
                pose_scale=settings.lab.evaluate.pose_scale,
            )  # fmt: skip
            images.append(F.interpolate(drawn.permute(0, 3, 1, 2), (SIZE, SIZE), mode="bilinear", antialias=True))
        return to_bytes(torch.cat(images).permute(0, 2, 3, 1).cpu().numpy()), None

    def _avatar(
        self, job: JudgesJob, views: JudgedViews
    ) -> tuple[UInt8[np.ndarray, "V S S 3"], Bool[np.ndarray, "V S S"]]:
        made = self.optimized(self.settings_of(job), self.mini if job.variant.of_mini else self.prior)
        renders = render_views(made.model.pose(views.posed), views.cameras)
        return to_bytes(renders.on_grey()), renders.alpha > 0.5

    def measure(self, job: JudgesJob, made: Portrayed) -> tuple[JudgesRecord, Strip]:
        record = JudgesRecord(
            source=job.variant,
            subject=job.subject,
            seed=job.seed,
            prompt=made.prompt,
            images=judge(self.judges, made.views, made.images, made.silhouettes),
            seconds=made.seconds,
        )
        return record, np.concatenate([*made.images], 1)

    def figures(self, records: Mapping[str, JudgesRecord]) -> Figures:
        return {
            "judges": self.judges.versions,
            "sources": summarise(list(records.values())),
            "seconds": {
                source.value: [one.seconds for one in records.values() if one.source is source] for source in Source
            },
            "subjects": list(records),
        }

    def sheet(self, records: Mapping[str, JudgesRecord]) -> RGBImage:
        """A row for each of the first subjects of every source, one view of each group."""
        rows, labels = [], []
        for key, record in records.items():
            if record.subject < SHEET_SUBJECTS:
                rows.append(self.store.strip(key)[::VIEWS_PER_GROUP])
                labels.append(f"{record.source.value}, {record.subject}")
        return self.grid(rows, labels, [group.value for group in Group])

    @classmethod
    def sections(cls, results: dict[str, Any]) -> list[str]:
        return sections(results["figures"])


def judge(
    judges: Judges,
    views: JudgedViews,
    images: UInt8[np.ndarray, "V S S 3"],
    silhouettes: Bool[np.ndarray, "V S S"] | None,
) -> list[JudgedImage]:
    """What the judges find in each view of a subject, as far as it shows what they look for."""
    heads, bodies, hands = views.of(*HEADS), views.of(*BODIES), views.of(Group.HAND)
    outlined = [*heads, *bodies]
    faces = dict(zip(heads, judges.faces(images[heads]), strict=True))
    meshes = dict(zip(heads, judges.face_meshes(images[heads]), strict=True))
    seen = views.of(Group.HEAD_FRONT, Group.THREE_QUARTER)
    identities = dict(zip(seen, judges.identities(images[seen]), strict=True))
    landmarks = dict(zip(bodies, judges.bodies(images[bodies]), strict=True))
    found_hands = dict(zip(hands, judges.hands(images[hands]), strict=True))
    masks = dict(zip(outlined, judges.silhouettes(images[outlined]) > 0.5, strict=True))
    joints, head_sizes, bare = views.joints(), views.head_sizes(), views.bare()
    judged = []
    for index, group in enumerate(views.groups):
        is_head, is_body = index in faces, index in landmarks
        face, identity, mask = faces.get(index), identities.get(index), masks.get(index)
        judged.append(
            JudgedImage(
                group=group,
                degrees=float(np.degrees(views.azimuths[index])),
                face=None if face is None else face.score,
                mesh=meshes[index] is not None if is_head else None,
                joints=correct_joints(landmarks[index], joints[index], head_sizes[index], SIZE) if is_body else None,
                hands=len(found_hands[index]) if group is Group.HAND else None,
                silhouette=None if mask is None or silhouettes is None else overlap(mask, silhouettes[index]),
                body=overlap(mask, bare[index]) if mask is not None and is_body else None,
                identity=None if identity is None else identity.round(5).tolist(),
            )
        )
    return judged


def _held_out_person(wardrobe: Wardrobe, rng: np.random.Generator) -> Person:
    while True:
        person = random_person(rng, wardrobe.basis.local_changes)
        if held_out(person):
            return person
