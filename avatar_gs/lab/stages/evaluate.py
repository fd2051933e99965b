"""``stage=evaluate``: measures the program (see ``suite``), in ``outputs/<name or evaluate>/``."""

import logging
import sys

from avatar_gs.core.console import progress
from avatar_gs.core.device import choose_device
from avatar_gs.core.errors import UserError
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites.suites import run_suite
from avatar_gs.prior.stable_diffusion import load_prior
from avatar_gs.render.rasterize import require_renderer
from avatar_gs.settings import OUTPUTS

LOGGER = logging.getLogger(__name__)


def run(settings: LabSettings) -> None:
    """Runs the suite, prints its tables, and says where they are. The same command goes on where it was interrupted.

    Raises:
        UserError: for another body than the one that the measured people are made of.
    """
    if settings.body.path is not None or settings.body.betas:
        raise UserError(
            "stage=evaluate measures on the packaged free body as it is: leave body.path and body.betas out"
        )
    device = choose_device(settings.device.name)
    require_renderer(device)
    folder = (settings.folder if settings.name else OUTPUTS) / "evaluate" / settings.lab.suite.name
    with progress("load the prior"):
        prior = load_prior(settings.prior, device)
    report = run_suite(settings, prior, folder, sys.argv[1:])
    print(report.read_text(encoding="utf-8"))
    LOGGER.info("the report is %s, with results.json and sheet.png beside it", report)
