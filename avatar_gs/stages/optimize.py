"""``stage=optimize``: optimises the avatar's splats, or resumes."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch

from avatar_gs.body.model import Body, load_body
from avatar_gs.core.console import progress
from avatar_gs.core.device import choose_device
from avatar_gs.core.errors import UserError
from avatar_gs.core.runs import RunFolder
from avatar_gs.prior.config import Compile
from avatar_gs.prior.loading.sources import Source
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior, load_prior
from avatar_gs.render.rasterize import prepare_renderer, require_renderer
from avatar_gs.settings import Settings
from avatar_gs.splats.model import GaussianModel
from avatar_gs.stages.embed import with_embeddings, with_run_identity
from avatar_gs.stages.preflight import preflight
from avatar_gs.training import parallel
from avatar_gs.training.init import load_init
from avatar_gs.training.loop import OnStep, optimize
from avatar_gs.training.prompts import run_prompts

LOGGER = logging.getLogger(__name__)
MORE = "a larger optimize.steps goes on with it, overwrite=true starts it from scratch"


def run(settings: Settings) -> None:
    """Optimise the run's avatar, in one process or several; a finished run is left as it is."""
    device = choose_device(settings.device)
    require_renderer(device)
    with parallel.joined(device), open_folder(settings) as folder:
        if parallel.anywhere(folder.has_optimized(settings.optimize.steps), torch.device(device)):
            LOGGER.info("%s is finished: nothing to do (%s)", folder.path, MORE)
            return
        if parallel.count() > 1 and settings.guidance.chosen.through_adapter:
            raise UserError("guidance=vsd trains an adapter of the prior: give it one process, without torchrun")
        body, prior = load_parts(settings, device, preflight(settings))
        optimize_avatar(settings, body, prior, folder)


def load_parts(
    settings: Settings, device: str, sources: Mapping[str, Source] | None
) -> tuple[Body, StableDiffusionPrior]:
    """Compile the renderer's kernels where necessary, and load the body and the prior (from ``sources``, if given)."""
    with parallel.first_alone():
        prepare_renderer(device)
    with progress("load the body and the prior"):
        return load_body(settings.body, device), load_prior(settings.prior, device, sources)


def optimize_avatar(
    settings: Settings,
    body: Body,
    prior: StableDiffusionPrior,
    folder: RunFolder,
    on_step: OnStep | None = None,
) -> GaussianModel:
    """Optimise the run's avatar from its last checkpoint, and record the run's figures.

    Args:
        settings: the run's.
        body: on the prior's device.
        prior: takes the run's identity, if there is one.
        folder: where checkpoints, previews and figures go.
        on_step: called after every step with the state and the step's report.

    Raises:
        UserError: if a part is missing or damaged, or the run diverges.
        KeyboardInterrupt: after Ctrl-C, once the checkpoint is written.
    """
    faster = prior.accelerate(settings.prior.compile, steps=settings.optimize.steps, batch=settings.optimize.batch)
    if faster is not Compile.never:
        LOGGER.info("networks are made faster from their third call on: prior.compile=%s", faster.name)
    prior = with_embeddings(prior, settings)
    if settings.has_identity:
        prior = with_run_identity(prior, settings)
        settings = replace(settings, cameras=settings.cameras.for_identity())
    config, init, began_with = settings.training, None, {}
    if settings.init:
        init = load_init(config, body)
        began_with = {"init": settings.init, "init_digest": init.digest}
    if parallel.is_first():
        folder.raise_steps(settings.optimize.steps)
    shared = prior if parallel.count() == 1 else parallel.SharedPrior(prior)
    result = optimize(config, body, shared, run_prompts(config, prior), folder, init=init, on_step=on_step)
    if parallel.is_first():
        facts = {"seed": settings.seed, "prompt": settings.prompt, **began_with, **result.metrics}
        folder.record("optimize", **facts, curves=result.curves)
        seconds = result.metrics["seconds_per_step"]["total"]
        LOGGER.info("%d splats after %d steps of %.2f s", len(result.model), settings.optimize.steps, seconds)
    return result.model


@contextmanager
def open_folder(settings: Settings) -> Iterator[RunFolder]:
    """The run's folder. With several processes the first creates it; the others only read it."""
    if parallel.is_first():
        with RunFolder.open(settings.folder, settings.plain(), overwrite=settings.overwrite) as folder:
            parallel.wait()
            yield folder
    else:
        parallel.wait()
        yield RunFolder(settings.folder)
