"""suite=methods: avatars of the same prompts by every guidance method, with equal steps and with equal compute."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from avatar_gs.body.pose import a_pose
from avatar_gs.core.errors import UserError
from avatar_gs.core.images import RGBImage
from avatar_gs.core.seeding import generator
from avatar_gs.guidance.config import GuidanceConfig
from avatar_gs.guidance.presets import fitted, named_preset, preset_names
from avatar_gs.lab.metrics.avatar import Strip, ViewImages, measure, render_views, side_by_side
from avatar_gs.lab.metrics.colours import SOLID, saturation_error
from avatar_gs.lab.metrics.scored_images import sample_images
from avatar_gs.lab.metrics.truth import Case, cases
from avatar_gs.lab.metrics.views import DIRECTIONS, ORBIT, ScoredViews, viewpoints_of
from avatar_gs.lab.scorer.model import Scorer, load_scorer
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites import methods_report as report
from avatar_gs.lab.suites.config import EvaluateConfig
from avatar_gs.lab.suites.methods_report import CALLS, EQUAL_COMPUTE, EQUAL_STEPS, MethodsRecord
from avatar_gs.lab.suites.suite import AvatarSuite, Figures, FullGrid, Job, Made
from avatar_gs.prior.fingerprint import weights_fingerprint
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.training.config import PoseMap
from avatar_gs.types import Framing

LARGE_PRIORS = ("rescaled_de_sds",)
"""Presets for other priors than the packaged one: compared only if they are named."""
SAMPLES_SEED = 0
"""Seed of the prior's samples: they are the same for all avatars of a prompt."""
SHOWN = (1, 3)
"""Of an avatar's strip: front and back."""
FULL_PROMPTS, FULL_SEEDS, FULL_STEPS = 12, 5, 250


@dataclass(frozen=True)
class MethodsJob(Job[str, Case]):
    """One avatar by a preset of ``guidance``."""

    steps: int
    control: bool = True
    """Whether the ControlNet sees the pose map."""


def compared(config: EvaluateConfig) -> list[str]:
    """The presets to compare.

    Raises:
        UserError: for a name that no preset has, or a preset that edits, or does nothing.
    """
    if not config.methods:
        return [name for name in preset_names() if name not in LARGE_PRIORS and _makes_avatars(named_preset(name))]
    for name in config.methods:
        if not _makes_avatars(named_preset(name)):
            raise UserError(f"evaluate.methods: {name} makes no avatar from nothing; leave it out")
    return list(config.methods)


def _makes_avatars(config: GuidanceConfig) -> bool:
    return not config.edits and config.method != "none"


def _full_seconds(costs: Figures) -> float:
    avatars = 2 * costs["presets"] * FULL_PROMPTS * FULL_SEEDS
    return avatars * FULL_STEPS * costs["seconds_per_step"] * costs["both_modes"]


