"""One step: skin, rasterise, guide, regularise, update."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.core.device import all_finite
from avatar_gs.core.seeding import derive_seed, generator
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.distill import Distilled
from avatar_gs.guidance.methods.base import StepInputs
from avatar_gs.prior.memory_guard import MemoryGuard
from avatar_gs.protocols import Prior
from avatar_gs.settings import Settings
from avatar_gs.splats.density import Refinement
from avatar_gs.splats.model import GaussianModel
from avatar_gs.splats.optim import gradients_are_finite, set_learning_rates, step_all, zero_grad_all
from avatar_gs.splats.surface import RestSurface
from avatar_gs.training import parallel
from avatar_gs.training.background import LearnedBackground
from avatar_gs.training.losses import geometry_losses, regulariser_scale, regularisers
from avatar_gs.training.rendering import draw, encoder_at
from avatar_gs.training.scene import Scene
from avatar_gs.training.state import TrainingState
from avatar_gs.training.stopwatch import Stopwatch
from avatar_gs.types import Render

LOGGER = logging.getLogger(__name__)

Drawn = tuple[Render, Float[Tensor, ""]]
"""What was drawn, and the loss of guidance on it, with their graph."""
ADVICE = (
    "free some memory of the device, or make the avatar with a smaller optimize.batch, optimize.supersample or "
    "density.max_splats, or with prior.precision=float16 (name=… or overwrite=true)"
)


@dataclass(frozen=True)
class Report:
    """What one step did, without a graph. ``losses`` are the regularisers' values; guidance is to be watched by its
    gradient's norm. ``render`` is what was drawn before the update (its ``info`` is empty)."""

    distilled: Distilled
    render: Render
    losses: Mapping[str, Float[Tensor, ""]]
    refinement: Refinement
    finite: bool

    def scalars(self) -> dict[str, float]:
        """Everything worth plotting, by name; the host waits for the device once."""
        values = {f"guidance/{name}": value for name, value in self.distilled.logs.items()}
        values |= {f"guidance/loss_{name}": value for name, value in self.distilled.auxiliary.items()}
        values |= {f"loss/{name}": value for name, value in self.losses.items()}
        if not values:
            return {}
        return dict(zip(values, torch.stack([value.double() for value in values.values()]).tolist(), strict=True))


def train_step(
    state: TrainingState,
    scene: Scene,
    settings: Settings,
    prior: Prior,
    conditions: TextConditions,
    surface: RestSurface,
    source: GaussianModel | None = None,
) -> Report:
    """Advance ``state`` by one step. Predictions or gradients that are not finite leave the splats as they are, are
    counted, and the first of several in a row is named in the log.

    Where memory runs out, the part of the step that it ran out in is done again with fewer images per call of the
    prior's networks (``MemoryGuard``): with the same random numbers, and before anything has moved. Nothing that is
    returned or left behind holds a graph.

    ``source``: the avatar that an editing method changes, as it was; it is drawn in the same scene.
    """
    config, clock = settings.optimize, Stopwatch(state.seconds, prior.device)
    again = MemoryGuard(prior, config.batch, ADVICE)
    graph: list[Drawn] = []
    distilled, render = again(
        lambda: guide(state, scene, settings, prior, conditions, source, graph), undo=state.guidance.remember()
    )
    finite, refinement = True, Refinement()
    if distilled.warming_up:
        with torch.no_grad():
            values = detached(all_losses(state, scene, settings, render, regulariser_scale(prior)))
        finite = all_finite([distilled.magnitude])
    else:
        with clock("backward"):
            drawn, values = again(
                lambda: descend(state, scene, settings, prior, distilled, graph), undo=lambda: drop_gradients(state)
            )
            parallel.average(gradients(state, drawn))
        with clock("update"):
            finite = gradients_are_finite(state.optimizers, distilled.magnitude)
            if finite:
                learn_background(state)
            refinement = update(state, settings, surface, drawn if finite else None)
        del drawn
        for _ in range(settings.guidance.inner_steps - 1 if finite else 0):
            with clock("refit"):
                refit(state, scene, settings, prior, distilled, again)
    state.step += 1
    state.prior_calls += distilled.prior_calls
    if not finite and not state.bad_in_a_row:
        LOGGER.warning("step %d is skipped: %s", state.step, not_finite(distilled))
    state.bad_in_a_row = 0 if finite else state.bad_in_a_row + 1
    state.bad_steps += not finite
    return Report(distilled, render, values, refinement, finite)


def not_finite(distilled: Distilled) -> str:
    """What of a step was not finite first, in words."""
    if not all_finite([distilled.target]):
        return "the VAE's encoder gave latents that are NaN or infinite"
    if not all_finite([distilled.magnitude]):
        return "UNet or ControlNet gave predictions that are NaN or infinite"
    return "gradients of the splats are NaN or infinite"


