"""DE-SDS, the default method.

    delta = [eps(text) - eps(y_con)] + s [eps(text) - eps(negative)]

y_con is a learnable text condition that comes to describe the renders as they are, so that eps(y_con) cancels the noise
without pulling anywhere. Identically, delta = cfg_{s+1} - eps(y_con) with the negative prompt as the unconditional one:
VSD at scale s + 1 whose LoRA is a text condition.
"""

import logging

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import DeSdsConfig, GuidanceConfig, SmallNoise
from avatar_gs.guidance.learnables import ConsistentText
from avatar_gs.guidance.noise import Noised
from avatar_gs.guidance.residuals.base import Context, Predictor, Residual
from avatar_gs.guidance.weights import guided
from avatar_gs.types import Prior

log = logging.getLogger(__name__)

CHECK_AT = 0.2
"""After this share of the run y_con should explain the renders better than the negative prompt that it began at."""


class DeSds:
    """One forward for each of text and negative, one forward and backward for y_con (its loss reuses the residual's own
    prediction)."""

    def __init__(self, config: DeSdsConfig, cfg_scale: float, cfg_rescale: float, y_con: ConsistentText) -> None:
        self.config = config
        self.cfg_scale = cfg_scale
        self.cfg_rescale = cfg_rescale
        self.warmup = config.warmup
        self.learnable = y_con
        self._checked = False

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        rows = self.learnable.rows(context.buckets)
        if context.warming_up:
            with torch.enable_grad():
                eps_con = predict(noised, {"con": rows})["con"]
                loss = denoising_loss(eps_con, noised.reference)
            logs = {"L_con": 2 * loss.detach() / noised.z[0].numel()}
            return Residual(torch.zeros_like(noised.z), eps_con.detach(), loss, logs)

        uses_con = self.uses_con(noised)
        asked = {name: context.conditions[name] for name in ("text", "negative")}
        loss = None
        if not uses_con.any():
            eps = predict(noised, asked)
            eps_con = torch.zeros_like(noised.z)
        elif context.step % self.config.update_every:
            eps = predict(noised, {**asked, "con": rows.detach()}, where={"con": uses_con})
            eps_con = eps["con"]
        else:
            eps = predict(noised, asked)  # apart from y_con's, so that the backward pass does not run through these
            with torch.enable_grad():
                eps_con = predict(noised, {"con": rows}, where={"con": uses_con})["con"]
                loss = denoising_loss(eps_con[uses_con], noised.reference[uses_con])
        eps_hat = guided(eps["negative"], eps["text"], self.cfg_scale + 1, self.cfg_rescale)
        logs = self._compare({**eps, "con": eps_con}, noised, uses_con, context) if uses_con.any() else {}
        return Residual(eps_hat - eps_con.detach(), eps_hat, loss, logs)

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


def denoising_loss(eps: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """0.5 |eps - noise|^2, summed over a picture and averaged over the batch."""
    return 0.5 * (eps - noise).square().sum() / len(eps)


def build(config: GuidanceConfig, prior: Prior, conditions: TextConditions) -> DeSds:
    y_con = ConsistentText(conditions.negative, config.de_sds.learning_rate, config.de_sds.norm_band)
    return DeSds(config.de_sds, config.cfg_scale, config.cfg_rescale, y_con)
