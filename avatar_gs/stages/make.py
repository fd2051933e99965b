"""Makes an avatar from start to end: the work of ``stage=all`` and of ``avatar_gs.make``."""

import logging

from avatar_gs.body.model import Body, load_body
from avatar_gs.core.device import choose_device
from avatar_gs.core.runs import RunFolder
from avatar_gs.export.writer import require_packages
from avatar_gs.render.rasterize import require_renderer
from avatar_gs.settings import Settings
from avatar_gs.splats.model import GaussianModel
from avatar_gs.stages.all import is_exported
from avatar_gs.stages.embed import learn_person
from avatar_gs.stages.estimate import Task
from avatar_gs.stages.export import shown_avatar, write_files
from avatar_gs.stages.optimize import load_parts, optimize_avatar
from avatar_gs.stages.preflight import preflight
from avatar_gs.training.loop import OnStep

LOGGER = logging.getLogger(__name__)


def make_avatar(settings: Settings, *, on_step: OnStep | None = None) -> tuple[GaussianModel, Body]:
    """Learn the person, optimise the splats and write the files; what an earlier run has finished is not repeated.

    Body and prior are loaded once.

    Args:
        settings: resolved (``cli.compose.resolve``).
        on_step: called after every optimisation step with the state and the step's report.

    Returns:
        The avatar, and the body that it is bound to, on the run's device.

    Raises:
        UserError: if a part is missing or damaged, a photo is unusable, or the run diverges.
        KeyboardInterrupt: after Ctrl-C, once the checkpoint is written; the same call resumes.
    """
    device = choose_device(settings.device)
    require_renderer(device)
    require_packages(settings.export)
    with RunFolder.open(settings.folder, settings.plain(), overwrite=settings.overwrite) as folder:
        finished = folder.has_optimized(settings.optimize.steps)
        if finished:
            body = load_body(settings.body, device)
        else:
            learns = settings.has_identity and not folder.finished("embed")
            sources = preflight(settings, *([Task.embed] if learns else []), Task.optimize)
            body, prior = load_parts(settings, device, sources)
            if learns:
                learn_person(settings, prior, folder)
            optimize_avatar(settings, body, prior, folder, on_step)
        model = shown_avatar(settings, folder, body)
        if not finished or not is_exported(folder, settings):
            write_files(settings, model, body, folder)
    return model, body
