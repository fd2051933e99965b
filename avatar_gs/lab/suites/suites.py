"""Runs a suite and writes its report: ``results.json``, ``results.md`` and ``sheet.png``."""

import logging
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avatar_gs.core.console import format_duration, progress
from avatar_gs.core.errors import UserError
from avatar_gs.core.images import RGBImage, contact_sheet, write_png
from avatar_gs.core.io import write_json, write_text
from avatar_gs.lab.metrics.avatar import STRIP_LABELS
from avatar_gs.lab.metrics.colours import wilson_lower_bound
from avatar_gs.lab.metrics.likeness import load_judges
from avatar_gs.lab.scorer.model import load_scorer
from avatar_gs.lab.suites import tables
from avatar_gs.lab.suites.claims.report import claims_markdown, measure_claims
from avatar_gs.lab.suites.colours import make_records
from avatar_gs.lab.suites.config import Suite
from avatar_gs.lab.suites.editing import report as editing
from avatar_gs.lab.suites.folder import RecordFolder
from avatar_gs.lab.suites.identity.report import measure_identity
from avatar_gs.lab.suites.identity.tables import identity_markdown
from avatar_gs.lab.suites.machine import machine
from avatar_gs.lab.suites.methods.report import (
    FULL_PROMPTS,
    FULL_SEEDS,
    FULL_STEPS,
    full_seconds,
    measure_methods,
    methods_markdown,
)
from avatar_gs.lab.suites.photos.report import likeness_markdown, measure_likeness
from avatar_gs.lab.suites.records import Kind, Record
from avatar_gs.lab.suites.scores.report import measure_scores
from avatar_gs.lab.suites.scores.tables import scores_markdown
from avatar_gs.lab.suites.shading.report import measure_shading, shading_markdown
from avatar_gs.lab.suites.summary import summarise
from avatar_gs.lab.world import measure
from avatar_gs.lab.world.dataset import SIZE
from avatar_gs.lab.world.trials import Trial, trials
from avatar_gs.prior.fingerprint import prior_fingerprint
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.settings import Settings

LOGGER = logging.getLogger(__name__)
SCHEMA = 1
SHEET_SAMPLES = 32
SAMPLE_STEPS, SAMPLE_CFG_SCALE = 20, 4.0


@dataclass(frozen=True)
class FullGrid:
    """The size at which a suite's figures are sure, and what it takes from those of a smaller one."""

    overrides: tuple[str, ...]
    size: str
    seconds: Callable[[dict[str, Any]], float]
    """From the smaller suite's costs."""

    def plain(self, costs: dict[str, Any], arguments: Sequence[str]) -> dict[str, str]:
        replaced = {override.split("=")[0] for override in self.overrides}
        others = [argument for argument in arguments if argument.split("=")[0] not in replaced]
        return {
            "command": shlex.join(["avatar-gs", *others, *self.overrides]),
            "note": f"{self.size}, about {format_duration(self.seconds(costs))} at this speed",
        }


FULL_GRIDS = {
    Suite.colours: FullGrid(
        ("evaluate.prompts=24", "evaluate.seeds=3"),
        "24 prompts × 3 seeds",
        lambda costs: 24 * 3 * costs["seconds"]["mean"],
    ),
    Suite.identity: FullGrid(
        ("evaluate.people=20", "evaluate.seeds=3"),
        "20 people × 3 seeds",
        lambda costs: 20 * 3 * costs["person_seconds"],
    ),
    Suite.methods: FullGrid(
        (
            f"evaluate.method_prompts={FULL_PROMPTS}",
            f"evaluate.method_seeds={FULL_SEEDS}",
            f"evaluate.method_steps={FULL_STEPS}",
        ),
        f"{FULL_PROMPTS} prompts × {FULL_SEEDS} seeds × {FULL_STEPS} steps",
        full_seconds,
    ),
    Suite.scores: FullGrid(
        ("evaluate.scored_prompts=12", "evaluate.scored_seeds=5"),
        "12 prompts × 5 seeds",
        lambda costs: 12 * 5 * costs["case_seconds"],
    ),
    Suite.editing: FullGrid(
        (f"evaluate.edit_prompts={editing.FULL_PROMPTS}", f"evaluate.edit_seeds={editing.FULL_SEEDS}"),
        f"{editing.FULL_PROMPTS} people × {editing.FULL_SEEDS} seeds",
        editing.full_seconds,
    ),
}


def run_suite(settings: Settings, prior: StableDiffusionPrior, folder: Path, arguments: Sequence[str]) -> Path:
    """Runs ``settings.suite`` in ``folder`` and returns the report's path.

    Args:
        arguments: the command's, for the report: how to get the same figures again, and the full grid.
    """
    if settings.overwrite and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    run, markdown = {
        Suite.colours: (_colours, tables.colours_markdown),
        Suite.identity: (_identity, identity_markdown),
        Suite.prior: (_prior, tables.prior_markdown),
        Suite.methods: (_methods, methods_markdown),
        Suite.claims: (_claims, claims_markdown),
        Suite.shading: (measure_shading, shading_markdown),
        Suite.scores: (measure_scores, scores_markdown),
        Suite.likeness: (measure_likeness, likeness_markdown),
        Suite.editing: (editing.measure_editing, editing.editing_markdown),
    }[settings.suite]
    figures, picture = run(settings, prior, folder)
    results = _results(settings, prior, figures, arguments)
    write_json(folder / "results.json", results)
    write_png(folder / "sheet.png", picture)
    write_text(folder / "results.md", markdown(results))
    return folder / "results.md"


