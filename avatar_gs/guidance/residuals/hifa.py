"""HiFA (Zhu and Zhuang 2023): the clean picture by several denoising steps.

Its second term, the distance to the decoded clean picture, is ``guidance.rgb_weight``.
"""

from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import GuidanceConfig, HifaConfig
from avatar_gs.guidance.noise import Noised, arrived, ddim
from avatar_gs.guidance.residuals.base import Context, Plain, Predictor, Residual
from avatar_gs.guidance.weights import Cfg
from avatar_gs.protocols import Prior


class Hifa(Plain):
    """delta = (alpha / sigma)(z - z0_hat), which is eps_k - eps for the noise eps_k that z0_hat implies."""

    def __init__(self, config: HifaConfig, cfg: Cfg) -> None:
        self.steps = config.denoising_steps
        self.cfg = cfg

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        here, asked = noised, context.asked(*self.cfg.names)
        for left in reversed(range(1, self.steps)):
            eps = self.cfg(predict(here, asked))
            t = noised.t * left // self.steps
            here = arrived(predict.prior, noised.z, ddim(predict.prior, here.z_t, here.t, eps, t), t)
        z0_hat = here.denoised(self.cfg(predict(here, asked)))
        eps_k = (noised.z_t - noised.alpha * z0_hat) / noised.sigma
        return Residual(eps_k - noised.reference, eps_k)


def build(config: GuidanceConfig, prior: Prior, conditions: TextConditions) -> Hifa:
    return Hifa(config.hifa, Cfg.of(config))
