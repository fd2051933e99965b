"""Makes the runs of suite=claims: every recipe that a chosen claim needs, with every seed."""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from avatar_gs.body.pose import a_pose
from avatar_gs.core.seeding import generator
from avatar_gs.guidance.config import GuidanceConfig
from avatar_gs.guidance.distill import build_guidance
from avatar_gs.guidance.presets import fitted
from avatar_gs.lab.metrics.avatar import Strip, in_a_row
from avatar_gs.lab.metrics.truth import cases, neutral_body
from avatar_gs.lab.playground.config import FieldKind
from avatar_gs.lab.playground.fields import build_canvas
from avatar_gs.lab.playground.loop import Objective, View, chosen_view, play
from avatar_gs.lab.playground.session import encode_texts
from avatar_gs.lab.scorer.model import Scorer
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites.claims import toy
from avatar_gs.lab.suites.claims.claims import Claim
from avatar_gs.lab.suites.claims.figures import picture_figures
from avatar_gs.lab.suites.claims.recipes import AMBIGUOUS, TOY, recipes
from avatar_gs.lab.suites.claims.records import Record
from avatar_gs.lab.suites.folder import RecordFolder, complete
from avatar_gs.prior.fingerprint import prior_fingerprint, weights_fingerprint
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.render.cameras import fixed_views
from avatar_gs.render.pose_map import body_depth
from avatar_gs.training.prompts import run_prompts
from avatar_gs.types import Framing

SCHEMA = 1
"""Raised whenever records of the same job would read differently."""
RESULT_SETTINGS = ("negative_prompt", "prior", "guidance", "playground")
SAMPLES = 4
"""The prior's own of each seed."""


@dataclass(frozen=True)
class Job:
    """One recipe with one seed."""

    recipe: str
    index: int
    seed: int


def plan(claims: dict[str, Claim], seeds: int, seed: int) -> Iterator[Job]:
    """Every recipe that the claims need, each once, seed by seed."""
    needed = dict.fromkeys(name for claim in claims.values() for name in claim.recipes)
    for index in range(seeds):
        for name in needed:
            yield Job(name, index, seed + index)