def _results(
    settings: Settings, prior: StableDiffusionPrior, figures: dict[str, Any], arguments: Sequence[str]
) -> dict[str, Any]:
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "suite": settings.suite.name,
        "label": tables.LABEL,
        "command": shlex.join(["avatar-gs", *arguments]),
        "seed": settings.seed,
        "machine": machine(prior.device),
        "prior": {"name": prior.name, "fingerprint": prior_fingerprint(prior)},
        "settings": settings.plain(),
        "figures": figures,
    }
    if settings.suite in FULL_GRIDS:
        results["full_grid"] = FULL_GRIDS[settings.suite].plain(figures["costs"], arguments)
    return results


def _identity(settings: Settings, prior: StableDiffusionPrior, folder: Path) -> tuple[dict[str, Any], RGBImage]:
    return measure_identity(settings, prior, load_judges(), folder)


def _methods(settings: Settings, prior: StableDiffusionPrior, folder: Path) -> tuple[dict[str, Any], RGBImage]:
    return measure_methods(settings, prior, load_scorer(), folder)


def _claims(settings: Settings, prior: StableDiffusionPrior, folder: Path) -> tuple[dict[str, Any], RGBImage]:
    return measure_claims(settings, prior, load_scorer(), folder)


def _colours(settings: Settings, prior: StableDiffusionPrior, folder: Path) -> tuple[dict[str, Any], RGBImage]:
    kept = RecordFolder(folder / "avatars", Record.of_plain)
    records = make_records(settings, prior, kept)
    rows = [kept.strip(key) for key in records]
    labels = [_label(record) for record in records.values()]
    title = f"suite=colours, seed {settings.seed}: {tables.LABEL}"
    picture = contact_sheet(rows, row_labels=labels, column_labels=STRIP_LABELS, title=title, size=128)
    return {**summarise(list(records.values())), "avatars": list(records)}, picture


def _label(record: Record) -> str:
    asked = ", ".join(f"{name} {part}" for part, name in record.asked.items())
    return asked if record.kind is Kind.AVATAR else f"{record.kind.value}: {asked}"


def _prior(settings: Settings, prior: StableDiffusionPrior, folder: Path) -> tuple[dict[str, Any], RGBImage]:
    """2D samples for held-out prompts, scored by ``mini.measure``.

    Raises:
        UserError: for a prior of another picture size than the measured people are drawn in.
    """
    if prior.image_size != SIZE:
        raise UserError(
            f"suite=prior: prior={prior.name} draws pictures of {prior.image_size} pixels, expected {SIZE}: "
            "give prior=mini, or suite=colours"
        )
    began = time.monotonic()
    with progress("draw the truth of held-out prompts"):
        some = trials(settings.evaluate.samples, settings.seed)
    with progress("sample", len(some)) as bar:
        pictures = measure.draw(
            prior,
            some,
            seed=settings.seed,
            steps=SAMPLE_STEPS,
            cfg_scale=SAMPLE_CFG_SCALE,
            pose_scale=settings.evaluate.pose_scale,
            on_batch=bar.update,
        )
    with progress("score"):
        scores = measure.score(some, pictures)
    figures = {
        "samples": len(some),
        "steps": SAMPLE_STEPS,
        "cfg_scale": SAMPLE_CFG_SCALE,
        "pose_scale": settings.evaluate.pose_scale,
        "scores": {name: row | {"wilson": _wilson(name, row)} for name, row in scores.items()},
        "seconds": time.monotonic() - began,
    }
    return figures, _samples_sheet(some[:SHEET_SAMPLES], pictures, settings.seed)


def _wilson(name: str, row: dict[str, float]) -> float | None:
    """The lower bound of a share; an overlap is no share."""
    return None if "IoU" in name else wilson_lower_bound(round(row["mean"] * row["n"]), int(row["n"]))


def _samples_sheet(some: list[Trial], pictures: np.ndarray, seed: int) -> RGBImage:
    """Pose map, truth and sample of each prompt."""

    def cell(picture: np.ndarray) -> RGBImage:
        return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)

    rows = [[cell(trial.control), cell(trial.truth), cell(pictures[i])] for i, trial in enumerate(some)]
    half = -(-len(rows) // 2)
    paired = [row + (rows[half + i] if half + i < len(rows) else []) for i, row in enumerate(rows[:half])]
    labels = ["pose map", "truth", "sample"] * (2 if len(rows) > half else 1)
    return contact_sheet(paired, column_labels=labels, title=f"suite=prior, seed {seed}: {tables.LABEL}", size=128)
