"""suite=claims: what is claimed of the methods, checked in two dimensions with the prior in use."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from avatar_gs.body.pose import a_pose
from avatar_gs.core.console import format_duration
from avatar_gs.core.images import RGBImage
from avatar_gs.core.seeding import generator
from avatar_gs.guidance.config import GuidanceConfig
from avatar_gs.guidance.distill import build_guidance
from avatar_gs.guidance.presets import fitted
from avatar_gs.lab.metrics.avatar import Strip, side_by_side
from avatar_gs.lab.metrics.truth import cases
from avatar_gs.lab.playground.config import FieldKind
from avatar_gs.lab.playground.fields import build_canvas
from avatar_gs.lab.playground.loop import Objective, View, chosen_view, play
from avatar_gs.lab.playground.session import encode_texts
from avatar_gs.lab.scorer.model import Scorer, load_scorer
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites import plane
from avatar_gs.lab.suites.claim_list import ClaimsRecord, chosen_claims, image_figures, summarise
from avatar_gs.lab.suites.claim_recipes import AMBIGUOUS, TOY, Recipe, recipes
from avatar_gs.lab.suites.report import markdown_table, plus_minus
from avatar_gs.lab.suites.suite import AvatarSuite, Figures, Job, digest
from avatar_gs.prior.fingerprint import weights_fingerprint
from avatar_gs.render.cameras import fixed_views
from avatar_gs.render.pose_map import body_depth
from avatar_gs.training.prompts import run_prompts
from avatar_gs.types import Framing

SAMPLES = 4
"""The prior's samples of each seed."""

ClaimsJob = Job[str, int]
"""A recipe with a held-out prompt (by its place in the fixed list)."""


