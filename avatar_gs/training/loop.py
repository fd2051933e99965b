"""The optimisation: from a body (or an avatar), a prior and prompts to an avatar."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from avatar_gs.body.model import Body
from avatar_gs.core.console import interruptible, progress
from avatar_gs.core.errors import UserError
from avatar_gs.core.images import write_png
from avatar_gs.core.runs import RunFolder
from avatar_gs.guidance.distill import Distilled
from avatar_gs.protocols import Prior
from avatar_gs.splats.model import GaussianModel
from avatar_gs.training import parallel
from avatar_gs.training.config import OptimizeConfig, TrainingConfig
from avatar_gs.training.curves import steps_between
from avatar_gs.training.init import InitAvatar
from avatar_gs.training.noise_field import noise_field
from avatar_gs.training.reports import metrics, preview_sheet, scalar_writer
from avatar_gs.training.scene import Scenes
from avatar_gs.training.state import TrainingState
from avatar_gs.training.step import Report, Trainer, not_finite
from avatar_gs.training.stopwatch import Stopwatch
from avatar_gs.training.watch import WATCH_EVERY, Watch
from avatar_gs.types import Bucket, BucketPrompt

LOGGER = logging.getLogger(__name__)
OnStep = Callable[[TrainingState, Report], None]


@dataclass(frozen=True)
class Result:
    """The avatar, the metrics of its run, and the curves of its steps (``Curves.plain``)."""

    model: GaussianModel
    metrics: dict[str, Any]
    curves: dict[str, Any] = field(default_factory=dict)


def optimize(
    config: TrainingConfig,
    body: Body,
    prior: Prior,
    prompts: Mapping[Bucket, BucketPrompt],
    run: RunFolder | None = None,
    *,
    init: InitAvatar | None = None,
    on_step: OnStep | None = None,
) -> Result:
    """Make an avatar, or finish one: a run whose folder holds a checkpoint resumes from it.

    Args:
        prompts: of every bucket of views, with everything that guidance needs (``training.prompts.run_prompts``).
        run: folder of checkpoints and previews; None: nothing is written. Of several processes (``parallel``), the
            first one writes.
        init: the avatar to start from (``training.init.load_init``); None: the body's surface. Editing methods change
            it by the difference between the ``source`` and the positive prompts.
        on_step: called after every step, for a viewer or a measurement.

    Raises:
        UserError: if the run diverges, or its checkpoint belongs to another run.
        KeyboardInterrupt: after Ctrl-C, once the checkpoint is written.
    """
    trainer = Trainer.build(config, body, prior, prompts, init)
    state = trainer.first_state(body, init)
    if run is not None:
        resume(state, config, run)
    parallel.require_same(prior.device, steps=state.step, splats=len(state.model))
    writes = run if parallel.is_first() else None
    optimization, guard, watch = config.optimize, trainer.guard(), Watch()
    curve_every = steps_between(optimization.steps)
    with (
        Scenes(body, config, prior.image_size, noise_field(config, body, prior)) as scenes,
        scalar_writer(writes, optimization.tensorboard, state.step) as write_scalars,
        interruptible() as interrupt,
        progress("optimize", optimization.steps, start=state.step) as bar,
    ):
        while state.step < optimization.steps:
            with Stopwatch(state.seconds, prior.device)("scene"):
                scene = guard(lambda: scenes.at(state.step))
            report = trainer.step(state, scene)
            stop_if_diverged(state, optimization, report.distilled)
            if is_due(state.step, WATCH_EVERY):
                watch.look(state, report.render)
            if is_due(state.step, curve_every):
                state.curves.add(state.step, {**report.values(), "splats": len(state.model)})
            if writes is not None:
                if optimization.tensorboard:  # reading the scalars synchronises with the device
                    write_scalars(state.step, report.scalars() | {"splats": len(state.model)})
                if is_due(state.step, optimization.preview_every):
                    sheet = guard(partial(preview_sheet, state.model, scenes.preview(), scene, report, prior))
                    write_png(writes.previews / f"step_{state.step:06d}.png", sheet)
                # After the preview, which a run that resumes from here would not draw again.
                if is_due(state.step, optimization.checkpoint_every) or state.step == optimization.steps:
                    state.save(writes.avatar_checkpoint, config)
            if on_step is not None:
                on_step(state, report)
            bar.update(
                state.step,
                splats=len(state.model),
                grad=lambda report=report: float(report.distilled.logs["grad_norm"]),
            )
            if parallel.anywhere(interrupt.requested, prior.device):
                if writes is not None:
                    state.save(writes.avatar_checkpoint, config)
                raise KeyboardInterrupt
            del report, scene  # or their images would be in memory during the next step
    return Result(state.model, metrics(state, prior), state.curves.plain())


def resume(state: TrainingState, config: TrainingConfig, run: RunFolder) -> None:
    """Continue from the run's checkpoint, if there is one."""
    if not run.holds_avatar():
        return
    facts = state.restore(run.avatar_checkpoint, config)
    LOGGER.info("resuming at step %d of %d", state.step, config.optimize.steps)
    if facts["total_steps"] < config.optimize.steps:
        LOGGER.warning(
            "optimize.steps was %d: noise, learning rates and densification go on as at %.0f %% of a run of %d steps, "
            "so the avatar differs from one that was begun with that many",
            facts["total_steps"],
            100 * state.step / config.optimize.steps,
            config.optimize.steps,
        )
    if facts["threads"] != torch.get_num_threads():
        LOGGER.warning(
            "the run started with %d threads and continues with %d: its result is not byte for byte that of threads=%d",
            facts["threads"],
            torch.get_num_threads(),
            facts["threads"],
        )


def is_due(step: int, every: int) -> bool:
    """Whether something that happens every ``every`` steps (0: never) happens after this one."""
    return bool(every) and step % every == 0


def stop_if_diverged(state: TrainingState, config: OptimizeConfig, distilled: Distilled | None = None) -> None:
    """Raise UserError after too many consecutive steps without finite gradients, or a whole run of them.

    Args:
        distilled: of the last step, to report what was not finite.
    """
    if state.bad_in_a_row >= min(config.max_bad_steps, config.steps):
        reason = "" if distilled is None else f" ({not_finite(distilled)})"
        raise UserError(
            f"optimize: no finite gradients in the {state.bad_in_a_row} steps before step {state.step}{reason}, so the "
            "run was stopped; use prior.precision=float32, or lower guidance.cfg_scale or splats.lr.*"
        )
