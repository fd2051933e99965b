"""The optimisation: from a body (or an avatar), a prior and a prompt to an avatar."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from avatar_gs.body.model import Body
from avatar_gs.core.console import interruptible, progress
from avatar_gs.core.device import peak_resident_memory
from avatar_gs.core.errors import UserError
from avatar_gs.core.runs import RunFolder
from avatar_gs.core.seeding import generator
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.distill import Distilled, build_guidance
from avatar_gs.prior.memory_guard import MemoryGuard
from avatar_gs.protocols import Prior
from avatar_gs.settings import Settings
from avatar_gs.splats.model import GaussianModel
from avatar_gs.splats.surface import RestSurface, surface_splats
from avatar_gs.training import parallel
from avatar_gs.training.background import LearnedBackground
from avatar_gs.training.config import Background
from avatar_gs.training.init import InitAvatar
from avatar_gs.training.reports import preview_sheet, scalar_writer, write_preview
from avatar_gs.training.scene import prepared_scenes
from avatar_gs.training.state import CHECKPOINT, TrainingState
from avatar_gs.training.step import ADVICE, Report, not_finite, train_step
from avatar_gs.training.stopwatch import Stopwatch
from avatar_gs.types import Bucket, BucketPrompt

LOGGER = logging.getLogger(__name__)
OnStep = Callable[[TrainingState, Report], None]


@dataclass(frozen=True)
class Result:
    """The avatar, and the figures of the run that made it."""

    model: GaussianModel
    metrics: dict[str, Any]


def optimize(
    settings: Settings,
    body: Body,
    prior: Prior,
    prompts: Mapping[Bucket, BucketPrompt],
    run: RunFolder | None = None,
    *,
    initial: InitAvatar | None = None,
    on_step: OnStep | None = None,
) -> Result:
    """Make an avatar, or finish one: a run whose folder holds a checkpoint goes on from there.

    Args:
        prompts: of every bucket of views, with all that guidance needs (``training.prompts.run_prompts``).
        run: where checkpoints and previews go; without it nothing is written. Of several processes (``parallel``)
            the first writes.
        initial: the avatar to begin with (``training.init.load_init``); without it the body's surface. Editing
            methods change it by the difference between the ``source`` and the positive prompts.
        on_step: called after every step; for a viewer or a measurement.

    Raises:
        UserError: if the run diverges, or its checkpoint belongs to another run.
        KeyboardInterrupt: after Ctrl-C, once the checkpoint is written.
    """
    source = initial if settings.guidance.edits else None
    conditions = TextConditions.encode(prior, prompts)
    rest = body.rest()
    surface = RestSurface(rest)
    state = first_state(settings, body, prior, conditions, initial)
    if run is not None:
        resume(state, settings, run)
    parallel.require_same(prior.device, steps=state.step, splats=len(state.model))
    writes = run if parallel.is_first() else None
    config, total = settings.optimize, settings.optimize.steps
    again = MemoryGuard(prior, config.batch, ADVICE)
    arguments = body, config, settings.cameras, settings.prior.prompts
    with (
        prepared_scenes(*arguments, size=prior.image_size, seed=settings.seed) as scenes,
        scalar_writer(writes, config.tensorboard, state.step) as write_scalars,
        interruptible() as interrupt,
        progress("optimize", total, start=state.step) as bar,
    ):
        while state.step < total:
            with Stopwatch(state.seconds, prior.device)("scene"):
                scene = again(lambda: scenes.at(state.step))
            report = train_step(state, scene, settings, prior, conditions, surface, source and source.model)
            stop_if_diverged(state, settings, report.distilled)
            if writes is not None and config.tensorboard:  # else nobody waits for the device
                write_scalars(state.step, report.scalars() | {"splats": len(state.model)})
            if writes is not None:
                keep(state, settings, writes)
                if config.preview_every and state.step % config.preview_every == 0:
                    sheet = again(partial(preview_sheet, state.model, scenes.preview(), scene, report, prior))
                    write_preview(writes.previews / f"step_{state.step:06d}.png", sheet)
            if on_step is not None:
                on_step(state, report)
            bar.update(
                state.step,
                splats=len(state.model),
                grad=lambda report=report: float(report.distilled.logs["grad_norm"]),
            )
            if parallel.anywhere(interrupt.requested, prior.device):
                if writes is not None:
                    checkpoint(state, settings, writes)
                raise KeyboardInterrupt
            del report, scene  # or their images would be in memory while the next step is taken
    return Result(state.model, metrics(state, prior))


def first_state(
    settings: Settings, body: Body, prior: Prior, conditions: TextConditions, initial: InitAvatar | None = None
) -> TrainingState:
    """The avatar before the first step: ``initial``, or a grey one."""
    guidance = build_guidance(settings.guidance, prior, conditions)
    splats, density, total = settings.splats, settings.density, settings.optimize.steps
    background = learned_background(settings, prior.device)
    if settings.guidance.edits:
        density = replace(density, enabled=density.enabled and density.editing)
        # what an edit leaves alone has no gradient that would hold it against smoothing
        splats = replace(splats, smoothing=replace(splats.smoothing, strength=0.0))
    if initial is None:
        begin = generator(settings.seed, 0, "splats")
        model = surface_splats(settings.splats, body.rest(), body.weights, begin).to(prior.device)
        return TrainingState.start(model, splats, density, guidance, total, background=background)
    model = initial.copy(settings.splats).to(prior.device)
    state = TrainingState.start(model, splats, density, guidance, total, initial.digest, background)
    state.strategy.load_tensors({"unit": initial.unit})
    if settings.guidance.edits:
        state.damping = splats.edit_damping
    return state


def learned_background(settings: Settings, device: torch.device) -> LearnedBackground | None:
    """The background before the first step, if it is to be learned."""
    if settings.optimize.background is not Background.learned:
        return None
    return LearnedBackground(settings.optimize.environment, settings.seed, device)


def resume(state: TrainingState, settings: Settings, run: RunFolder) -> None:
    """Go on from the run's checkpoint if there is one, and say so."""
    path = run.checkpoints / CHECKPOINT
    if not path.exists():
        return
    facts = state.restore(path, settings.splats, seed=settings.seed, total_steps=settings.optimize.steps)
    LOGGER.info("resuming at step %d of %d", state.step, settings.optimize.steps)
    if facts["threads"] != torch.get_num_threads():
        LOGGER.warning(
            "the run began with %d threads and goes on with %d: it will not end with the same bytes (threads=%d would)",
            facts["threads"],
            torch.get_num_threads(),
            facts["threads"],
        )