class ClaimsSuite(AvatarSuite[ClaimsJob, tuple[ClaimsRecord, Strip], ClaimsRecord]):
    """Every recipe that a chosen claim needs, with every seed."""

    title = "What is claimed of the methods"
    record = ClaimsRecord
    item = "run"
    result_settings = ("negative_prompt", "prior", "guidance")

    @cached_property
    def recipes(self) -> dict[str, Recipe]:
        return recipes()

    @cached_property
    def scorer(self) -> Scorer:
        return load_scorer()

    @cached_property
    def _fingerprints(self) -> list[str]:
        return [self.fingerprint, weights_fingerprint({"scorer": self.scorer.model})]

    @cached_property
    def _prompts(self) -> list[str]:
        return [case.prompt for case in cases(self.settings.lab.evaluate.claim_seeds)]

    def plan(self) -> Iterator[ClaimsJob]:
        """Each recipe once, seed by seed."""
        config = self.settings.lab.evaluate
        needed = dict.fromkeys(name for claim in chosen_claims(config.claims).values() for name in claim.recipes)
        for index in range(config.claim_seeds):
            for name in needed:
                yield Job(name, index, self.settings.seed + index)

    def prompt(self, job: ClaimsJob) -> str:
        """A held-out prompt for each seed, except where the recipe wants an ambiguous one."""
        if job.variant == TOY:
            return "target"
        return AMBIGUOUS if self.recipes[job.variant].ambiguous else self._prompts[job.subject]

    def settings_of(self, job: ClaimsJob) -> LabSettings:
        recipe, given = self.recipes[job.variant], self.settings
        steps = given.lab.evaluate.claim_steps
        guidance = fitted(recipe.guidance or GuidanceConfig(), recipe.steps(steps))
        lab = replace(given.lab, playground=recipe.playground(given.lab.playground, steps))
        return replace(given, prompt=self.prompt(job), seed=job.seed, guidance=guidance, lab=lab)

    def facts(self, job: ClaimsJob) -> list[Any]:
        if job.variant == TOY:
            return [TOY, job.seed, plane.POINTS, plane.STEPS]
        return [job.variant, job.seed, self.prompt(job), self._fingerprints]

    def key(self, job: ClaimsJob) -> str:
        facts = [self.version, *self.facts(job)]
        if job.variant != TOY:
            plain = self.settings_of(job).plain()
            used = {name: plain[name] for name in self.result_settings}
            playground = plain["lab"]["playground"]
            playground["picture"] = playground.pop("image")  # its former name, so that stored records remain valid
            facts.append(used | {"playground": playground})
        return digest(facts)

    def cost(self, job: ClaimsJob) -> float:
        """Approximately, in steps of latent pixels with SDS."""
        recipe = self.recipes[job.variant]
        if recipe.guidance is None:
            return 150.0
        through_encoder = 3.0 if recipe.field is FieldKind.ehc else 1.0
        return recipe.steps(self.settings.lab.evaluate.claim_steps) * through_encoder

    def describe(self, job: ClaimsJob) -> str:
        return f"{job.variant}, seed {job.seed}"

    def make(self, job: ClaimsJob) -> tuple[ClaimsRecord, Strip]:
        """Run the recipe and measure its images.

        Raises:
            UserError: an image is no longer finite.
            KeyboardInterrupt: after Ctrl-C.
        """
        began, calls = time.monotonic(), self.prior.calls
        if job.variant == TOY:
            moved, drawn = plane.play(job.seed, plane.POINTS, plane.STEPS)
            figures = {f"{method}_{name}": value for method, of in moved.items() for name, value in asdict(of).items()}
            record = ClaimsRecord(TOY, job.seed, "target", figures, [], 0, time.monotonic() - began)
            return record, np.concatenate(drawn, 1)
        settings = self.settings_of(job)
        view = chosen_view(settings.lab.playground, settings.prior.prompts, self.body, self.prior.image_size)
        sampled = self.recipes[job.variant].guidance is None
        images, more = self._samples(settings, view) if sampled else self._play(settings, view)
        seconds = time.monotonic() - began
        figures, features = image_figures(images, self._mask, settings.prompt, self.scorer)
        record = ClaimsRecord(
            recipe=job.variant,
            seed=job.seed,
            prompt=settings.prompt,
            figures=figures | more,
            features=features.round(5).tolist(),
            prior_calls=self.prior.calls - calls,
            seconds=seconds,
        )
        return record, side_by_side(list(images))

    def measure(self, job: ClaimsJob, made: tuple[ClaimsRecord, Strip]) -> tuple[ClaimsRecord, Strip]:
        return made

    def _samples(self, settings: LabSettings, view: View) -> tuple[Float[np.ndarray, "B S S 3"], dict[str, float]]:
        prompt = run_prompts(settings.training, self.prior)[view.bucket]
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
            image = canvas.image().clamp(0, 1).cpu().numpy()
        return image, {"distance": result.curves["distance"][-1]}

    @cached_property
    def _mask(self) -> Bool[np.ndarray, "S S"]:
        """The pixels of the undressed body."""
        config, size = self.settings.lab.playground, self.prior.image_size
        posed = self.body.pose(a_pose())
        views = fixed_views(posed, [Framing(config.framing.value)], [config.azimuth], size)
        return (body_depth(posed, views.cameras, size)[0] > 0).cpu().numpy()

    def figures(self, records: Mapping[str, ClaimsRecord]) -> Figures:
        config = self.settings.lab.evaluate
        figures = summarise(list(records.values()), chosen_claims(config.claims))
        return figures | {"steps": config.claim_steps, "seeds": config.claim_seeds}

    def sheet(self, records: Mapping[str, ClaimsRecord]) -> RGBImage:
        """A row for each recipe, a column for each seed; of the plane of points the first seed's three methods."""
        rows: dict[str, list[RGBImage]] = {}
        for key, record in records.items():
            strip, label = self.store.strip(key), self.recipes[record.recipe].label
            if record.recipe != TOY:
                rows.setdefault(label, []).append(strip[0])
            else:
                rows.setdefault(label, list(strip))
        seeds = dict.fromkeys(record.seed for record in records.values())
        return self.grid(list(rows.values()), list(rows), [f"seed {seed}" for seed in seeds])

    @classmethod
    def sections(cls, results: dict[str, Any]) -> list[str]:
        figures = results["figures"]
        claims = figures["claims"].values()
        text = (
            "Runs of the 2D playground: latent pixels from noise, the A-pose from the front, unless the sheet says "
            f"otherwise; {figures['steps']} steps, {figures['seeds']} seeds, each with a held-out prompt of its own; "
            "every method with its paper's scale and schedule. A claim is *confirmed* when every number that has a "
            "range is in it with every seed, *not confirmed here* when one of them is in it with none, else "
            "*undecided*. The ranges stand in the code. Sharpness: variance of the Laplacian (noise counts as well as "
            "detail); chroma: CIELAB, on the body; score: the packaged scorer's likeness of image and prompt, 0 for "
            "a grey image and 1 for the prior's samples."
        )
        short = [[claim["statement"], f"**{claim['verdict']}**"] for claim in claims]
        rows = [
            [
                f"{claim['statement']}: {row['text']}",
                plus_minus(row["mean"], row["std"]),
                row["needed"],
                "–" if row["inside"] is None else f"{row['inside']} of {len(row['values'])}",
            ]
            for claim in claims
            for row in claim["conditions"]
        ]
        return [
            text,
            markdown_table(["claim", "verdict"], short),
            markdown_table(["number", "mean ± SD", "needed", "seeds in it"], rows),
            f"Took {format_duration(figures['wall_seconds'])}.",
        ]