class Maker:
    """Makes and measures pictures with one prior."""

    def __init__(self, settings: LabSettings, prior: StableDiffusionPrior, scorer: Scorer) -> None:
        self.settings, self.prior, self.scorer = settings, prior, scorer
        self.body = neutral_body(prior.device)
        self.recipes = recipes()
        self._fingerprints = [prior_fingerprint(prior), weights_fingerprint({"scorer": scorer.model})]
        self._prompts = [case.prompt for case in cases(settings.lab.evaluate.claim_seeds)]

    def prompt(self, job: Job) -> str:
        """Every seed has a held-out prompt of its own, but where the recipe wants an ambiguous one."""
        if job.recipe == TOY:
            return "target"
        return AMBIGUOUS if self.recipes[job.recipe].ambiguous else self._prompts[job.index]

    def settings_of(self, job: Job) -> LabSettings:
        """The command's settings with those of the recipe."""
        recipe, given = self.recipes[job.recipe], self.settings
        guidance = fitted(recipe.guidance or GuidanceConfig(), recipe.steps(given.lab.evaluate.claim_steps))
        playground = recipe.playground(given.lab.playground, given.lab.evaluate.claim_steps)
        lab = replace(given.lab, playground=playground)
        return replace(given, prompt=self.prompt(job), seed=job.seed, guidance=guidance, lab=lab)

    def key(self, job: Job) -> str:
        """Sixteen hexadecimal digits that stand for all that the job's result depends on."""
        facts: list[Any] = [SCHEMA, job.recipe, job.seed]
        if job.recipe == TOY:
            facts += [toy.POINTS, toy.STEPS]
        else:
            plain = self.settings_of(job).plain()
            plain |= plain["lab"]
            told = {name: plain[name] for name in RESULT_SETTINGS}
            facts += [plain["prompt"], self._fingerprints, told]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def cost(self, job: Job) -> float:
        """What a run takes, roughly, in steps of latent pixels with SDS."""
        recipe = self.recipes[job.recipe]
        if recipe.guidance is None:
            return 150.0
        through_encoder = 3.0 if recipe.field is FieldKind.ehc else 1.0
        return recipe.steps(self.settings.lab.evaluate.claim_steps) * through_encoder

    def make(self, job: Job) -> tuple[Record, Strip]:
        """Runs the recipe and measures its pictures.

        Raises:
            UserError: if a picture is no longer finite.
            KeyboardInterrupt: after Ctrl-C.
        """
        began, calls = time.monotonic(), self.prior.calls
        if job.recipe == TOY:
            figures, pictures = plane(job.seed)
            return Record(TOY, job.seed, "target", figures, [], 0, time.monotonic() - began), pictures
        settings = self.settings_of(job)
        view = chosen_view(settings.lab.playground, settings.prior.prompts, self.body, self.prior.image_size)
        sampled = self.recipes[job.recipe].guidance is None
        found, more = self._samples(settings, view) if sampled else self._play(settings, view)
        seconds = time.monotonic() - began
        figures, features = picture_figures(found, self._mask, settings.prompt, self.scorer)
        record = Record(
            recipe=job.recipe,
            seed=job.seed,
            prompt=settings.prompt,
            figures=figures | more,
            features=features.round(5).tolist(),
            prior_calls=self.prior.calls - calls,
            seconds=seconds,
        )
        return record, in_a_row(list(found))

    def _samples(self, settings: LabSettings, view: View) -> tuple[Float[np.ndarray, "B S S 3"], dict[str, float]]:
        prompt = run_prompts(settings, self.prior)[view.bucket]
        control = None if view.control is None else view.control.expand(SAMPLES, -1, -1, -1)
        random = generator(settings.seed, 0, "own samples")
        asked = [prompt.positive] * SAMPLES, [prompt.negative] * SAMPLES
        return self.prior.sample(*asked, control, generator=random).clamp(0, 1).cpu().numpy(), {}

    def _play(self, settings: LabSettings, view: View) -> tuple[Float[np.ndarray, "1 S S 3"], dict[str, float]]:
        conditions = encode_texts(settings, self.prior, view)
        canvas = build_canvas(settings.lab.playground, self.prior, settings.seed)
        guidance = build_guidance(settings.guidance, self.prior, conditions)
        result = play(canvas, Objective(guidance, conditions, view), settings.lab.playground, settings.seed)
        if result.interrupted:
            raise KeyboardInterrupt
        with torch.no_grad():
            picture = canvas.image().clamp(0, 1).cpu().numpy()
        return picture, {"distance": result.curves["distance"][-1]}

    @cached_property
    def _mask(self) -> Bool[np.ndarray, "S S"]:
        """The pixels of the undressed body."""
        config, size = self.settings.lab.playground, self.prior.image_size
        posed = self.body.pose(a_pose())
        views = fixed_views(posed, [Framing(config.framing.value)], [config.azimuth], size)
        return (body_depth(posed, views.cameras, size)[0] > 0).cpu().numpy()


def plane(seed: int) -> tuple[dict[str, float], Strip]:
    """The plane of points: each method's figures, and its picture."""
    moved, pictures = toy.play(seed, toy.POINTS, toy.STEPS)
    figures = {f"{method}_{name}": value for method, of in moved.items() for name, value in asdict(of).items()}
    return figures, np.concatenate(pictures, 1)


def make_records(
    settings: LabSettings,
    prior: StableDiffusionPrior,
    scorer: Scorer,
    claims: dict[str, Claim],
    folder: RecordFolder[Record],
) -> dict[str, Record]:
    """The record of every job by its key, in the plan's order; those in ``folder`` are not made again.

    Raises:
        UserError: if a picture is no longer finite.
        KeyboardInterrupt: after Ctrl-C; all records but the one in work are kept.
    """
    maker = Maker(settings, prior, scorer)
    jobs = plan(claims, settings.lab.evaluate.claim_seeds, settings.seed)
    return complete(jobs, folder, key=maker.key, make=maker.make, describe=_describe, cost=maker.cost, what="run")


def _describe(job: Job) -> str:
    return f"{job.recipe}, seed {job.seed}"
