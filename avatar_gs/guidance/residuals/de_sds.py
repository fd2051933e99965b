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
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from avatar_gs.errors import UserError
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import DeSdsConfig, GuidanceConfig, SmallNoise, Variant
from avatar_gs.guidance.learnables import ConsistentText, denoising_loss
from avatar_gs.guidance.noise import Noised
from avatar_gs.guidance.residuals.base import Context, Plain, Predictor, Residual
from avatar_gs.guidance.weights import Cfg
from avatar_gs.types import Prior

log = logging.getLogger(__name__)

CHECK_AT = 0.5
"""After this share of the run y_con should explain the renders better than the negative prompt that it began at. Not
earlier: in so much noise as an evenly annealed run begins with, all conditions explain them equally well."""


class DeSds(Plain):
    """One forward for each of text and negative, one forward and backward for y_con (its loss reuses the residual's own
    prediction). The variant ``composed`` is ``[eps(identity) - eps(y_con)] + s [eps(text) - eps(negative)]``."""

    def __init__(self, config: DeSdsConfig, cfg: Cfg, y_con: ConsistentText) -> None:
        self.config = config
        self.cfg = cfg
        self.warmup = config.warmup
        self.learnable: ConsistentText = y_con
        self._checked = False

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        rows = self.learnable.rows(context.buckets)
        if context.warming_up:
            with torch.enable_grad():
                eps_con = predict(noised, {"con": rows})["con"]
                loss = denoising_loss(eps_con, noised.reference)
            logs = {"L_con": 2 * loss.detach() / noised.z[0].numel()}
            return Residual(torch.zeros_like(noised.z), eps_con.detach(), loss, logs=logs)

        uses_con = self.uses_con(noised)
        composed = self.config.variant is Variant.composed
        asked = context.asked(*self.cfg.names, *(["identity"] if composed else []))
        loss = leak = None
        if not uses_con.any():
            eps = predict(noised, asked)
            eps_con = torch.zeros_like(noised.z)
        elif context.step % self.config.update_every:
            eps = predict(noised, {**asked, "con": rows.detach()}, where={"con": uses_con})
            eps_con = eps["con"]
        else:
            eps = predict(noised, asked)  # apart from y_con's, so that the backward pass does not run through these
            with torch.enable_grad():
                z_t = noised.z_t.clone().requires_grad_(self.config.variant is Variant.seed)
                eps_con = predict(replace(noised, z_t=z_t), {"con": rows}, where={"con": uses_con})["con"]
                loss = denoising_loss(eps_con[uses_con], noised.reference[uses_con])
                if z_t.requires_grad:
                    (leak,) = torch.autograd.grad(loss * uses_con.sum(), z_t, retain_graph=True)
                    leak = noised.alpha * leak
        eps_hat = self.cfg(eps)
        if composed:
            eps_hat = eps["identity"] + eps_hat - eps[self.cfg.unconditional]
        logs = self._compare({**eps, "con": eps_con}, noised, uses_con, context) if uses_con.any() else {}
        subtracted = eps_con.detach().lerp(noised.reference, self.config.noise_share)
        return Residual(eps_hat - subtracted, eps_hat, loss, leak, logs)

    def uses_con(self, noised: Noised) -> Bool[Tensor, " B"]:
        """Which pictures have eps(y_con) subtracted."""
        ratio = noised.sigma_over_alpha
        if self.config.small_noise is SmallNoise.con:
            return torch.ones_like(ratio, dtype=torch.bool)
        return ratio >= self.config.small_noise_cut

    def _compare(self, eps: dict[str, Tensor], noised: Noised, used: Tensor, context: Context) -> dict[str, Tensor]:
        """The denoising errors of y_con, text and negative prompt on the same noised latents, and a warning where y_con
        has not come to describe the renders better than the negative prompt."""
        errors = {
            f"L_{name}": (eps[key] - noised.reference)[used].square().mean().detach()
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
    return DeSds(config.de_sds, Cfg.of(config, "negative", scale), y_con)
