"""What suite=editing makes: avatars of held-out people, and edits of them by every method."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from avatar_gs.core.runs import RunFolder
from avatar_gs.guidance.presets import fitted, named_preset
from avatar_gs.lab.metrics.avatar import Pictures, Strip, in_a_row, measure
from avatar_gs.lab.metrics.truth import CLOSE_UP, Truth
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites.config import EvaluateConfig
from avatar_gs.lab.suites.editing.edits import Edit, edits
from avatar_gs.lab.suites.editing.kept import differences, silhouette_overlap
from avatar_gs.lab.suites.editing.records import BEFORE, EditRecord
from avatar_gs.lab.suites.folder import RecordFolder, complete
from avatar_gs.lab.suites.suite import RESULT_SETTINGS
from avatar_gs.lab.suites.theatre import Theatre
from avatar_gs.prior.fingerprint import prior_fingerprint
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.settings import short_hash
from avatar_gs.training.init import load_init
from avatar_gs.training.loop import optimize
from avatar_gs.training.prompts import run_prompts
from avatar_gs.types import Framing

SCHEMA = 1
"""Raised whenever records of the same job would read differently."""
COMPARED = ("gentle_dds", "gentle_pds", "dds", "pds", "de_sds")
"""The two presets for editing with the packaged prior, the papers' own, and, as a control, the default method, which
follows the new prompt and knows nothing of the old one."""
STRIP_VIEWS = (
    (Framing.BODY, "front"),
    (Framing.BODY, "left"),
    (Framing.BODY, "back"),
    (Framing.HEAD, "front"),
    (Framing.HEAD, "left"),
)
STRIP_LABELS = [f"{framing.value}, {direction}" for framing, direction in STRIP_VIEWS]


@dataclass(frozen=True)
class Job:
    """One edit by one method (a preset of ``guidance``), or ``BEFORE``: the avatar itself."""

    preset: str
    edit: Edit
    seed: int


def plan(config: EvaluateConfig, seed: int) -> Iterator[Job]:
    """Every job of the suite, edit by edit: the avatar, then each method.

    Raises:
        UserError: for a name that no preset has.
    """
    presets = config.edit_methods or list(COMPARED)
    for name in presets:
        named_preset(name)
    for index in range(config.edit_seeds):
        for edit in edits(config.edit_prompts):
            for name in (BEFORE, *presets):
                yield Job(name, edit, seed + index)


class Maker:
    """Makes, edits and measures avatars with one prior. ``folder``: where the avatars to be edited are kept."""

    def __init__(self, settings: LabSettings, prior: StableDiffusionPrior, folder: Path) -> None:
        self.settings, self.prior, self.folder = settings, prior, folder
        self.theatre = Theatre(prior.device)
        self.fingerprint = prior_fingerprint(prior)

    def settings_of(self, job: Job) -> LabSettings:
        """The command's settings; for an edit with the method, the number of steps and the avatar to begin with."""
        if job.preset == BEFORE:
            return replace(self.settings, prompt=job.edit.before.prompt, seed=job.seed)
        given, steps = self.settings, self.settings.lab.evaluate.edit_steps
        return replace(
            given,
            prompt=job.edit.after.prompt,
            source_prompt=job.edit.before.prompt,
            init=str(self.folder / self.key(replace(job, preset=BEFORE))),
            seed=job.seed,
            guidance=fitted(named_preset(job.preset), steps),
            optimize=replace(given.optimize, steps=steps),
        )

    def key(self, job: Job) -> str:
        """Hexadecimal digits that stand for all that the job's result depends on."""
        before = self._key(replace(job, preset=BEFORE))
        return before if job.preset == BEFORE else f"{before}-{self._key(job)}"

    def _key(self, job: Job) -> str:
        settings = replace(self.settings, seed=job.seed) if job.preset == BEFORE else self.settings_of(job)
        plain = settings.plain()
        facts = {name: plain[name] for name in RESULT_SETTINGS}
        prompts = job.edit.before.prompt, job.edit.after.prompt
        return short_hash(SCHEMA, job.preset, *prompts, job.seed, self.fingerprint, facts)

    def make(self, job: Job) -> tuple[EditRecord, Strip]:
        """Makes or edits the job's avatar and measures it. The strip: ``STRIP_VIEWS`` of the person that the new prompt
        describes, and of the avatar."""
        settings, edit, run = self.settings_of(job), job.edit, self._avatar(job)
        initial = load_init(replace(settings, init=str(run.path)), self.theatre.body)
        model, metrics = initial.model, run.metrics()["optimize"]
        if job.preset != BEFORE:
            prompts = run_prompts(settings, self.prior)
            result = optimize(settings, self.theatre.body, self.prior, prompts, initial=initial)
            model, metrics = result.model, result.metrics
        was, becomes = self.theatre.truth(edit.before), self.theatre.truth(edit.after)
        before, after = self.theatre.pictures(initial.model), self.theatre.pictures(model)
        record = EditRecord(
            preset=job.preset,
            changed=edit.changed,
            old=edit.old,
            new=edit.new,
            source_prompt=edit.before.prompt,
            prompt=edit.after.prompt,
            seed=job.seed,
            asked={part: name for part, name in edit.after.asked.items() if part in CLOSE_UP},
            end=measure(after, becomes),
            differences=differences(before, after, was, becomes),
            overlap=silhouette_overlap(before, after, was),
            metrics=metrics,
        )
        return record, self._strip(after, becomes)

    def _avatar(self, job: Job) -> RunFolder:
        """The run of the avatar that is edited; made if it is not there, finished if it was interrupted."""
        job = replace(job, preset=BEFORE)
        settings, run = self.settings_of(job), RunFolder(self.folder / self.key(job))
        if not run.finished("optimize"):
            result = optimize(settings, self.theatre.body, self.prior, run_prompts(settings, self.prior), run)
            run.record("optimize", **result.metrics)
        return run

    def _strip(self, pictures: Pictures, truth: Truth) -> Strip:
        views = [self.theatre.stage.index(framing, direction) for framing, direction in STRIP_VIEWS]
        avatar = pictures.on_grey()
        return in_a_row([truth.picture(view) for view in views] + [avatar[view] for view in views])


def make_records(
    settings: LabSettings, prior: StableDiffusionPrior, folder: RecordFolder[EditRecord], avatars: Path
) -> dict[str, EditRecord]:
    """The record of every job of the suite by its key, in the plan's order; those in ``folder`` are not made again, nor
    are the avatars to be edited in ``avatars``.

    Raises:
        UserError: if a run diverges, or a method's name is no preset.
        KeyboardInterrupt: after Ctrl-C; all edits but the one in work are kept.
    """
    maker = Maker(settings, prior, avatars)
    return complete(
        plan(settings.lab.evaluate, settings.seed),
        folder,
        key=maker.key,
        make=maker.make,
        describe=_describe,
        cost=lambda job: settings.optimize.steps if job.preset == BEFORE else settings.lab.evaluate.edit_steps,
        what="edit",
    )


def _describe(job: Job) -> str:
    edit = job.edit
    change = f"{edit.new} {edit.changed}" if job.preset != BEFORE else "the avatar"
    return f"{job.preset}, {change}, seed {job.seed}, “{edit.before.prompt}”"
