"""Score distillation: from rendered latents to a gradient on them.

Every method has the form ``G = post(w(t) * residual)``: a timestep and its weight (``schedule``), noise and residual
(``methods/<method>.py``, the only code of one method), and classifier-free guidance and clipping (``cfg``). A run uses
it like this:

    prompts = prior.prompts.bucket_prompts(...)                        # bucket -> positive and negative prompt
    conditions = TextConditions.encode(prior, prompts)
    guidance = build_guidance(config, prior, conditions)
    for step in range(total):
        buckets = prior.prompts.view_buckets(views, ...)
        latents = prior.encode_images(rendered)                        # with the renderer's gradients
        inputs = StepInputs(conditions=conditions.batch(buckets), buckets=buckets, step=step, total=total,
                            generator=generator, control=pose_maps)
        out = guidance.step(latents, inputs)
        (out.loss + regularisers).backward()                           # d loss / d latents = G / B

``state_dict`` holds everything that guidance learns; with it, and generators seeded by the step, a resumed run
continues exactly.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from avatar_gs.core.device import to_device
from avatar_gs.guidance.cfg import Cfg, Unconditional, clean, dynamic_threshold
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import METHODS, GuidanceConfig
from avatar_gs.guidance.methods.base import (
    CfgInterval,
    Context,
    Method,
    Noised,
    Predictor,
    Residual,
    Setup,
    StepInputs,
    image_generators,
    uniforms,
)
from avatar_gs.guidance.methods.bridge import Bridge
from avatar_gs.guidance.schedule import ScheduleKind, draw_times, weight
from avatar_gs.protocols import Prior


@dataclass(frozen=True)
class Distilled:
    """The result of one step of guidance."""

    loss: Float[Tensor, ""]
    """Has the gradient G / B on the latents; its value does not indicate convergence (see ``logs["grad_norm"]``)."""
    grad: Float[Tensor, "B c h w"]
    """G."""
    magnitude: Float[Tensor, ""]
    """Largest magnitude of G and of the learnable's loss before non-finite entries were replaced by zero: infinite or
    NaN if there were any."""
    t: Int[Tensor, " B"]
    z0_hat: Float[Tensor, "B c h w"]
    """The clean latents that the guided prediction implies."""
    target: Float[Tensor, "B c h w"]
    """z - G."""
    decoded: Float[Tensor, "B H W 3"] | None
    """``z0_hat`` as images; None without ``rgb_weight``."""
    rgb_weight: float
    auxiliary: Mapping[str, Float[Tensor, ""]]
    """The learnable's loss, which is already applied."""
    logs: Mapping[str, Float[Tensor, ""]]
    """Scalars, among them ``grad_norm``, the mean over images of |G|."""
    prior_calls: int
    """Number of noise predictions, counted per image."""
    warming_up: bool

    def detached(self) -> "Distilled":
        """The same without a graph."""
        return replace(self, loss=self.loss.detach())

    def refit(
        self, latents: Float[Tensor, "B c h w"], images: Float[Tensor, "B h2 w2 3"] | None = None
    ) -> Float[Tensor, ""]:
        """``loss`` for the current latents and the same target, without a prediction (``guidance.inner_steps``)."""
        return distance(latents, self.target, images, self.decoded, self.rgb_weight)


