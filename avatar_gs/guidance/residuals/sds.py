"""SDS: Score Distillation Sampling (Poole et al. 2022, DreamFusion)."""

from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import GuidanceConfig
from avatar_gs.guidance.noise import Noised
from avatar_gs.guidance.residuals.base import Context, Predictor, Residual
from avatar_gs.guidance.weights import guided
from avatar_gs.types import Prior


class Sds:
    """delta = cfg_s - eps."""

    warmup = 0.0
    learnable = None

    def __init__(self, unconditional: str, cfg_scale: float, cfg_rescale: float) -> None:
        self.unconditional = unconditional
        self.cfg_scale = cfg_scale
        self.cfg_rescale = cfg_rescale

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        eps = predict(noised, {name: context.conditions[name] for name in ("text", self.unconditional)})
        eps_hat = guided(eps[self.unconditional], eps["text"], self.cfg_scale, self.cfg_rescale)
        return Residual(delta=eps_hat - noised.reference, eps_hat=eps_hat)


def build(config: GuidanceConfig, prior: Prior, conditions: TextConditions) -> Sds:
    return Sds(config.sds.unconditional.value, config.cfg_scale, config.cfg_rescale)
