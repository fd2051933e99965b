"""DE-SDS, the default method, with its learnable text condition y_con. Unpublished.

y_con learns to describe the renders as they are, so that eps(y_con) cancels the noise without a gradient of its own.
``delta = [eps(text) - eps(y_con)] + s [eps(text) - eps(negative)]`` equals ``cfg_{s+1} - eps(y_con)`` with the negative
prompt as the unconditional condition: VSD at scale s + 1 whose LoRA is a text condition.
"""

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from avatar_gs.core.device import to_device
from avatar_gs.core.errors import UserError
from avatar_gs.core.lazy import Bool, Float, Tensor, torch
from avatar_gs.core.validation import bounded
from avatar_gs.guidance.cfg import Cfg
from avatar_gs.guidance.methods.base import (
    Context,
    Method,
    MethodConfig,
    Noised,
    Predictor,
    Residual,
    Setup,
    denoising_loss,
    noise_ratios,
)

LOGGER = logging.getLogger(__name__)

CHECK_AT = 0.5
"""Fraction of the run from which y_con should explain the renders better than the negative prompt that it starts from.
Earlier, an annealed run has so much noise that all conditions explain them equally well."""
DECAY = 0.98
"""Of the running means of the denoising errors."""
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
"""Adam's defaults (Kingma and Ba 2015)."""


class Variant(Enum):
    """DE-SDS for ablations.

    ``seed`` lets the gradient of y_con's loss reach the avatar; ``composed`` predicts the person and the whole text
    separately: ``[eps(identity) - eps(y_con)] + s [eps(text) - eps(negative)]``.
    """

    standard = "standard"
    seed = "seed"
    composed = "composed"


class SmallNoise(Enum):
    """What DE-SDS subtracts below the noise cut: nothing (``seed``), or eps(y_con) as above it (``con``)."""

    seed = "seed"
    con = "con"


@dataclass
class DeSdsConfig(MethodConfig):
    """DE-SDS, with a learnable text condition y_con that describes the renders."""

    section = "guidance.de_sds"
    through_networks = True
    predictions = (2, 1)

    learning_rate: float = bounded(8e-4, 0)
    """Adam's learning rate of y_con, 0 or more."""
    warmup: float = bounded(0.03, 0, 1, below=True, expected="a fraction of the run, 0 <= warmup < 1")
    """Fraction of the run, at its start, in which only y_con is updated."""
    update_every: int = bounded(2, 1, expected="1 or more steps")
    """Steps per update of y_con. The other steps need a single call of the prior without a backward pass. During the
    warm-up y_con is updated in every step."""
    noise_share: float = bounded(0.6, 0, 1, expected="a fraction, 0 to 1")
    """Fraction of the sampled noise in the subtracted term, the rest being eps(y_con): 0 is plain DE-SDS, 1 is SDS at
    scale s + 1."""
    small_noise: SmallNoise = SmallNoise.seed
    """What is subtracted below ``small_noise_cut``."""
    small_noise_cut: float = bounded(0.57, 0, expected="a ratio of 0 or more")
    """sigma / alpha below which ``small_noise`` applies (t < 200 of 1000 in Stable Diffusion)."""
    norm_band: float = bounded(0.5, 0, 1, above=True, expected="0 < norm_band <= 1")
    """Each token embedding of y_con is clamped to its initial norm ± this fraction."""
    variant: Variant = Variant.standard

    @property
    def warms_up(self) -> bool:
        return self.warmup > 0

    def peak_predictions(self) -> int:
        return 2 + (self.update_every > 1) + (self.variant is Variant.composed)

    def mean_predictions(self) -> tuple[float, float]:
        learning = 1 / self.update_every
        return 2 + 1 - learning, learning

    def build(self, setup: Setup) -> "DeSds":
        composed = self.variant is Variant.composed
        if composed and "identity" not in setup.conditions.extra:
            raise UserError(
                "guidance.de_sds.variant=composed asks for the person apart from the text, and this run has no "
                "identity: leave it out, or guidance.de_sds.variant=standard"
            )
        y_con = ConsistentText(setup.conditions.negative, self.learning_rate, self.norm_band)
        # [text - con] + s [text - negative] is cfg_{s+1} - con
        scale = setup.cfg.scale if composed else setup.cfg.scale + 1
        return DeSds(self, replace(setup.cfg, away="negative", scale=scale), y_con, noise_ratios(setup.prior))