class Guidance:
    """A method with its schedule, weight and learnable. A step changes nothing but the learnable."""

    def __init__(self, config: GuidanceConfig, prior: Prior, method: Method) -> None:
        self.config = config
        self.prior = prior
        self.method = method

    def step(self, latents: Float[Tensor, "B c h w"], inputs: StepInputs) -> Distilled:
        """The distillation loss of a batch of latents, and one update of the method's learnable.

        Raises:
            ValueError: if the method or an option needs an input that is None.
        """
        warmup = round(self.method.warmup * inputs.total)
        progress = max(0.0, (inputs.step - warmup) / max(inputs.total - warmup, 1))
        generators = image_generators(inputs.generator, len(latents))
        warming_up = self.warming_up(inputs.step, inputs.total)
        t = self._times(progress, warming_up, generators)
        given = {entry.name: getattr(inputs, entry.name) for entry in fields(inputs)}
        context = Context(**given, progress=progress, warming_up=warming_up, t=t, generators=generators)
        calls = self.prior.calls
        with torch.no_grad():
            predict = Predictor(self.prior, inputs.control, self._interval())
            noised = self.method.noise(latents.detach(), to_device(t, latents.device), predict, context)
            residual = self._thresholded(noised, self.method(noised, predict, context))
            factor = self.config.weight_scale * weight(self.config.weight, noised.alpha, noised.sigma)
            weighted = factor * residual.delta
            if residual.unweighted is not None:
                weighted = weighted + residual.unweighted
            gradient = clean(weighted, self.config.clip)
            magnitude = weighted.abs().amax()
            if residual.auxiliary is not None:  # the only value while guidance warms up
                magnitude = torch.maximum(magnitude, residual.auxiliary.detach().abs())
            z0_hat = noised.z if residual.eps_hat is None else noised.denoised(residual.eps_hat)
            decoded = self._decoded(z0_hat, inputs.images, residual)
        learnable, learnable_loss = self.method.learnable, residual.auxiliary
        target = noised.z - gradient
        distilled = Distilled(
            loss=distance(latents, target, inputs.images, decoded, self.config.rgb_weight),
            grad=gradient,
            magnitude=magnitude,
            t=noised.t,
            z0_hat=z0_hat,
            target=target,
            decoded=decoded,
            rgb_weight=self.config.rgb_weight,
            auxiliary={} if learnable is None or learnable_loss is None else {"learnable": learnable_loss.detach()},
            logs={**residual.logs, "grad_norm": gradient.flatten(1).norm(dim=1).mean()},
            prior_calls=self.prior.calls - calls,
            warming_up=warming_up,
        )
        if learnable is not None and learnable_loss is not None:
            learnable.update(learnable_loss)  # last, so that a step that fails has changed nothing
        return distilled

    def warming_up(self, step: int, total: int) -> bool:
        """Whether a step updates only the method's learnable, without a gradient on the latents."""
        return step < round(self.method.warmup * total)

    def remember(self) -> Callable[[], None]:
        """A function that undoes a failed step, for example one that ran out of memory.

        It restores the attributes of the method and its learnable, not tensors that are changed in place, since the
        learnable is updated last.
        """
        owners = [self.method, getattr(self.method, "first", None), self.method.learnable]
        before = [(owner, dict(vars(owner))) for owner in owners if owner is not None]
        calls = self.prior.calls

        def undo() -> None:
            for owner, values in before:
                vars(owner).update(values)
            self.prior.calls = calls

        return undo

    def state_dict(self) -> dict[str, Tensor]:
        """The learnable's state, tensors only; empty if there is none."""
        return {} if self.method.learnable is None else self.method.learnable.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a ``state_dict`` of the same method and prompts."""
        if self.method.learnable is not None:
            self.method.learnable.load_state_dict(state)

    def _interval(self) -> CfgInterval | None:
        """Timesteps at which guidance is on; None: all."""
        (low, high), cfg = self.config.cfg_interval, getattr(self.method, "cfg", None)
        if not isinstance(cfg, Cfg) or (low <= 0 and high >= 1):
            return None
        last = self.prior.num_timesteps - 1
        away = dict.fromkeys(cfg.names[1:], "text")
        return CfgInterval(low * last, high * last, {**away, "source_away": "source"})

    def _times(self, progress: float, warming_up: bool, generators: Sequence[torch.Generator]) -> Int[Tensor, " B"]:
        """Each image's timestep, on the host."""
        schedule = self.config.schedule
        if warming_up:  # the learnable should start the run trained on all timesteps
            schedule = replace(schedule, kind=ScheduleKind.uniform)
        return draw_times(schedule, progress, uniforms(generators), self.prior.num_timesteps)

    def _thresholded(self, noised: Noised, residual: Residual) -> Residual:
        """The residual with the guided prediction after dynamic thresholding, if that is on."""
        fraction = self.config.dynamic_threshold
        if fraction == 0 or residual.eps_hat is None:
            return residual
        z0_hat = dynamic_threshold(noised.denoised(residual.eps_hat), fraction, self.config.latent_range)
        eps_hat = noised.noise_towards(z0_hat)
        return replace(residual, delta=residual.delta + eps_hat - residual.eps_hat, eps_hat=eps_hat)

    def _decoded(self, z0_hat: Tensor, images: Tensor | None, residual: Residual) -> Tensor | None:
        if self.config.rgb_weight == 0 or residual.eps_hat is None:
            return None
        if images is None:
            raise ValueError("guidance.rgb_weight compares images: StepInputs(..., images=images)")
        return self.prior.decode_latents(z0_hat)


def distance(
    z: Float[Tensor, "B c h w"],
    target: Float[Tensor, "B c h w"],
    images: Float[Tensor, "B h2 w2 3"] | None = None,
    decoded: Float[Tensor, "B H W 3"] | None = None,
    rgb_weight: float = 0.0,
) -> Float[Tensor, ""]:
    """0.5 sum (z - sg(target))^2 / B; with target = z - G its derivative with respect to z is G / B.

    With ``images`` and ``decoded``, plus ``rgb_weight`` times the same distance between these; larger images are
    averaged down.
    """
    loss = 0.5 * (z - target.detach()).square().sum() / len(z)
    if images is None or decoded is None:
        return loss
    scaled = F.interpolate(images.permute(0, 3, 1, 2), decoded.shape[1:3], mode="area").permute(0, 2, 3, 1)
    return loss + rgb_weight * 0.5 * (scaled - decoded.detach()).square().sum() / len(z)


def build_guidance(config: GuidanceConfig, prior: Prior, conditions: TextConditions) -> Guidance:
    """The configured method; learnables start from the ``conditions`` of all buckets.

    Raises:
        UserError: if the method does not work with this prior or these conditions.
    """
    away = {Unconditional.negative: "negative", Unconditional.empty: "null"}[config.unconditional]
    cfg = Cfg(config.cfg_scale, away, config.cfg_rescale, config.perp_neg)
    methods = {name: getattr(config, name) for name in METHODS}
    method = config.chosen.build(Setup(prior, conditions, cfg, methods))
    if config.bridge.start < 1:
        method = Bridge(method, config.bridge.start, replace(cfg, away="corrupt"))
    return Guidance(config, prior, method)
