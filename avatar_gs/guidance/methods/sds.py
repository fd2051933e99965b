"""SDS: Score Distillation Sampling (Poole et al. 2022, DreamFusion, arXiv:2209.14988)."""

from dataclasses import dataclass

from avatar_gs.guidance.cfg import Cfg
from avatar_gs.guidance.methods.base import Context, Method, MethodConfig, Noised, Predictor, Residual, Setup


@dataclass
class SdsConfig(MethodConfig):
    """SDS has no settings of its own."""

    section = "guidance.sds"
    predictions = (2, 0)

    def build(self, setup: Setup) -> "Sds":
        return Sds(setup.cfg)


class Sds(Method):
    """``delta = cfg_s(z_t) - eps``, where eps is the noise in z_t (``Noised.reference``)."""

    def __init__(self, cfg: Cfg) -> None:
        self.cfg = cfg

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        eps_hat = self.cfg(predict(noised, context.select(*self.cfg.names)))
        return Residual(eps_hat - noised.reference, eps_hat)
