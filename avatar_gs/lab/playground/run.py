"""The playground's loop: guidance, one picture, Adam."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.core.console import interruptible, progress
from avatar_gs.core.device import all_finite
from avatar_gs.core.errors import UserError
from avatar_gs.core.seeding import generator
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.distill import Distilled, Guidance
from avatar_gs.guidance.methods.base import StepInputs
from avatar_gs.lab.playground.config import PlaygroundConfig
from avatar_gs.lab.playground.fields import Canvas
from avatar_gs.lab.playground.strip import Frame
from avatar_gs.lab.playground.view import View


@dataclass
class Play:
    """What one method did: pictures every few steps, and a figure of each step by name."""

    method: str
    frames: list[Frame] = field(default_factory=list)
    curves: dict[str, list[float]] = field(default_factory=dict)
    prior_calls: int = 0
    interrupted: bool = False

    def note(self, step: int, figures: dict[str, float]) -> None:
        """Adds a step's figures; what a method does not report in every step is NaN in the others."""
        for name in {**self.curves, **figures}:
            values = self.curves.setdefault(name, [])
            values += [float("nan")] * (step - len(values))
            values.append(figures.get(name, float("nan")))


def play(
    canvas: Canvas,
    guidance: Guidance,
    conditions: TextConditions,
    view: View,
    config: PlaygroundConfig,
    seed: int,
    source: Float[Tensor, "1 c h w"] | None = None,
) -> Play:
    """``config.steps`` steps of one method on ``canvas``, which ends as the method leaves it.

    After Ctrl-C the play so far is returned, marked as interrupted.

    Args:
        seed: each step's noise is a function of it and the step, the same for every method.
        source: the latents that editing methods start from.

    Raises:
        UserError: if the picture is no longer finite.
    """
    result = Play(guidance.config.method)
    rate = getattr(config.lr, config.field.name)
    optimizer = torch.optim.Adam(canvas.parameters, rate, eps=1e-15)
    start = canvas.latents().detach().clone()  # pixels are changed in place
    with interruptible() as interrupt, progress(result.method, config.steps) as bar:
        for step in range(config.steps):
            distilled = guided(canvas, guidance, conditions, view, config.steps, step, seed, source)
            if all_finite([distilled.target]) and not all_finite([distilled.magnitude]):
                raise UserError(
                    f"playground: with {result.method} the prior's predictions are NaN or infinite in step {step}; use "
                    "prior.precision=float32, or another prior"
                )
            if step % config.every == 0 or step + 1 == config.steps:
                result.frames.append(Frame.of(step, canvas, distilled))
            if not distilled.warming_up:
                update(canvas, optimizer, distilled, guidance.config.inner_steps)
            distilled = distilled.detached()  # or its graph would be alive while the next is made
            with torch.no_grad():
                now = canvas.latents().detach()
            if not now.isfinite().all():
                raise UserError(
                    f"playground: with {result.method} the picture is no longer finite after step {step}; lower "
                    f"playground.lr.{config.field.name}={rate:g} or guidance.cfg_scale={guidance.config.cfg_scale:g}"
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


def guided(
    canvas: Canvas,
    guidance: Guidance,
    conditions: TextConditions,
    view: View,
    total: int,
    step: int,
    seed: int,
    source: Float[Tensor, "1 c h w"] | None,
) -> Distilled:
    """What the guidance asks of the picture as it is."""
    with torch.set_grad_enabled(not guidance.warming_up(step, total)):
        latents = canvas.latents()
    inputs = StepInputs(
        conditions=conditions.batch([view.bucket]),
        buckets=[view.bucket],
        step=step,
        total=total,
        generator=generator(seed, step, "playground"),
        control=view.control,
        images=canvas.picture() if guidance.config.rgb_weight else None,
        source=source,
        cameras=view.camera,
    )
    return guidance.step(latents, inputs)


def update(canvas: Canvas, optimizer: torch.optim.Optimizer, distilled: Distilled, times: int) -> None:
    """Moves the picture towards the target of this step, ``times`` times."""
    loss = distilled.loss
    for index in range(times):
        if index:
            loss = distilled.refit(canvas.latents(), canvas.picture() if distilled.rgb_weight else None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        canvas.constrain()


def step_figures(
    distilled: Distilled, now: Float[Tensor, "1 c h w"], start: Float[Tensor, "1 c h w"]
) -> dict[str, float]:
    """What is plotted of one step; ``distance``: from the start, root mean square over the latents."""
    return {
        "t": float(distilled.t[0]),
        **{name: float(value) for name, value in distilled.logs.items()},
        **{f"loss_{name}": float(value) for name, value in distilled.auxiliary.items()},
        "distance": float((now - start).square().mean().sqrt()),
        "spread": float(now.std()),
    }
