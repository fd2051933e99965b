"""Runs a suite and writes its report: ``results.json``, ``results.md`` and ``sheet.png``."""

import logging
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avatar_gs.core.console import format_duration
from avatar_gs.core.images import write_png
from avatar_gs.core.io import write_json, write_text
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites import report as tables
from avatar_gs.lab.suites.claims import ClaimsSuite
from avatar_gs.lab.suites.colours import ColoursSuite
from avatar_gs.lab.suites.config import Suite
from avatar_gs.lab.suites.editing import EditingSuite
from avatar_gs.lab.suites.identity import IdentitySuite
from avatar_gs.lab.suites.methods import MethodsSuite
from avatar_gs.lab.suites.photos.report import likeness_markdown, measure_likeness
from avatar_gs.lab.suites.prior_samples import PriorSuite
from avatar_gs.lab.suites.report import machine
from avatar_gs.lab.suites.scores.report import measure_scores
from avatar_gs.lab.suites.scores.tables import scores_markdown
from avatar_gs.lab.suites.shading import ShadingSuite
from avatar_gs.prior.fingerprint import prior_fingerprint
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior

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


SUITES = {
    Suite.colours: ColoursSuite,
    Suite.identity: IdentitySuite,
    Suite.prior: PriorSuite,
    Suite.shading: ShadingSuite,
    Suite.methods: MethodsSuite,
    Suite.editing: EditingSuite,
    Suite.claims: ClaimsSuite,
}
FULL_GRIDS = {
    Suite.scores: FullGrid(
        ("evaluate.scored_prompts=12", "evaluate.scored_seeds=5"),
        "12 prompts × 5 seeds",
        lambda costs: 12 * 5 * costs["case_seconds"],
    ),
}


def run_suite(settings: LabSettings, prior: StableDiffusionPrior, folder: Path, arguments: Sequence[str]) -> Path:
    """Runs ``settings.lab.suite`` in ``folder`` and returns the report's path.

    Args:
        arguments: the command's, for the report: how to get the same figures again, and the full grid.
    """
    if settings.overwrite and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if settings.lab.suite in SUITES:
        return SUITES[settings.lab.suite](settings, prior, folder).run(arguments)
    run, markdown = {
        Suite.scores: (measure_scores, scores_markdown),
        Suite.likeness: (measure_likeness, likeness_markdown),
    }[settings.lab.suite]
    figures, picture = run(settings, prior, folder)
    results = _results(settings, prior, figures, arguments)
    write_json(folder / "results.json", results)
    write_png(folder / "sheet.png", picture)
    write_text(folder / "results.md", markdown(results))
    return folder / "results.md"


def _results(
    settings: LabSettings, prior: StableDiffusionPrior, figures: dict[str, Any], arguments: Sequence[str]
) -> dict[str, Any]:
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "suite": settings.lab.suite.name,
        "label": tables.LABEL,
        "command": shlex.join(["avatar-gs", *arguments]),
        "seed": settings.seed,
        "machine": machine(prior.device),
        "prior": {"name": prior.name, "fingerprint": prior_fingerprint(prior)},
        "settings": settings.plain(),
        "figures": figures,
    }
    if settings.lab.suite in FULL_GRIDS:
        results["full_grid"] = FULL_GRIDS[settings.lab.suite].plain(figures["costs"], arguments)
    return results