def keep(state: TrainingState, settings: Settings, run: RunFolder) -> None:
    """Write the checkpoint if it is due, or the run at its end."""
    every, total = settings.optimize.checkpoint_every, settings.optimize.steps
    if state.step == total or (every and state.step % every == 0):
        checkpoint(state, settings, run)


def checkpoint(state: TrainingState, settings: Settings, run: RunFolder) -> None:
    """Replace the run's checkpoint."""
    state.save(run.checkpoints / CHECKPOINT, seed=settings.seed, total_steps=settings.optimize.steps)


def stop_if_diverged(state: TrainingState, settings: Settings, distilled: Distilled | None = None) -> None:
    """Raises UserError after too many steps in a row without finite gradients, or a whole run of them.

    Args:
        distilled: of the last step, to say what was not finite.
    """
    if state.bad_in_a_row >= min(settings.optimize.max_bad_steps, settings.optimize.steps):
        reason = "" if distilled is None else f" ({not_finite(distilled)})"
        raise UserError(
            f"optimize: no finite gradients in the {state.bad_in_a_row} steps before step {state.step}{reason}, so the "
            "run was stopped; use prior.precision=float32, or lower guidance.cfg_scale or splats.lr.*"
        )


def metrics(state: TrainingState, prior: Prior) -> dict[str, Any]:
    """The figures of a run: seconds a step by part, splats, prior calls, peak memory."""
    state.seconds.settle()
    per_step = {part: round(seconds / max(state.step, 1), 5) for part, seconds in state.seconds.items()}
    return {
        "steps": state.step,
        "splats": len(state.model),
        "seconds_per_step": per_step | {"total": round(sum(state.seconds.values()) / max(state.step, 1), 5)},
        "prior_calls": state.prior_calls,
        "skipped_steps": state.bad_steps,
        "peak_memory_mib": peak_memory_mib(prior.device),
    }


def peak_memory_mib(device: torch.device) -> dict[str, float]:
    """The largest resident size of this process so far, and of its tensors on the GPU."""
    peak = {"host": round(peak_resident_memory() / 2**20, 1)}
    if device.type == "cuda":
        peak["gpu"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return peak
