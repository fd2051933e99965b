"""Score distillation: from rendered latents to a gradient on them.

Every method fits ``G = post(w(t) * residual)``. The parts are small and separate: the noise level (``schedule``), the
noise (``noise``, or the method's own), the residual (``residuals/<method>.py``, the only code that belongs to one
method), classifier-free guidance and w(t) (``weights``), and what a method learns on the side (``learnables``).
How a run uses it:

    prompts = prior.prompts.bucket_prompts(...)                        # bucket -> positive and negative prompt
    conditions = TextConditions.encode(prior, prompts)
    guidance = build_guidance(config, prior, conditions)
    for step in range(total):
        buckets = prior.prompts.view_buckets(views, ...)
        latents = prior.encode_images(rendered)                        # with the gradients of the renderer
        out = guidance.step(latents, conditions.batch(buckets), pose_maps, buckets, step, total, generator)
        (out.loss + regularisers).backward()                           # d loss / d latents = G / B

``state_dict`` holds all that guidance itself learns; with it, and generators seeded by the step, a resumed run
continues exactly.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatar_gs.core.device import to_device
from avatar_gs.guidance import noise, weights
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import GuidanceConfig, Method, ScheduleKind
from avatar_gs.guidance.residuals import (
    base,
    csd,
    dds,
    de_sds,
    hifa,
    ism,
    l_diff,
    nfsd,
    nothing,
    pds,
    robust_nfsd,
    sdi,
    sds,
    vsd,
)
from avatar_gs.guidance.residuals.bridge import Bridge
from avatar_gs.guidance.schedule import draw_times
from avatar_gs.guidance.weights import Cfg
from avatar_gs.protocols import Prior

BUILDERS = {
    Method.de_sds: de_sds.build,
    Method.sds: sds.build,
    Method.l_diff: l_diff.build,
    Method.nfsd: nfsd.build,
    Method.robust_nfsd: robust_nfsd.build,
    Method.csd: csd.build,
    Method.ism: ism.build,
    Method.sdi: sdi.build,
    Method.hifa: hifa.build,
    Method.dds: dds.build,
    Method.pds: pds.build,
    Method.vsd: vsd.build,
    Method.none: nothing.build,
}


@dataclass(frozen=True)
class Distilled:
    """One step of guidance.

    ``loss`` gives the latents the gradient G / B; its value says nothing about convergence: watch ``logs["grad_norm"]``
    (the mean over pictures of the norm of G). ``z0_hat``: the clean latents that the guided prediction implies.
    ``target``: z - G, and ``picture``: z0_hat decoded (None without ``rgb_weight``). ``auxiliary``: the losses of what
    guidance learns, already applied. ``prior_calls`` counts predicted pictures. ``magnitude``: the largest magnitude of
    all that guidance asked for, before entries that are not finite became zero in ``grad``; NaN or infinite where any
    was, so that a step can be told from one that asks for nothing.
    """

    loss: Float[Tensor, ""]
    grad: Float[Tensor, "B c h w"]
    magnitude: Float[Tensor, ""]
    t: Int[Tensor, " B"]
    z0_hat: Float[Tensor, "B c h w"]
    target: Float[Tensor, "B c h w"]
    picture: Float[Tensor, "B H W 3"] | None
    rgb_weight: float
    auxiliary: Mapping[str, Float[Tensor, ""]]
    logs: Mapping[str, Float[Tensor, ""]]
    prior_calls: int
    warming_up: bool

    def detached(self) -> "Distilled":
        """The same without a graph, to be kept."""
        return replace(self, loss=self.loss.detach())

    def refit(
        self, latents: Float[Tensor, "B c h w"], images: Float[Tensor, "B h2 w2 3"] | None = None
    ) -> Float[Tensor, ""]:
        """``loss`` for the avatar as it has become since, without asking the prior again: the distance to the same
        target, for ``guidance.inner_steps``."""
        return weights.distance(latents, self.target, images, self.picture, self.rgb_weight)


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
        buckets: Sequence[Hashable],
        step: int,
        total: int,
        generator: torch.Generator,
        *,
        images: Float[Tensor, "B h2 w2 3"] | None = None,
        source: Float[Tensor, "B c h w"] | None = None,
        cameras: Float[Tensor, "B 16"] | None = None,
    ) -> Distilled:
        """The distillation loss of a batch of latents, and one update of what the method learns.

        Args:
            conditions: by name (text, negative, null, …), a row a picture.
            control: pose maps in [0, 1]; None leaves the ControlNet out.
            buckets: each picture's bucket of views.
            step, total: of the run, ``0 <= step < total``.
            generator: on the CPU; all randomness comes from it.
            images: the pictures in [0, 1] that ``latents`` encode, with their gradients; for ``rgb_weight``.
            source: what editing methods (DDS, PDS) start from: the same views' latents.
            cameras: ``T_camera_world`` of each view, flat; for VSD.

        Raises:
            ValueError: the method or an option needs an argument that is None.
        """
        warmup = round(self.method.warmup * total)
        progress = max(0.0, (step - warmup) / max(total - warmup, 1))
        generators = noise.picture_generators(generator, len(latents))
        warming_up = self.warming_up(step, total)
        t = self._times(progress, warming_up, generators)
        context = base.Context(conditions, buckets, step, progress, warming_up, t, generators, source, cameras)
        calls = self.prior.calls
        with torch.no_grad():
            predict = base.Predictor(self.prior, control)
            noised = self.method.noise(latents.detach(), to_device(t, latents.device), predict, context)
            residual = self._thresholded(noised, self.method(noised, predict, context))
            asked = self._asked(noised, residual)
            gradient = weights.clean(asked, self.config.clip)
            magnitude = asked.abs().amax()
            if residual.auxiliary is not None:  # all that there is while guidance warms up
                magnitude = torch.maximum(magnitude, residual.auxiliary.detach().abs())
            z0_hat = noised.z if residual.eps_hat is None else noised.denoised(residual.eps_hat)
            picture = self._picture(z0_hat, images, residual)
        learnable, learned_from = self.method.learnable, residual.auxiliary
        target = noised.z - gradient
        distilled = Distilled(
            loss=weights.distance(latents, target, images, picture, self.config.rgb_weight),
            grad=gradient,
            magnitude=magnitude,
            t=noised.t,
            z0_hat=z0_hat,
            target=target,
            picture=picture,
            rgb_weight=self.config.rgb_weight,
            auxiliary={} if learnable is None or learned_from is None else {"learnable": learned_from.detach()},
            logs={**residual.logs, "grad_norm": gradient.flatten(1).norm(dim=1).mean()},
            prior_calls=self.prior.calls - calls,
            warming_up=context.warming_up,
        )
        if learnable is not None and learned_from is not None:
            learnable.update(learned_from)  # last, so that a step which fails before has changed nothing
        return distilled

    def warming_up(self, step: int, total: int) -> bool:
        """Whether only what the method learns moves in a step: nothing goes backward into the latents."""
        return step < round(self.method.warmup * total)

    def remember(self) -> Callable[[], None]:
        """A function that takes back what a step has noted by the time it fails, for want of memory say: values of
        attributes, not tensors that change in place, since the learnable's update comes last."""
        owners = [self.method, getattr(self.method, "first", None), self.method.learnable]
        before = [(owner, dict(vars(owner))) for owner in owners if owner is not None]
        calls = self.prior.calls

        def undo() -> None:
            for owner, values in before:
                vars(owner).update(values)
            self.prior.calls = calls

        return undo

    def state_dict(self) -> dict[str, Tensor]:
        """What the method learned so far, tensors only; empty where it learns nothing."""
        return {} if self.method.learnable is None else self.method.learnable.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue exactly from a ``state_dict`` of the same method and prompts."""
        if self.method.learnable is not None:
            self.method.learnable.load_state_dict(state)

    def _times(self, progress: float, warming_up: bool, generators: Sequence[torch.Generator]) -> Int[Tensor, " B"]:
        """Each image's noise level, on the host."""
        schedule = self.config.schedule
        if warming_up:  # what is learned ahead of the run should serve all of its noise levels
            schedule = replace(schedule, kind=ScheduleKind.uniform)
        return draw_times(schedule, progress, noise.uniforms(generators), self.prior.num_timesteps)

    def _thresholded(self, noised: noise.Noised, residual: base.Residual) -> base.Residual:
        """The residual with the clean latents of its guided prediction held to their range, if that is configured."""
        share = self.config.dynamic_threshold
        if share == 0 or residual.eps_hat is None:
            return residual
        z0_hat = weights.dynamic_threshold(noised.denoised(residual.eps_hat), share, self.config.latent_range)
        eps_hat = (noised.z_t - noised.alpha * z0_hat) / noised.sigma
        return replace(residual, delta=residual.delta + eps_hat - residual.eps_hat, eps_hat=eps_hat)

    def _asked(self, noised: noise.Noised, residual: base.Residual) -> Float[Tensor, "B c h w"]:
        """The weighted gradient, as the prior's predictions give it."""
        factor = self.config.weight_scale * weights.weight(self.config.weight, noised.alpha, noised.sigma)
        gradient = factor * residual.delta
        return gradient if residual.unweighted is None else gradient + residual.unweighted

    def _picture(self, z0_hat: Tensor, images: Tensor | None, residual: base.Residual) -> Tensor | None:
        if self.config.rgb_weight == 0 or residual.eps_hat is None:
            return None
        if images is None:
            raise ValueError("guidance.rgb_weight compares pictures: Guidance.step(..., images=pictures)")
        return self.prior.decode_latents(z0_hat)


def build_guidance(config: GuidanceConfig, prior: Prior, conditions: TextConditions) -> Guidance:
    """The configured method; ``conditions`` of all buckets give its learnables their start."""
    method = BUILDERS[config.method](config, prior, conditions)
    if config.bridge.start < 1:
        method = Bridge(method, config.bridge.start, Cfg.of(config, "corrupt"))
    return Guidance(config, prior, method)
