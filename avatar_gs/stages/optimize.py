"""``stage=optimize``: makes the avatar's splats, or goes on with them."""

import logging
from dataclasses import replace

from avatar_gs.body.model import load_body
from avatar_gs.console import progress
from avatar_gs.device import choose_device
from avatar_gs.io import RunFolder
from avatar_gs.prior.stable_diffusion import load_prior
from avatar_gs.render.rasterize import require_renderer
from avatar_gs.settings import Settings
from avatar_gs.stages.embed import give_identity
from avatar_gs.stages.preflight import preflight
from avatar_gs.training.initial import load_initial
from avatar_gs.training.loop import optimize
from avatar_gs.training.prompts import run_prompts, source_prompts

LOGGER = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Optimises the run's avatar and records its figures; a finished run is left as it is.

    Raises:
        UserError: if a part is missing or damaged, or the run diverges.
    """
    device = choose_device(settings.device.name)
    require_renderer(device)
    with RunFolder.open(settings.folder, settings.plain(), anew=settings.overwrite) as folder:
        if folder.finished("optimize"):
            LOGGER.info("%s is finished: nothing to do (overwrite=true makes it anew)", folder.path)
            return
        preflight(settings)
        with progress("load the body and the prior"):
            body = load_body(settings.body, device)
            prior = load_prior(settings.prior, device)
        if settings.has_identity:
            give_identity(prior, settings)
            settings = replace(settings, cameras=settings.cameras.for_identity())
        prompts, initial, began_with = run_prompts(settings, prior), None, {}
        if settings.init:
            shown = source_prompts(settings, prior) if settings.guidance.edits else None
            initial = load_initial(settings, body, shown)
            began_with = {"init": settings.init, "init_digest": initial.digest}
        result = optimize(settings, body, prior, prompts, folder, initial=initial)
        folder.record("optimize", seed=settings.seed, prompt=settings.prompt, **began_with, **result.metrics)
        seconds = result.metrics["seconds_per_step"]["total"]
        LOGGER.info("%d splats after %d steps of %.2f s", len(result.model), settings.optimize.steps, seconds)
