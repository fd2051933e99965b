"""CSD: Classifier Score Distillation (Yu et al. 2023)."""

from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import CsdConfig, GuidanceConfig
from avatar_gs.guidance.noise import Noised
from avatar_gs.guidance.residuals.base import Context, Plain, Predictor, Residual
from avatar_gs.guidance.weights import Cfg
from avatar_gs.protocols import Prior


class Csd(Plain):
    """delta = s [eps(text) - eps(null)] - n [eps(negative) - eps(null)], n fading over the run (0: never asked)."""

    def __init__(self, config: CsdConfig, cfg: Cfg) -> None:
        self.config = config
        self.cfg = cfg

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        config = self.config
        against = config.negative_start + (config.negative_end - config.negative_start) * context.progress
        eps = predict(noised, context.asked(*self.cfg.names, *(["negative"] if against else [])))
        eps_hat = self.cfg(eps)
        delta = eps_hat - eps["null"]
        if against:
            delta = delta - against * (eps["negative"] - eps["null"])
        return Residual(delta, eps_hat)


def build(config: GuidanceConfig, prior: Prior, conditions: TextConditions) -> Csd:
    return Csd(config.csd, Cfg.of(config, "null"))