class ConsistentText:
    """y_con: a learnable text condition for each bucket of views, in the space of the text encoder's output (float32).

    All buckets share one tensor, so that an update is a fixed number of operations that never wait for a GPU. They are
    optimised independently: a bucket without a gradient keeps its values, Adam moments and step count.
    """

    def __init__(self, start: Mapping[Any, Float[Tensor, "L d"]], learning_rate: float, norm_band: float) -> None:
        """``start``: the initial embeddings by bucket."""
        self.buckets = tuple(start)
        self.values = torch.stack([value.detach().float() for value in start.values()]).requires_grad_(True)
        self.norms = self.values.detach().norm(dim=-1, keepdim=True)
        self.learning_rate, self.norm_band = learning_rate, norm_band
        self.steps = torch.zeros(len(start), dtype=torch.float64, device=self.values.device)
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.watched = torch.zeros(2, device=self.values.device)
        """Running means of L_con and L_neg."""
        self.watches = 0

    @property
    def parameters(self) -> dict[Any, Float[Tensor, "L d"]]:
        """The embeddings by bucket; views of the values."""
        return dict(zip(self.buckets, self.values.detach().unbind(), strict=True))

    def batch(self, buckets: Sequence[Hashable]) -> Float[Tensor, "B L d"]:
        """The embeddings of a batch of views, with their gradients."""
        with torch.enable_grad():
            value_of = dict(zip(self.buckets, self.values.unbind(), strict=True))
            return torch.stack([value_of[bucket] for bucket in buckets])

    def update(self, loss: Float[Tensor, ""]) -> None:
        """One Adam step for the buckets that ``loss`` depends on; then the token norms are clamped.

        A loss with a non-finite gradient changes nothing. All decisions are made on the device.
        """
        (gradient,) = torch.autograd.grad(loss, self.values)
        with torch.no_grad():
            moved = (gradient != 0).flatten(1).any(1) & gradient.isfinite().all()
            everywhere = moved[:, None, None]
            steps = self.steps + 1
            exp_avg = self.exp_avg.lerp(gradient, 1 - BETA1)
            exp_avg_sq = (self.exp_avg_sq * BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
            step_size = (-self.learning_rate / (1 - BETA1**steps)).float()[:, None, None]
            correction = (1 - BETA2**steps).sqrt().float()[:, None, None]
            values = self.values + step_size * exp_avg / (exp_avg_sq.sqrt() / correction + EPS)
            norm = values.norm(dim=-1, keepdim=True)
            clamped = norm.clamp(self.norms * (1 - self.norm_band), self.norms * (1 + self.norm_band))
            values = values * (clamped / norm.clamp_min(1e-12))
            self.values.copy_(values.where(everywhere, self.values))
            self.exp_avg = exp_avg.where(everywhere, self.exp_avg)
            self.exp_avg_sq = exp_avg_sq.where(everywhere, self.exp_avg_sq)
            self.steps = steps.where(moved, self.steps)

    def watch(self, l_con: Float[Tensor, ""], l_neg: Float[Tensor, ""]) -> None:
        """Update the running means of the denoising errors."""
        self.watches += 1
        fraction = max(1 - DECAY, 1 / self.watches)
        self.watched = self.watched.lerp(torch.stack([l_con, l_neg]).to(self.watched), fraction)

    def state_dict(self) -> dict[str, Tensor]:
        """The complete state by name; a bucket's moments only after its first step."""
        state = {"watched": self.watched.clone(), "watches": torch.tensor(self.watches)}
        steps = self.steps.tolist()
        for index, bucket in enumerate(self.buckets):
            state[f"y_con.{bucket}"] = self.values[index].detach().clone()
            state[f"norms.{bucket}"] = self.norms[index].clone()
            if steps[index]:
                state[f"adam.step.{bucket}"] = torch.tensor(steps[index], dtype=torch.float32)
                state[f"adam.exp_avg.{bucket}"] = self.exp_avg[index].clone()
                state[f"adam.exp_avg_sq.{bucket}"] = self.exp_avg_sq[index].clone()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a ``state_dict``; buckets without moments start with zeros."""
        self.watched, self.watches = state["watched"].to(self.watched), int(state["watches"])
        zeros = torch.zeros_like(self.values[0])
        with torch.no_grad():
            for index, bucket in enumerate(self.buckets):
                self.values[index].copy_(state[f"y_con.{bucket}"])
                self.norms[index].copy_(state[f"norms.{bucket}"])
                self.steps[index] = float(state.get(f"adam.step.{bucket}", 0.0))
                self.exp_avg[index].copy_(state.get(f"adam.exp_avg.{bucket}", zeros))
                self.exp_avg_sq[index].copy_(state.get(f"adam.exp_avg_sq.{bucket}", zeros))


class DeSds(Method):
    """``delta = [eps(text) - eps(y_con)] + s [eps(text) - eps(negative)] = cfg_{s+1} - eps(y_con)``; with
    ``noise_share`` n, eps(y_con) is replaced by ``(1 - n) eps(y_con) + n eps``.

    In steps that update y_con its prediction is a call of its own, and its loss reuses that prediction: a backward pass
    through one call for all conditions would cost three times the arithmetic and activations.

    The host knows from the sampled timesteps whether a step needs eps(y_con). If one image of a batch does, it is
    predicted for all and dropped for the others, so that the networks see few batch sizes (they may be compiled for
    each).
    """

    def __init__(self, config: DeSdsConfig, cfg: Cfg, y_con: ConsistentText, ratios: Float[Tensor, " T"]) -> None:
        """``ratios``: sigma / alpha at every timestep, on the host."""
        self.config = config
        self.cfg = cfg
        self.warmup = config.warmup
        self.learnable: ConsistentText = y_con
        self._subtracts = torch.ones_like(ratios, dtype=torch.bool)
        if config.small_noise is SmallNoise.seed:
            self._subtracts = ratios >= config.small_noise_cut
        self._checked = False

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        y_con = self.learnable.batch(context.buckets)
        if context.warming_up:
            with torch.enable_grad():
                eps_con = predict(noised, {"con": y_con})["con"]
                loss = denoising_loss(eps_con, noised.reference)
            logs = {"L_con": 2 * loss.detach() / noised.z[0].numel()}
            return Residual(torch.zeros_like(noised.z), eps_con.detach(), loss, logs=logs)

        used = _Used.of(self._subtracts[context.t], noised.z.device)
        composed = self.config.variant is Variant.composed
        conditions = context.select(*self.cfg.names, *(["identity"] if composed else []))
        loss = leak = None
        if not used.count:
            eps = predict(noised, conditions)
            eps_con = torch.zeros_like(noised.z)
        elif context.step % self.config.update_every:
            eps = predict(noised, {**conditions, "con": y_con.detach()})
            eps_con = used.masked(eps["con"])
        else:
            eps = predict(noised, conditions)
            with torch.enable_grad():
                z_t = noised.z_t.clone().requires_grad_(self.config.variant is Variant.seed)
                eps_con = used.masked(predict(replace(noised, z_t=z_t), {"con": y_con})["con"])
                loss = denoising_loss(eps_con, used.masked(noised.reference), used.count)
                if z_t.requires_grad:
                    (leak,) = torch.autograd.grad(loss * used.count, z_t, retain_graph=True)
                    leak = noised.alpha * leak
        eps_hat = self.cfg(eps)
        if composed:
            eps_hat = eps["identity"] + eps_hat - eps[self.cfg.unconditional]
        logs = self._compare({**eps, "con": eps_con}, noised, used, context) if used.count else {}
        subtracted = eps_con.detach().lerp(noised.reference, self.config.noise_share)
        return Residual(eps_hat - subtracted, eps_hat, loss, leak, logs)

    def _compare(self, eps: dict[str, Tensor], noised: Noised, used: "_Used", context: Context) -> dict[str, Tensor]:
        """The denoising errors of y_con, text and negative prompt on the same noised latents. Warns once if y_con does
        not describe the renders better than the negative prompt."""
        entries = used.count * noised.z[0].numel()
        errors = {
            f"L_{name}": used.masked(eps[key] - noised.reference).square().sum().detach() / entries
            for name, key in {"con": "con", "text": "text", "neg": "negative"}.items()
        }
        self.learnable.watch(errors["L_con"], errors["L_neg"])
        if not self._checked and context.progress >= CHECK_AT:
            self._checked = True
            con, negative = self.learnable.watched.tolist()
            if con >= negative:
                LOGGER.warning(
                    "guidance: y_con describes the renders no better than the negative prompt (L_con %.4f, L_neg "
                    "%.4f): try a higher guidance.de_sds.learning_rate or a longer guidance.de_sds.warmup",
                    con,
                    negative,
                )
        return errors


@dataclass(frozen=True)
class _Used:
    """The images of a batch from which eps(y_con) is subtracted, and their number."""

    mask: Bool[Tensor, "B 1 1 1"]
    count: int

    @classmethod
    def of(cls, chosen: Bool[Tensor, " B"], device: "torch.device") -> "_Used":
        """``chosen`` is on the host."""
        return cls(to_device(chosen[:, None, None, None], device), int(chosen.sum()))

    def masked(self, values: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h w"]:
        """The values of these images, and zero for the others."""
        return values if self.count == len(values) else values.where(self.mask, 0.0)
