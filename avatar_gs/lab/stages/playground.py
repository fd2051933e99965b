"""``stage=playground``: optimise one image instead of an avatar, to see what a guidance method does, step by step.

No settings are saved, as in ``stage=preview``. A sweep (``-m guidance=sds,nfsd``) gets a sheet of its runs' final
images in their common folder.
"""

import logging

from avatar_gs.body.model import load_body
from avatar_gs.core.console import progress
from avatar_gs.core.device import choose_device
from avatar_gs.core.runs import RunFolder
from avatar_gs.lab.playground.fields import holds_latents
from avatar_gs.lab.playground.figures import write_sweep_sheet
from avatar_gs.lab.playground.session import FINAL, chosen_methods, load_image, play_all
from avatar_gs.lab.settings import LabSettings
from avatar_gs.prior.stable_diffusion import load_prior
from avatar_gs.render.rasterize import require_renderer
from avatar_gs.stages.embed import with_run_identity
from avatar_gs.stages.estimate import SingleImage
from avatar_gs.stages.preflight import preflight

LOGGER = logging.getLogger(__name__)

FOLDER = "playground"


def run(settings: LabSettings) -> None:
    """Write ``outputs/<name>/playground/`` (see ``playground.session.play_all``).

    Raises:
        UserError: if a part or the image is missing or damaged, or an editing method has nothing to edit.
        KeyboardInterrupt: after Ctrl-C, once the results so far are written.
    """
    device = choose_device(settings.device)
    require_renderer(device)  # pose maps need the body's depth
    guidances = chosen_methods(settings)  # mistakes are reported before the prior is loaded
    if settings.lab.playground.image:
        load_image(settings.lab.playground.image, 1)
    methods = tuple(guidance.chosen for guidance in guidances.values())
    through_encoder = not holds_latents(settings.lab.playground.field)
    sources = preflight(settings, SingleImage(methods, through_encoder=through_encoder))
    with progress("load the body and the prior"):
        body = load_body(settings.body, device)
        prior = load_prior(settings.prior, device, sources)
    prior = with_run_identity(prior, settings)
    folder = RunFolder(settings.folder) / FOLDER
    play_all(settings, prior, body, folder)
    LOGGER.info("wrote %s", folder)
    if "=" in settings.folder.name:  # one of a sweep's runs
        sheet = write_sweep_sheet(settings.folder.parent, f"{FOLDER}/{FINAL}")
        if sheet is not None:
            LOGGER.info("wrote %s", sheet)
