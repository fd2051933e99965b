"""Score distillation: from rendered latents to a gradient on them.

Every method fits ``G = post(w(t) * residual)``. The parts are small and separate: the noise level (``schedule``), the
noise (``noise``), the residual (``residuals/<method>.py``, the only code that belongs to one method), classifier-free
guidance and w(t) (``weights``), and what a method learns on the side (``learnables``). How a run uses it:

    prompts = prior.prompts.bucket_prompts(...)                        # bucket -> what to ask for, and against
    conditions = TextConditions.encode(prior, *prior.prompts.texts(prompts))
    guidance = build_guidance(config, prior, conditions)
    for step in range(total):
        buckets = prior.prompts.view_buckets(views, ...)
        latents = prior.encode_images(rendered)                        # with the gradients of the renderer
        out = guidance.step(latents, conditions.batch(buckets), pose_maps, buckets, step, total, generator)
        (out.loss + regularisers).backward()                           # d loss / d latents = G / B

``state_dict`` holds all that guidance itself learns; with it, and generators seeded by the step, a resumed run
continues exactly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatar_gs.guidance import noise, weights
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import GuidanceConfig, Method, ScheduleKind
from avatar_gs.guidance.residuals import base, de_sds, nothing, sds
from avatar_gs.guidance.schedule import draw_times
from avatar_gs.types import Prior

BUILDERS = {Method.de_sds: de_sds.build, Method.sds: sds.build, Method.none: nothing.build}


@dataclass(frozen=True)
class Distilled:
    """One step of guidance.

    ``loss`` gives the latents the gradient G / B; its value says nothing about convergence: watch ``logs["grad_norm"]``
    (the mean over pictures of the norm of G). ``z0_hat``: the clean latents that the guided prediction implies.
    ``auxiliary``: the losses of what guidance learns, already applied. ``prior_calls`` counts predicted pictures.
    """

    loss: Float[Tensor, ""]
    grad: Float[Tensor, "B c h w"]
    t: Int[Tensor, " B"]
    z0_hat: Float[Tensor, "B c h w"]
    auxiliary: Mapping[str, Float[Tensor, ""]]
    logs: Mapping[str, Float[Tensor, ""]]
    prior_calls: int
    warming_up: bool


class Guidance:
    """A method with its schedule, weight and learnables. It changes nothing but its learnables."""

    def __init__(self, config: GuidanceConfig, prior: Prior, method: base.Method) -> None:
        self.config = config
        self.prior = prior
        self.method = method

    def step(
        self,
        latents: Float[Tensor, "B c h w"],
        conditions: Mapping[str, Float[Tensor, "B L d"]],
        control: Float[Tensor, "B H W 3"] | None,
        buckets: Sequence[str],
        step: int,
        total: int,
        generator: torch.Generator,
    ) -> Distilled:
        """The distillation loss of a batch of latents, and one update of what the method learns.

        Args:
            conditions: by name (text, negative, null, …), a row a picture.
            control: pose maps in [0, 1]; None leaves the ControlNet out.
            buckets: each picture's bucket of views.
            step, total: of the run, ``0 <= step < total``.
            generator: on the CPU; all randomness comes from it.
        """
        warmup = round(self.method.warmup * total)
        progress = max(0.0, (step - warmup) / max(total - warmup, 1))
        context = base.Context(conditions, buckets, step, progress, warming_up=step < warmup)
        calls = self.prior.calls
        with torch.no_grad():
            noised = self._noise(latents.detach(), context, generator)
            residual = self.method(noised, base.Predictor(self.prior, control), context)
            gradient = weights.weight(self.config.weight, noised.alpha, noised.sigma) * residual.delta
            gradient = weights.clean(gradient, self.config.clip)
            z0_hat = noised.z if residual.eps_hat is None else noised.denoised(residual.eps_hat)
        auxiliary = {}
        if residual.auxiliary is not None and self.method.learnable is not None:
            self.method.learnable.update(residual.auxiliary)
            auxiliary = {"learnable": residual.auxiliary.detach()}
        return Distilled(
            loss=weights.distillation_loss(latents, gradient),
            grad=gradient,
            t=noised.t,
            z0_hat=z0_hat,
            auxiliary=auxiliary,
            logs={**residual.logs, "grad_norm": gradient.flatten(1).norm(dim=1).mean()},
            prior_calls=self.prior.calls - calls,
            warming_up=context.warming_up,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """What the method learned so far, tensors only; empty where it learns nothing."""
        return {} if self.method.learnable is None else self.method.learnable.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue exactly from a ``state_dict`` of the same method and prompts."""
        if self.method.learnable is not None:
            self.method.learnable.load_state_dict(state)

    def _noise(self, z: Tensor, context: base.Context, generator: torch.Generator) -> noise.Noised:
        generators = noise.picture_generators(generator, len(z))
        schedule = self.config.schedule
        if context.warming_up:  # what is learned ahead of the run should serve all of its noise levels
            schedule = replace(schedule, kind=ScheduleKind.uniform)
        t = draw_times(schedule, context.progress, noise.uniforms(generators), self.prior.num_timesteps)
        return noise.independent(self.prior, z, t.to(z.device), generators)


def build_guidance(config: GuidanceConfig, prior: Prior, conditions: TextConditions) -> Guidance:
    """The configured method; ``conditions`` of all buckets give its learnables their start."""
    return Guidance(config, prior, BUILDERS[config.method](config, prior, conditions))