class MethodsSuite(AvatarSuite[MethodsJob, Made, MethodsRecord]):
    """Every method with ControlNet and without, in both modes."""

    title = "The methods of guidance compared"
    full_grid = FullGrid(
        (
            f"evaluate.method_prompts={FULL_PROMPTS}",
            f"evaluate.method_seeds={FULL_SEEDS}",
            f"evaluate.method_steps={FULL_STEPS}",
        ),
        f"{FULL_PROMPTS} prompts × {FULL_SEEDS} seeds × {FULL_STEPS} steps",
        _full_seconds,
    )
    record = MethodsRecord

    @cached_property
    def scorer(self) -> Scorer:
        return load_scorer()

    @cached_property
    def _fingerprints(self) -> list[str]:
        return [self.fingerprint, weights_fingerprint({"scorer": self.scorer.model})]

    def plan(self) -> Iterator[MethodsJob]:
        """Every avatar with the same number of steps: prompt by prompt and seed by seed."""
        config = self.settings.lab.evaluate
        presets, prompts = compared(config), cases(config.method_prompts)
        for index in range(config.method_seeds):
            for case in prompts:
                for control in (True, False):
                    for name in presets:
                        yield MethodsJob(name, case, self.settings.seed + index, config.method_steps, control)

    def equal_compute(self, jobs: Iterable[MethodsJob], records: Iterable[MethodsRecord]) -> Iterator[MethodsJob]:
        """The same jobs with about the same number of prior calls each.

        Args:
            records: of the jobs; they say how many calls a step takes.
        """
        for job, record in zip(jobs, records, strict=True):
            steps = max(1, round(CALLS * self.settings.lab.evaluate.method_steps / record.calls_per_step))
            yield replace(job, steps=steps)

    def settings_of(self, job: MethodsJob) -> LabSettings:
        given = self.settings
        scale = given.prior.control_scale if job.control else 0.0
        return replace(
            given,
            prompt=job.subject.prompt,
            seed=job.seed,
            guidance=fitted(named_preset(job.variant), job.steps),
            optimize=replace(given.optimize, steps=job.steps),
            prior=replace(given.prior, control_scale=scale),
        )

    def facts(self, job: MethodsJob) -> list[Any]:
        return [job.variant, job.subject.prompt, job.seed, self._fingerprints]

    def cost(self, job: MethodsJob) -> float:
        guidance = named_preset(job.variant)
        return job.steps * (3.0 * guidance.inner_steps + guidance.chosen.cost)

    def describe(self, job: MethodsJob) -> str:
        control = "with" if job.control else "without"
        return f"{job.variant} {control} ControlNet, {job.steps} steps, seed {job.seed}, “{job.subject.prompt}”"

    def make(self, job: MethodsJob) -> Made:
        settings = self.settings_of(job)
        return self.optimized(settings, self.prior.with_control_scale(settings.prior.control_scale))

    def measure(self, job: MethodsJob, made: Made) -> tuple[MethodsRecord, Strip]:
        """The strip shows the true person from the front, and the avatar from four sides."""
        truth, images = self.truth(job.subject), self.renders(made.model)
        orbit = render_views(made.model.pose(self.viewpoints.posed), around().poses[0].views.cameras)
        with torch.no_grad():
            features = self.scorer.image_features(torch.from_numpy(orbit.on_grey().astype(np.float32)))
        record = MethodsRecord(
            preset=job.variant,
            control=job.control,
            prompt=job.subject.prompt,
            seed=job.seed,
            steps=job.steps,
            batch=self.settings.optimize.batch,
            asked=job.subject.asked,
            end=measure(images, truth),
            orbit=features.cpu().numpy().round(5).tolist(),
            saturation=saturation(orbit, self._sample_colours(job.subject)),
            metrics=made.metrics,
            seconds=made.seconds,
        )
        views, shown = [self.viewpoints.index(Framing.BODY, name) for name in DIRECTIONS], images.on_grey()
        return record, side_by_side([truth.image(views[0]), *(shown[view] for view in views)])

    def _sample_colours(self, case: Case) -> Float[np.ndarray, "N 3"]:
        if case.prompt not in self._colours:
            self._colours[case.prompt] = sample_colours(replace(self.settings, prompt=case.prompt), self.prior)
        return self._colours[case.prompt]

    @cached_property
    def _colours(self) -> dict[str, Float[np.ndarray, "N 3"]]:
        return {}

    def records(self) -> dict[str, MethodsRecord]:
        """With equal steps, then with equal compute: where a method needs the same number of steps for both, it is the
        same record."""
        jobs = list(self.plan())
        steps = self.complete(jobs)
        return steps | self.complete(self.equal_compute(jobs, steps.values()))

    def _modes(self, records: Mapping[str, MethodsRecord]) -> dict[str, dict[str, MethodsRecord]]:
        jobs = list(self.plan())
        steps = {key: records[key] for key in map(self.key, jobs)}
        compute = {key: records[key] for key in map(self.key, self.equal_compute(jobs, steps.values()))}
        return {EQUAL_STEPS: steps, EQUAL_COMPUTE: compute}

    def figures(self, records: Mapping[str, MethodsRecord]) -> Figures:
        modes, config = self._modes(records), self.settings.lab.evaluate
        presets = dict.fromkeys(record.preset for record in modes[EQUAL_STEPS].values())
        return report.summarise({mode: list(some.values()) for mode, some in modes.items()}) | {
            "guidance": {name: _settings_in_words(name) for name in presets},
            "steps": config.method_steps,
            "prompts": config.method_prompts,
            "seeds": config.method_seeds,
        }

    def sheet(self, records: Mapping[str, MethodsRecord]) -> RGBImage:
        """A row for each method, with and without ControlNet, in both modes: each prompt's first avatar, front and
        back. Above them the drawn truth."""
        rows: dict[str, list[RGBImage]] = {}
        truths: dict[str, RGBImage] = {}
        for mode, some in self._modes(records).items():
            for key, record in some.items():
                if record.seed == self.settings.seed:
                    strip = self.store.strip(key)
                    truths.setdefault(record.prompt, strip[0])
                    control = "" if record.control else ", no ControlNet"
                    cells = rows.setdefault(f"{record.preset}{control}, {mode.removeprefix('equal ')}", [])
                    cells += [strip[view] for view in SHOWN]
        shown = [cell for truth in truths.values() for cell in (truth, truth)]
        columns = ["front", "back"] * len(truths)
        return self.grid([shown, *rows.values()], ["drawn truth (front)", *rows], columns, size=96)

    @classmethod
    def sections(cls, results: dict[str, Any]) -> list[str]:
        return report.sections(results)


def _settings_in_words(name: str) -> str:
    config = named_preset(name)
    schedule = config.schedule
    return (
        f"s = {config.cfg_scale:g}, t {schedule.kind.name.replace('_', ' ')} {schedule.t_min:g} to {schedule.t_max:g}, "
        f"w = {config.weight.name}"
    )


# ---- the prior's samples, for comparison


@lru_cache(maxsize=1)
def around() -> ScoredViews:
    """Full bodies from all sides."""
    return ScoredViews((viewpoints_of(a_pose(), [Framing.BODY] * len(ORBIT), ORBIT),))


def sample_colours(settings: LabSettings, prior: StableDiffusionPrior) -> Float[np.ndarray, "N 3"]:
    """The colours, in [0, 1], of the prior's samples of ``settings.prompt``, with ControlNet, on the pixels that
    everybody's body covers."""
    samples = sample_images(
        settings.prompt,
        settings.negative_prompt,
        prior,
        around(),
        settings.prior.prompts,
        full_pose_maps=settings.optimize.pose_map is PoseMap.full,
        generator=generator(SAMPLES_SEED, 0, "own samples"),
    )
    return samples.colour.rgb[around().inside]


def saturation(images: ViewImages, samples: Float[np.ndarray, "N 3"]) -> dict[str, float] | None:
    """How the chroma of an avatar's solid pixels, where everybody's body is, differs from that of ``samples``; None if
    nothing is solid there."""
    solid = around().inside & (images.alpha >= SOLID)
    if not solid.any():
        return None
    return asdict(saturation_error(np.clip(images.rgb[solid] / images.alpha[solid][:, None], 0, 1), samples))
