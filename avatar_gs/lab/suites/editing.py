"""suite=editing: people of whom one thing becomes another, edited by every method that can do it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avatar_gs.core.images import RGBImage
from avatar_gs.core.runs import RunFolder
from avatar_gs.guidance.presets import fitted, named_preset
from avatar_gs.lab.metrics.avatar import Strip, measure, side_by_side
from avatar_gs.lab.metrics.truth import CLOSE_UP
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites import editing_report as report
from avatar_gs.lab.suites.editing_report import BEFORE, EditRecord
from avatar_gs.lab.suites.edits import Edit, differences, edits, silhouette_overlap
from avatar_gs.lab.suites.suite import AvatarSuite, Figures, FullGrid, Job
from avatar_gs.splats.model import GaussianModel
from avatar_gs.training.init import load_init
from avatar_gs.training.loop import optimize
from avatar_gs.training.prompts import run_prompts
from avatar_gs.types import Framing

COMPARED = ("gentle_dds", "gentle_pds", "dds", "pds", "de_sds")
"""The two presets for editing with the packaged prior, the papers' own, and, as a control, the default method, which
follows the new prompt and does not see the old one."""
STRIP_VIEWS = (
    (Framing.BODY, "front"),
    (Framing.BODY, "left"),
    (Framing.BODY, "back"),
    (Framing.HEAD, "front"),
    (Framing.HEAD, "left"),
)
STRIP_LABELS = [f"{framing.value}, {direction}" for framing, direction in STRIP_VIEWS]
TRUTH = "drawn truth"
FULL_PROMPTS, FULL_SEEDS = 12, 3

EditJob = Job[str, Edit]
"""An edit by a preset of ``guidance``, or ``BEFORE``: the avatar to be edited."""


@dataclass(frozen=True)
class Edited:
    """An avatar before and after its edit, and ``training.loop.metrics`` of what made it."""

    before: GaussianModel
    after: GaussianModel
    metrics: dict[str, Any]


class EditingSuite(AvatarSuite[EditJob, Edited, EditRecord]):
    """Edits of held-out people. The avatars to be edited are runs in ``<folder>/avatars``."""

    title = "Editing changes what is asked, and keeps the rest"
    unseen = "outfits"
    full_grid = FullGrid(
        (f"evaluate.edit_prompts={FULL_PROMPTS}", f"evaluate.edit_seeds={FULL_SEEDS}"),
        f"{FULL_PROMPTS} people × {FULL_SEEDS} seeds",
        lambda costs: FULL_PROMPTS * FULL_SEEDS * costs["wall_seconds"] / costs["edits"],
    )
    record = EditRecord
    item = "edit"

    def plan(self) -> Iterator[EditJob]:
        """Edit by edit: the avatar, then each method.

        Raises:
            UserError: for a name that no preset has.
        """
        config = self.settings.lab.evaluate
        presets = config.edit_methods or list(COMPARED)
        for name in presets:
            named_preset(name)
        for index in range(config.edit_seeds):
            for edit in edits(config.edit_prompts):
                for name in (BEFORE, *presets):
                    yield Job(name, edit, self.settings.seed + index)

    def settings_of(self, job: EditJob) -> LabSettings:
        """The command's; for an edit with the method, the number of steps and the avatar to start from."""
        if job.variant == BEFORE:
            return replace(self.settings, prompt=job.subject.before.prompt, seed=job.seed)
        given, steps = self.settings, self.settings.lab.evaluate.edit_steps
        return replace(
            given,
            prompt=job.subject.after.prompt,
            source_prompt=job.subject.before.prompt,
            init=str(self._run(job)),
            seed=job.seed,
            guidance=fitted(named_preset(job.variant), steps),
            optimize=replace(given.optimize, steps=steps),
        )

    def facts(self, job: EditJob) -> list[Any]:
        return [job.variant, job.subject.before.prompt, job.subject.after.prompt, job.seed, self.fingerprint]

    def key(self, job: EditJob) -> str:
        """That of the avatar, and of the edit."""
        before = super().key(replace(job, variant=BEFORE))
        return before if job.variant == BEFORE else f"{before}-{super().key(job)}"

    def cost(self, job: EditJob) -> float:
        steps = self.settings.optimize.steps if job.variant == BEFORE else self.settings.lab.evaluate.edit_steps
        return float(steps)

    def describe(self, job: EditJob) -> str:
        edit = job.subject
        change = f"{edit.new} {edit.changed}" if job.variant != BEFORE else "the avatar"
        return f"{job.variant}, {change}, seed {job.seed}, “{edit.before.prompt}”"

    def _run(self, job: EditJob) -> Path:
        """The run folder of the avatar to be edited."""
        return self.folder / "avatars" / self.key(replace(job, variant=BEFORE))

    def make(self, job: EditJob) -> Edited:
        """Edit the job's avatar. The avatar itself is made if its run is not there, and finished if it was
        interrupted."""
        run = RunFolder(self._run(job))
        if not run.finished("optimize"):
            first = self.settings_of(replace(job, variant=BEFORE))
            result = optimize(first.training, self.body, self.prior, run_prompts(first.training, self.prior), run)
            run.record("optimize", **result.metrics)
        settings = self.settings_of(job)
        initial = load_init(replace(settings, init=str(run.path)).training, self.body)
        if job.variant == BEFORE:
            return Edited(initial.model, initial.model, run.metrics()["optimize"])
        result = optimize(
            settings.training, self.body, self.prior, run_prompts(settings.training, self.prior), init=initial
        )
        return Edited(initial.model, result.model, result.metrics)

    def measure(self, job: EditJob, made: Edited) -> tuple[EditRecord, Strip]:
        """The strip shows ``STRIP_VIEWS`` of the person that the new prompt describes, and of the avatar."""
        edit = job.subject
        was, becomes = self.truth(edit.before), self.truth(edit.after)
        before, after = self.renders(made.before), self.renders(made.after)
        record = EditRecord(
            preset=job.variant,
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
            metrics=made.metrics,
        )
        views, avatar = [self.viewpoints.index(*view) for view in STRIP_VIEWS], after.on_grey()
        return record, side_by_side([becomes.image(view) for view in views] + [avatar[view] for view in views])

    def figures(self, records: Mapping[str, EditRecord]) -> Figures:
        figures = report.summarise(list(records.values()))
        return figures | {"guidance": {name: _settings_in_words(name) for name in figures["rows"] if name != BEFORE}}

    def sheet(self, records: Mapping[str, EditRecord]) -> RGBImage:
        """A row for each method, the first seed's edits side by side; above them the drawn truth of the new prompts."""
        rows: dict[str, list[RGBImage]] = {TRUTH: []}
        columns: list[str] = []
        width = len(STRIP_LABELS)
        for key, record in records.items():
            if record.seed == self.settings.seed:
                strip = self.store.strip(key)
                if record.preset == BEFORE:
                    rows[TRUTH] += strip[:width]
                    columns += [f"{record.new} {record.changed}: {label}" for label in STRIP_LABELS]
                rows.setdefault(record.preset, []).extend(strip[width:])
        return self.grid(list(rows.values()), list(rows), columns, size=112)

    @classmethod
    def sections(cls, results: dict[str, Any]) -> list[str]:
        return report.sections(results)


def _settings_in_words(name: str) -> str:
    config = named_preset(name)
    schedule = config.schedule
    prompts = "from the old prompt to the new" if config.edits else "to the new prompt alone"
    return f"{config.method} {prompts}, s = {config.cfg_scale:g}, t {schedule.t_min:g} to {schedule.t_max:g}"
