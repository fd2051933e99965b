"""DDS: Delta Denoising Score (Hertz et al. 2023), for editing."""

from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import GuidanceConfig
from avatar_gs.guidance.noise import Noised
from avatar_gs.guidance.residuals.base import Context, Plain, Predictor, Residual
from avatar_gs.guidance.residuals.editing import check_source, guided_pair
from avatar_gs.guidance.weights import Cfg
from avatar_gs.protocols import Prior


class Dds(Plain):
    """delta = cfg_s(z_t; text) - cfg_s(z_t of the source; its prompt), under the same noise, which cancels."""

    def __init__(self, cfg: Cfg) -> None:
        self.cfg = cfg

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        target, source, _ = guided_pair(noised, predict, context, self.cfg)
        return Residual(target - source, target)


def build(config: GuidanceConfig, prior: Prior, conditions: TextConditions) -> Dds:
    check_source(config.method, conditions)
    return Dds(Cfg.of(config))
