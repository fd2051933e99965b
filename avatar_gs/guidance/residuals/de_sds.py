"""DE-SDS, the default method.

    delta = [eps(text) - eps(y_con)] + s [eps(text) - eps(negative)]

y_con is a learnable text condition that comes to describe the renders as they are, so that eps(y_con) cancels the noise
without pulling anywhere. Identically, delta = cfg_{s+1} - eps(y_con) with the negative prompt as the unconditional one:
VSD at scale s + 1 whose LoRA is a text condition.

With ``noise_share`` above 0 that much of the subtracted eps(y_con) is the noise itself, as in SDS at scale s + 1. The
thought behind it: what y_con describes of the renders may be their blotches, too, and subtracting that takes away what
would remove them.
"""

import logging
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from avatar_gs.core.device import to_device
from avatar_gs.core.errors import UserError
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import DeSdsConfig, GuidanceConfig, SmallNoise, Variant
from avatar_gs.guidance.learnables import ConsistentText, denoising_loss
from avatar_gs.guidance.noise import Noised, noise_ratios
from avatar_gs.guidance.residuals.base import Context, Plain, Predictor, Residual
from avatar_gs.guidance.weights import Cfg
from avatar_gs.protocols import Prior

log = logging.getLogger(__name__)

CHECK_AT = 0.5
"""After this share of the run y_con should explain the renders better than the negative prompt that it began at. Not
earlier: in so much noise as an evenly annealed run begins with, all conditions explain them equally well."""


class DeSds(Plain):
    """Text, negative prompt and y_con in one batched call; where y_con learns, its rows in a call of their own.

    Its loss reuses the residual's own prediction. The call is apart from the others' because a backward pass through
    one call of all rows runs through the text's and the negative's too: three times the arithmetic and three times the
    activations for the sake of a larger batch. The variant ``composed`` is
    ``[eps(identity) - eps(y_con)] + s [eps(text) - eps(negative)]``.

    Whether a step asks for y_con is known on the host, from the noise levels that were drawn there. If one image of a
    batch needs it, it is computed for all and dropped for the others: networks then only see a few batch sizes (they
    may be compiled for each), at the price of some predictions near the cut.
    """

    def __init__(self, config: DeSdsConfig, cfg: Cfg, y_con: ConsistentText, noise_ratios: Float[Tensor, " T"]) -> None:
        """``noise_ratios``: sigma / alpha at every timestep, on the host."""
        self.config = config
        self.cfg = cfg
        self.warmup = config.warmup
        self.learnable: ConsistentText = y_con
        self._asks = torch.ones_like(noise_ratios, dtype=torch.bool)
        if config.small_noise is SmallNoise.seed:
            self._asks = noise_ratios >= config.small_noise_cut
        self._checked = False

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        rows = self.learnable.rows(context.buckets)
        if context.warming_up:
            with torch.enable_grad():
                eps_con = predict(noised, {"con": rows})["con"]
                loss = denoising_loss(eps_con, noised.reference)
            logs = {"L_con": 2 * loss.detach() / noised.z[0].numel()}
            return Residual(torch.zeros_like(noised.z), eps_con.detach(), loss, logs=logs)

        used = Used.of(self.uses_con(context), noised.z.device)
        composed = self.config.variant is Variant.composed
        asked = context.asked(*self.cfg.names, *(["identity"] if composed else []))
        loss = leak = None
        if not used.count:
            eps = predict(noised, asked)
            eps_con = torch.zeros_like(noised.z)
        elif context.step % self.config.update_every:
            eps = predict(noised, {**asked, "con": rows.detach()})
            eps_con = used.of_all(eps["con"])
        else:
            eps = predict(noised, asked)
            with torch.enable_grad():
                z_t = noised.z_t.clone().requires_grad_(self.config.variant is Variant.seed)
                eps_con = used.of_all(predict(replace(noised, z_t=z_t), {"con": rows})["con"])
                loss = denoising_loss(eps_con, used.of_all(noised.reference), used.count)
                if z_t.requires_grad:
                    (leak,) = torch.autograd.grad(loss * used.count, z_t, retain_graph=True)
                    leak = noised.alpha * leak
        eps_hat = self.cfg(eps)
        if composed:
            eps_hat = eps["identity"] + eps_hat - eps[self.cfg.unconditional]
        logs = self._compare({**eps, "con": eps_con}, noised, used, context) if used.count else {}
        subtracted = eps_con.detach().lerp(noised.reference, self.config.noise_share)
        return Residual(eps_hat - subtracted, eps_hat, loss, leak, logs)

    def uses_con(self, context: Context) -> Bool[Tensor, " B"]:
        """Which images have eps(y_con) subtracted; on the host."""
        return self._asks[context.t]

    def _compare(self, eps: dict[str, Tensor], noised: Noised, used: "Used", context: Context) -> dict[str, Tensor]:
        """The denoising errors of y_con, text and negative prompt on the same noised latents, and a warning where y_con
        has not come to describe the renders better than the negative prompt."""
        numbers = used.count * noised.z[0].numel()
        errors = {
            f"L_{name}": used.of_all(eps[key] - noised.reference).square().sum().detach() / numbers
            for name, key in {"con": "con", "text": "text", "neg": "negative"}.items()
        }
        self.learnable.watch(errors["L_con"], errors["L_neg"])
        if not self._checked and context.progress >= CHECK_AT:
            self._checked = True
            con, negative = self.learnable.watched.tolist()
            if con >= negative:
                log.warning(
                    "guidance: y_con describes the renders no better than the negative prompt (L_con %.4f, L_neg "
                    "%.4f): try a higher guidance.de_sds.learning_rate or a longer guidance.de_sds.warmup",
                    con,
                    negative,
                )
        return errors


@dataclass(frozen=True)
class Used:
    """Which images of a batch count, and how many of them do."""

    mask: Bool[Tensor, "B 1 1 1"]
    count: int

    @classmethod
    def of(cls, chosen: Bool[Tensor, " B"], device: torch.device) -> "Used":
        """``chosen`` is on the host."""
        return cls(to_device(chosen[:, None, None, None], device), int(chosen.sum()))

    def of_all(self, values: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h w"]:
        """The values of these images, and zeros for the others."""
        return values if self.count == len(values) else values.where(self.mask, 0.0)


def build(config: GuidanceConfig, prior: Prior, conditions: TextConditions) -> DeSds:
    composed = config.de_sds.variant is Variant.composed
    if composed and "identity" not in conditions.extra:
        raise UserError(
            "guidance.de_sds.variant=composed asks for the person apart from the text, and this run has no identity: "
            "leave it out, or guidance.de_sds.variant=standard"
        )
    y_con = ConsistentText(conditions.negative, config.de_sds.learning_rate, config.de_sds.norm_band)
    # [text - con] + s [text - negative] is cfg_{s+1} - con
    scale = config.cfg_scale if composed else config.cfg_scale + 1
    return DeSds(config.de_sds, Cfg.of(config, "negative", scale), y_con, noise_ratios(prior))