def guide(
    state: TrainingState,
    scene: Scene,
    settings: Settings,
    prior: Prior,
    conditions: TextConditions,
    source: GaussianModel | None,
    graph: list[Drawn],
) -> tuple[Distilled, Render]:
    """What guidance asks of the avatar in a scene, and how it looks there, both without a graph. The graph of the loss
    is put into ``graph``; while guidance warms up there is none, because nothing goes backward then."""
    graph.clear()
    step, total, clock = state.step, settings.optimize.steps, Stopwatch(state.seconds, prior.device)
    with torch.set_grad_enabled(not state.guidance.warming_up(step, total)):
        with clock("render"):
            render = draw(state.model, scene, settings.optimize.supersample, state.background)
            state.strategy.before_backward(render.info)
        with clock("encode"):
            latents = encoder_at(prior, step / total)(render.rgb)
    before = None
    if source is not None:
        with clock("source"):
            before = encoded(source, scene, settings, prior, state.background, step / total)
    with clock("prior"):
        inputs = StepInputs(
            conditions=conditions.batch(scene.buckets),
            buckets=scene.buckets,
            step=step,
            total=total,
            generator=generator(settings.seed, step, "guidance"),
            control=scene.pose_maps,
            images=render.rgb,
            source=before,
            cameras=scene.views.cameras.T_camera_world.flatten(1).to(latents),
        )
        distilled = state.guidance.step(latents, inputs)
    if not distilled.warming_up:
        graph.append((render, distilled.loss))
    return distilled.detached(), render.detached()


def descend(
    state: TrainingState,
    scene: Scene,
    settings: Settings,
    prior: Prior,
    distilled: Distilled,
    graph: list[Drawn],
) -> tuple[Render, dict[str, Tensor]]:
    """The backward pass of guidance and regularisers through what ``graph`` holds, which is taken out: it lasts for one
    pass. Where it is empty, the avatar is drawn and encoded as it is now. Returns the render, and the regularisers'
    values."""
    if graph:
        render, loss = graph.pop()
    else:
        render = draw(state.model, scene, settings.optimize.supersample, state.background)
        state.strategy.before_backward(render.info)
        encode = encoder_at(prior, state.step / settings.optimize.steps)
        loss = distilled.refit(encode(render.rgb), render.rgb)
    losses = all_losses(state, scene, settings, render, regulariser_scale(prior))
    sum(losses.values(), start=loss).backward()
    return render, detached(losses)


@torch.no_grad()
def encoded(
    model: GaussianModel,
    scene: Scene,
    settings: Settings,
    prior: Prior,
    background: LearnedBackground | None = None,
    progress: float = 1.0,
) -> Float[Tensor, "B c h w"]:
    """The latents of an avatar in a scene, without gradients, as they are encoded at ``progress`` of a run."""
    return encoder_at(prior, progress)(draw(model, scene, settings.optimize.supersample, background).rgb)


def all_losses(
    state: TrainingState, scene: Scene, settings: Settings, render: Render, scale: int
) -> dict[str, Float[Tensor, ""]]:
    """The weighted losses beside guidance, by name; ``scale`` is the factor of every one (``regulariser_scale``)."""
    config = settings.optimize
    losses = regularisers(config.losses, state.model, render.alpha, state.strategy.unit, scale=scale)
    return losses | geometry_losses(
        config.geometry,
        state.model,
        scene,
        render.alpha,
        supersample=config.supersample,
        progress=state.step / config.steps,
        scale=scale,
    )


def gradients(state: TrainingState, render: Render) -> list[Tensor | None]:
    """All that a backward pass has left for the update: of splats, of what the background paints, and the screen
    positions' for densification, where they were kept."""
    learned = [] if state.background is None else state.background.network.parameters()
    parameters = [*state.model.params.values(), *learned]
    screen = render.info["means2d"]
    # of one drawing the screen positions retain a gradient; those of views that were lit one by one are a leaf
    kept = screen.is_leaf or screen.retains_grad
    return [*(parameter.grad for parameter in parameters), screen.grad if kept else None]


def learn_background(state: TrainingState) -> None:
    """Move what the learned background paints by its gradients, where it was seen."""
    if state.background is not None:
        state.background.update()


def drop_gradients(state: TrainingState) -> None:
    """Forget what a backward pass has left."""
    zero_grad_all(state.optimizers)
    if state.background is not None:
        state.background.optimizer.zero_grad(set_to_none=True)


def refit(
    state: TrainingState, scene: Scene, settings: Settings, prior: Prior, distilled: Distilled, again: MemoryGuard
) -> None:
    """Move the splats further towards what this step's guidance asked for, as they look now; the prior is not asked
    again, and densification counts the step once."""
    render, _ = again(lambda: descend(state, scene, settings, prior, distilled, []), undo=lambda: drop_gradients(state))
    parallel.average(gradients(state, render))
    learn_background(state)
    if gradients_are_finite(state.optimizers):
        move(state)
    else:
        zero_grad_all(state.optimizers)


def detached(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Losses without their graph, still on their device."""
    return {name: value.detach() for name, value in losses.items()}


def move(state: TrainingState) -> None:
    """One step of every optimiser and of the colours' smoothing, back into range."""
    step_all(state.optimizers, state.damping)
    state.smoother.step(state.model, state.optimizers["sh0"].param_groups[0]["lr"])
    state.model.constrain()


def update(state: TrainingState, settings: Settings, surface: RestSurface, render: Render | None) -> Refinement:
    """Move the splats by their gradients (``render=None``: drop them), then densify and prune if it is due."""
    if render is None:
        zero_grad_all(state.optimizers)
    else:
        set_learning_rates(state.optimizers, settings.splats.lr, state.step / settings.optimize.steps)
        move(state)
    split_seed = derive_seed(settings.seed, state.step, "split")
    info = None if render is None else render.info
    refinement = state.strategy.after_step(state.model, state.optimizers, state.step, info, split_seed)
    if refinement != Refinement() or (state.step + 1) % settings.optimize.surface_every == 0:
        parallel.require_same(state.model.device, splats=len(state.model))
        parallel.follow_first(state.model.params.values())
        surface.refresh(state.model)
        state.smoother.refresh(state.model)
    return refinement
