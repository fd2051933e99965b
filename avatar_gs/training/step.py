"""One step: render, encode, guide, regularise, update."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.body.model import Body
from avatar_gs.core.device import all_finite
from avatar_gs.core.seeding import derive_seed, generator
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.distill import Distilled, build_guidance
from avatar_gs.guidance.methods.base import StepInputs
from avatar_gs.prior.memory_guard import MemoryGuard
from avatar_gs.protocols import Prior
from avatar_gs.splats.density import DistillationStrategy, Refinement
from avatar_gs.splats.model import GaussianModel
from avatar_gs.splats.optim import build_optimizers, set_learning_rates
from avatar_gs.splats.smoothing import ColorSmoother
from avatar_gs.splats.surface import RestSurface, surface_splats
from avatar_gs.training import parallel
from avatar_gs.training.background import LearnedBackground
from avatar_gs.training.config import Background, TrainingConfig
from avatar_gs.training.init import InitAvatar
from avatar_gs.training.losses import geometry_losses, regulariser_scale, regularisers
from avatar_gs.training.rendering import encoder_at, render_scene
from avatar_gs.training.scene import Scene
from avatar_gs.training.state import TrainingState
from avatar_gs.training.stopwatch import Stopwatch
from avatar_gs.types import Bucket, BucketPrompt, Render

LOGGER = logging.getLogger(__name__)

Guided = tuple[Render, Float[Tensor, ""]]
"""A render and the guidance loss on it, with their graph."""
ADVICE = (
    "free some memory of the device, or make the avatar with a smaller optimize.batch, optimize.supersample or "
    "density.max_splats, or with prior.precision=float16 (name=… or overwrite=true)"
)


@dataclass(frozen=True)
class Report:
    """The results of one step, without a graph."""

    distilled: Distilled
    render: Render
    """Before the update; its ``info`` is empty."""
    losses: Mapping[str, Float[Tensor, ""]]
    """Values of the regularisers. Guidance's loss is not among them: its gradient's norm is informative instead."""
    refinement: Refinement
    finite: bool

    def values(self) -> dict[str, Float[Tensor, ""]]:
        """Everything worth plotting, by name, on the device."""
        values = {f"guidance/{name}": value for name, value in self.distilled.logs.items()}
        values |= {f"guidance/loss_{name}": value for name, value in self.distilled.auxiliary.items()}
        return values | {f"loss/{name}": value for name, value in self.losses.items()}

    def scalars(self) -> dict[str, float]:
        """``values`` as numbers; synchronises with the device once."""
        values = self.values()
        if not values:
            return {}
        return dict(zip(values, torch.stack([value.double() for value in values.values()]).tolist(), strict=True))


@dataclass(frozen=True)
class Trainer:
    """The fixed inputs of a run's steps, and the steps themselves.

    Example:
        trainer = Trainer.build(config, body, prior, prompts)
        state, scenes = trainer.first_state(body), Scenes(body, config, prior.image_size)
        report = trainer.step(state, scenes.at(state.step))
    """

    config: TrainingConfig
    prior: Prior
    conditions: TextConditions
    surface: RestSurface
    source: GaussianModel | None = None
    """The avatar before the edit, for editing methods; it is rendered in the same scenes."""

    @classmethod
    def build(
        cls,
        config: TrainingConfig,
        body: Body,
        prior: Prior,
        prompts: Mapping[Bucket, BucketPrompt],
        init: InitAvatar | None = None,
    ) -> "Trainer":
        """Encode the prompts and prepare the body's surface.

        Args:
            prompts: of every bucket of views, with everything that guidance needs (``training.prompts.run_prompts``).
            init: the avatar to start from; editing methods compare with it.
        """
        source = init.model if init is not None and config.guidance.edits else None
        return cls(config, prior, TextConditions.encode(prior, prompts), RestSurface(body.rest()), source)

    def first_state(self, body: Body, init: InitAvatar | None = None) -> TrainingState:
        """The state before the first step: ``init``, or a grey avatar on the body's surface."""
        config, device, edits = self.config, self.prior.device, self.config.guidance.edits
        guidance = build_guidance(config.guidance, self.prior, self.conditions)
        if init is None:
            random = generator(config.seed, 0, "splats")
            model = surface_splats(config.splats, body.rest(), body.weights, random).to(device)
        else:
            model = init.copy(config.splats).to(device)
        density, smoothing = config.density, config.splats.smoothing
        if edits:
            density = replace(density, enabled=density.enabled and density.editing)
            # Regions that an edit leaves alone have no gradient to hold their colours against smoothing.
            smoothing = replace(smoothing, strength=0.0)
        background = None
        if config.optimize.background is Background.learned:
            background = LearnedBackground(config.optimize.environment, config.seed, device)
        state = TrainingState(
            model=model,
            optimizers=build_optimizers(model, config.splats.lr),
            strategy=DistillationStrategy(density, config.optimize.steps, model, parallel.from_first),
            smoother=ColorSmoother(smoothing, model),
            guidance=guidance,
            background=background,
            image_size=self.prior.image_size * config.optimize.supersample,
        )
        if init is not None:
            state.init = init.digest
            state.strategy.load_tensors({"unit": init.unit})
            state.damping = config.splats.edit_damping if edits else 0.0
        return state

    def guard(self) -> MemoryGuard:
        """Repeats work that runs out of memory, with fewer images per call of the prior's networks."""
        return MemoryGuard(self.prior, self.config.optimize.batch, ADVICE)

    def step(self, state: TrainingState, scene: Scene) -> Report:
        """Advance ``state`` by one step.

        Predictions or gradients that are not finite leave the splats unchanged; such steps are counted, and the first
        of several in a row is logged. If memory runs out, the affected part of the step is repeated with fewer images
        per call of the prior's networks (``MemoryGuard``), with the same random numbers, before anything has changed.
        Nothing that is returned or left behind holds a graph.
        """
        clock, guard = self._clock(state), self.guard()
        graph: list[Guided] = []
        distilled, render = guard(lambda: self._guide(state, scene, graph), undo=state.guidance.remember())
        finite, refinement = True, Refinement()
        if distilled.warming_up:
            with torch.no_grad():
                values = _detached(self.losses(state, scene, render))
            finite = all_finite([distilled.magnitude])
        else:
            with clock("backward"):
                rendered, values = guard(
                    lambda: self._descend(state, scene, distilled, graph), undo=state.drop_gradients
                )
                parallel.average(gradients(state, rendered))
            with clock("update"):
                finite = state.gradients_are_finite(distilled.magnitude)
                if finite:
                    state.learn_background()
                refinement = self.update(state, rendered if finite else None)
            del rendered
            for _ in range(self.config.guidance.inner_steps - 1 if finite else 0):
                with clock("refit"):
                    self._refit(state, scene, distilled, guard)
        if not finite and not state.bad_in_a_row:
            LOGGER.warning("step %d is skipped: %s", state.step + 1, not_finite(distilled))
        state.prior_calls += distilled.prior_calls
        state.count_step(finite)
        return Report(distilled, render, values, refinement, finite)

    def render(self, state: TrainingState, scene: Scene) -> Render:
        """The avatar in a scene, prepared for densification to use its gradients."""
        render = render_scene(state.model, scene, state.background)
        state.strategy.before_backward(render.info)
        return render

    def losses(self, state: TrainingState, scene: Scene, render: Render) -> dict[str, Float[Tensor, ""]]:
        """The weighted losses other than guidance's, by name."""
        config, scale = self.config.optimize, regulariser_scale(self.prior)
        progress = state.step / config.steps
        return regularisers(
            config.losses, state.model, render.alpha, state.strategy.unit, scale=scale
        ) | geometry_losses(config.geometry, state.model, scene, render.alpha, progress=progress, scale=scale)

    def update(self, state: TrainingState, render: Render | None) -> Refinement:
        """Move the splats by their gradients (``render=None``: drop them), then densify and prune if it is due."""
        config = self.config
        if render is None:
            state.drop_gradients()
        else:
            set_learning_rates(state.optimizers, config.splats.lr, state.step / config.optimize.steps)
            state.move()
        split_seed = derive_seed(config.seed, state.step, "split")
        info = None if render is None else render.info
        refinement = state.strategy.after_step(state.model, state.optimizers, state.step, info, split_seed)
        if refinement != Refinement() or (state.step + 1) % config.optimize.surface_every == 0:
            parallel.require_same(state.model.device, splats=len(state.model))
            parallel.follow_first(state.model.params.values())
            self.surface.refresh(state.model)
            state.smoother.refresh(state.model)
        return refinement

    def _guide(self, state: TrainingState, scene: Scene, graph: list[Guided]) -> tuple[Distilled, Render]:
        """Guidance on the avatar in a scene, and its render there, both without a graph.

        The graph of the loss is put into ``graph``; during guidance's warm-up there is none, because nothing is
        propagated back.
        """
        graph.clear()
        step, total, clock = state.step, self.config.optimize.steps, self._clock(state)
        encode = encoder_at(self.prior, step / total)
        with torch.set_grad_enabled(not state.guidance.warming_up(step, total)):
            with clock("render"):
                render = self.render(state, scene)
            with clock("encode"):
                latents = encode(render.rgb)
        source = None
        if self.source is not None:
            with clock("source"), torch.no_grad():
                source = encode(render_scene(self.source, scene, state.background).rgb)
        with clock("prior"):
            inputs = StepInputs(
                conditions=self.conditions.batch(scene.buckets),
                buckets=scene.buckets,
                step=step,
                total=total,
                generator=generator(self.config.seed, step, "guidance"),
                control=scene.pose_maps,
                images=render.rgb,
                source=source,
                cameras=scene.views.cameras.T_camera_world.flatten(1).to(latents),
                noise=scene.noise,
                beta=self.config.guidance.noise.beta,
            )
            distilled = state.guidance.step(latents, inputs)
        if not distilled.warming_up:
            graph.append((render, distilled.loss))
        return distilled.detached(), render.detached()

    def _descend(
        self, state: TrainingState, scene: Scene, distilled: Distilled, graph: list[Guided]
    ) -> tuple[Render, dict[str, Tensor]]:
        """The backward pass of guidance and regularisers; returns the render and the regularisers' values.

        Args:
            graph: of the guidance loss. It is taken out, because it lasts for one pass. If empty, the avatar is
                rendered and encoded again, and compared with the same target.
        """
        if graph:
            render, loss = graph.pop()
        else:
            render = self.render(state, scene)
            encode = encoder_at(self.prior, state.step / self.config.optimize.steps)
            loss = distilled.refit(encode(render.rgb), render.rgb)
        losses = self.losses(state, scene, render)
        sum(losses.values(), start=loss).backward()
        return render, _detached(losses)

    def _refit(self, state: TrainingState, scene: Scene, distilled: Distilled, guard: MemoryGuard) -> None:
        """Another update towards this step's target, without calling the prior; densification counts the step once."""
        render, _ = guard(lambda: self._descend(state, scene, distilled, []), undo=state.drop_gradients)
        parallel.average(gradients(state, render))
        if state.gradients_are_finite():
            state.learn_background()
            state.move()
        else:
            state.drop_gradients()

    def _clock(self, state: TrainingState) -> Stopwatch:
        return Stopwatch(state.seconds, self.prior.device)


def gradients(state: TrainingState, render: Render) -> list[Tensor | None]:
    """The gradients that an update uses: of splats, learned background and screen positions (for densification)."""
    learned = [] if state.background is None else state.background.network.parameters()
    parameters = [*state.model.params.values(), *learned]
    screen = render.info["means2d"]
    # A single render's screen positions retain their gradient; those of views that were lit one by one are a leaf.
    kept = screen.is_leaf or screen.retains_grad
    return [*(parameter.grad for parameter in parameters), screen.grad if kept else None]


def not_finite(distilled: Distilled) -> str:
    """The first part of a step that was not finite, in words."""
    if not all_finite([distilled.target]):
        return "the VAE's encoder gave latents that are NaN or infinite"
    if not all_finite([distilled.magnitude]):
        return "UNet or ControlNet gave predictions that are NaN or infinite"
    return "gradients of the splats are NaN or infinite"


def _detached(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in losses.items()}
