"""The playground's optimisation loop: guidance of one image in one view."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.body.keypoints import openpose_keypoints
from avatar_gs.body.model import Body
from avatar_gs.body.pose import a_pose
from avatar_gs.core.console import interruptible, progress
from avatar_gs.core.device import all_finite
from avatar_gs.core.errors import UserError
from avatar_gs.core.seeding import generator
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.distill import Distilled, Guidance
from avatar_gs.guidance.methods.base import StepInputs
from avatar_gs.lab.playground.config import PlaygroundConfig
from avatar_gs.lab.playground.fields import Canvas
from avatar_gs.lab.playground.figures import Frame
from avatar_gs.prior.config import PromptConfig
from avatar_gs.prior.prompts import view_buckets
from avatar_gs.render.cameras import fixed_views
from avatar_gs.render.pose_map import body_depth, render_pose_map
from avatar_gs.types import Bucket, Framing


@dataclass(frozen=True)
class View:
    """The view that the image shows.

    Args:
        bucket: of its prompt.
        control: its pose map in [0, 1]; None: without ControlNet.
        camera: ``T_camera_world``, flattened.
    """

    bucket: Bucket
    control: Float[Tensor, "1 S S 3"] | None
    camera: Float[Tensor, "1 16"]


@torch.no_grad()
def chosen_view(config: PlaygroundConfig, prompts: PromptConfig, body: Body, size: int) -> View:
    """The A-pose in the framing and from the azimuth of ``config``, at ``size`` pixels."""
    posed = body.pose(a_pose())
    views = fixed_views(posed, [Framing(config.framing.value)], [config.azimuth], size)
    control = None
    if config.control:
        depth = body_depth(posed, views.cameras)
        control = render_pose_map(openpose_keypoints(body, posed), views.cameras, depth, size=size)
    return View(view_buckets(views, prompts)[0], control, views.cameras.T_camera_world.flatten(1))


@dataclass(frozen=True)
class Objective:
    """A guidance method with its prompts and view.

    Args:
        source: latents of the image that editing methods start from.
    """

    guidance: Guidance
    conditions: TextConditions
    view: View
    source: Float[Tensor, "1 c h w"] | None = None

    def distill(self, canvas: Canvas, step: int, total: int, seed: int) -> Distilled:
        """One step of guidance for the current image; its noise is a function of seed and step, not of the method."""
        with torch.set_grad_enabled(not self.guidance.warming_up(step, total)):
            latents = canvas.latents()
        inputs = StepInputs(
            conditions=self.conditions.batch([self.view.bucket]),
            buckets=[self.view.bucket],
            step=step,
            total=total,
            generator=generator(seed, step, "playground"),
            control=self.view.control,
            images=canvas.image() if self.guidance.config.rgb_weight else None,
            source=self.source,
            cameras=self.view.camera,
        )
        return self.guidance.step(latents, inputs)


@dataclass
class Play:
    """The result of one method.

    Args:
        frames: images every few steps.
        curves: the values of each figure by step; NaN in steps where the method does not report it.
    """

    method: str
    frames: list[Frame] = field(default_factory=list)
    curves: dict[str, list[float]] = field(default_factory=dict)
    prior_calls: int = 0
    interrupted: bool = False

    def note(self, step: int, figures: dict[str, float]) -> None:
        """Append a step's figures to the curves."""
        for name in {**self.curves, **figures}:
            values = self.curves.setdefault(name, [])
            values += [float("nan")] * (step - len(values))
            values.append(figures.get(name, float("nan")))


def play(canvas: Canvas, objective: Objective, config: PlaygroundConfig, seed: int) -> Play:
    """Optimise ``canvas`` in place for ``config.steps`` steps of one method.

    Returns:
        The frames and curves; after Ctrl-C those so far, marked as interrupted.

    Raises:
        UserError: if the predictions or the image are not finite.
    """
    guidance = objective.guidance.config
    result = Play(guidance.method)
    rate = getattr(config.lr, config.field.name)
    optimizer = torch.optim.Adam(canvas.parameters, rate, eps=1e-15)
    start = canvas.latents().detach().clone()  # pixels are changed in place
    with interruptible() as interrupt, progress(result.method, config.steps) as bar:
        for step in range(config.steps):
            distilled = objective.distill(canvas, step, config.steps, seed)
            if all_finite([distilled.target]) and not all_finite([distilled.magnitude]):
                raise UserError(
                    f"playground: with {result.method} the prior's predictions are NaN or infinite in step {step}; use "
                    "prior.precision=float32, or another prior"
                )
            if step % config.every == 0 or step + 1 == config.steps:
                result.frames.append(Frame.of(step, canvas, distilled))
            if not distilled.warming_up:
                update(canvas, optimizer, distilled, guidance.inner_steps)
            distilled = distilled.detached()  # frees its graph before the next one is built
            with torch.no_grad():
                now = canvas.latents().detach()
            if not now.isfinite().all():
                raise UserError(
                    f"playground: with {result.method} the image is no longer finite after step {step}; lower "
                    f"playground.lr.{config.field.name}={rate:g} or guidance.cfg_scale={guidance.cfg_scale:g}"
                )
            figures = step_figures(distilled, now, start)
            result.note(step, figures)
            result.prior_calls += distilled.prior_calls
            bar.update(step + 1, t=int(figures["t"]), grad=figures["grad_norm"])
            if interrupt.requested and step + 1 < config.steps:
                result.interrupted = True
                break
    result.frames.append(Frame.of(step + 1, canvas, None))
    return result


def update(canvas: Canvas, optimizer: torch.optim.Optimizer, distilled: Distilled, inner_steps: int) -> None:
    """``inner_steps`` optimiser steps towards this step's target."""
    loss = distilled.loss
    for index in range(inner_steps):
        if index:
            loss = distilled.refit(canvas.latents(), canvas.image() if distilled.rgb_weight else None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        canvas.constrain()


def step_figures(
    distilled: Distilled, now: Float[Tensor, "1 c h w"], start: Float[Tensor, "1 c h w"]
) -> dict[str, float]:
    """The figures of one step: the method's own, ``distance`` (RMS difference of the latents from the start) and
    ``std`` (their standard deviation)."""
    return {
        "t": float(distilled.t[0]),
        **{name: float(value) for name, value in distilled.logs.items()},
        **{f"loss_{name}": float(value) for name, value in distilled.auxiliary.items()},
        "distance": float((now - start).square().mean().sqrt()),
        "std": float(now.std()),
    }
