"""SDS: Score Distillation Sampling (Poole et al. 2022, DreamFusion)."""

from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import GuidanceConfig
from avatar_gs.guidance.noise import Noised
from avatar_gs.guidance.residuals.base import Context, Plain, Predictor, Residual
from avatar_gs.guidance.weights import Cfg
from avatar_gs.protocols import Prior


class Sds(Plain):
    """delta = cfg_s - reference, and the reference is the noise."""

    def __init__(self, cfg: Cfg) -> None:
        self.cfg = cfg

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        eps_hat = self.cfg(predict(noised, context.asked(*self.cfg.names)))
        return Residual(eps_hat - noised.reference, eps_hat)


def build(config: GuidanceConfig, prior: Prior, conditions: TextConditions) -> Sds:
    return Sds(Cfg.of(config))
