"""HiFA (Zhu and Zhuang 2023, arXiv:2305.18766): the clean latents by several denoising steps.

Its second term, the distance between the render and the decoded clean latents, is ``guidance.rgb_weight``.
"""

from dataclasses import dataclass

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
    at_level,
    ddim,
)


@dataclass
class HifaConfig(MethodConfig):
    """HiFA's first term."""

    section = "guidance.hifa"
    cost = 9.0

    denoising_steps: int = bounded(4, 1, expected="1 or more")
    """DDIM steps from z_t to the clean latents; 1 is SDS."""

    def build(self, setup: Setup) -> "Hifa":
        return Hifa(self, setup.cfg)


class Hifa(Method):
    """``delta = (alpha / sigma)(z - z0_hat) = eps_k - eps``, where z0_hat is the result of k guided DDIM steps from z_t
    and eps_k is the noise prediction that implies it."""

    def __init__(self, config: HifaConfig, cfg: Cfg) -> None:
        self.steps = config.denoising_steps
        self.cfg = cfg

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        current, conditions = noised, context.select(*self.cfg.names)
        for left in reversed(range(1, self.steps)):
            eps = self.cfg(predict(current, conditions))
            t = noised.t * left // self.steps
            current = at_level(predict.prior, noised.z, ddim(predict.prior, current.z_t, current.t, eps, t), t)
        z0_hat = current.denoised(self.cfg(predict(current, conditions)))
        eps_k = noised.noise_towards(z0_hat)
        return Residual(eps_k - noised.reference, eps_k)
