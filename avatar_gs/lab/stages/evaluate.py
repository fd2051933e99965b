"""``stage=evaluate``: measures the program, in ``outputs/evaluate/<suite>/`` (of ``name``, if it is given)."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from avatar_gs.core.console import progress
from avatar_gs.core.device import choose_device
from avatar_gs.core.errors import UserError
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites.claims import ClaimsSuite
from avatar_gs.lab.suites.colours import ColoursSuite
from avatar_gs.lab.suites.config import SuiteName
from avatar_gs.lab.suites.editing import EditingSuite
from avatar_gs.lab.suites.identity import IdentitySuite
from avatar_gs.lab.suites.judges import JudgesSuite
from avatar_gs.lab.suites.likeness import LikenessSuite
from avatar_gs.lab.suites.methods import MethodsSuite
from avatar_gs.lab.suites.prior_samples import PriorSuite
from avatar_gs.lab.suites.scores import ScoresSuite
from avatar_gs.lab.suites.shading import ShadingSuite
from avatar_gs.lab.suites.suite import Suite
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior, load_prior
from avatar_gs.render.rasterize import require_renderer

LOGGER = logging.getLogger(__name__)
SUITES: dict[SuiteName, type[Suite]] = {
    SuiteName.colours: ColoursSuite,
    SuiteName.identity: IdentitySuite,
    SuiteName.prior: PriorSuite,
    SuiteName.scores: ScoresSuite,
    SuiteName.likeness: LikenessSuite,
    SuiteName.shading: ShadingSuite,
    SuiteName.methods: MethodsSuite,
    SuiteName.claims: ClaimsSuite,
    SuiteName.editing: EditingSuite,
    SuiteName.judges: JudgesSuite,
}


def run(settings: LabSettings) -> None:
    """Run ``suite``, print its report and log where it is. The same command resumes where it was interrupted.

    Raises:
        UserError: the body is not the one that the drawn people have.
    """
    if settings.body.path is not None or settings.body.betas:
        raise UserError(
            "stage=evaluate measures on the packaged free body as it is: leave body.path and body.betas out"
        )
    device = choose_device(settings.device)
    require_renderer(device)
    folder = (settings.folder if settings.name else settings.runs) / "evaluate" / settings.lab.suite.name
    with progress("load the prior"):
        prior = load_prior(settings.prior, device)
    report = run_suite(settings, prior, folder, sys.argv[1:])
    print(report.read_text(encoding="utf-8"))
    LOGGER.info("wrote the report %s, and results.json and sheet.png to the same folder", report)


def run_suite(settings: LabSettings, prior: StableDiffusionPrior, folder: Path, arguments: Sequence[str]) -> Path:
    """Run ``settings.lab.suite`` in ``folder``; return the path of its report.

    Args:
        arguments: the command's, for the report.
    """
    return SUITES[settings.lab.suite](settings, prior, folder).run(arguments)
