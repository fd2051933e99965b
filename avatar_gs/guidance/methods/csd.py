"""CSD: Classifier Score Distillation (Yu et al. 2023, arXiv:2310.19415)."""

from dataclasses import dataclass, replace

from avatar_gs.core.validation import bounded
from avatar_gs.guidance.cfg import Cfg
from avatar_gs.guidance.methods.base import Context, Method, MethodConfig, Noised, Predictor, Residual, Setup


@dataclass
class CsdConfig(MethodConfig):
    """Classifier Score Distillation; the weight n of the negative prompt's direction may change over the run."""

    section = "guidance.csd"

    negative_start: float = bounded(0.0, 0, expected="0 (off) or more")
    """n at the start of the run."""
    negative_end: float = bounded(0.0, 0, expected="0 (off) or more")
    """n at its end, with linear interpolation between them."""

    def build(self, setup: Setup) -> "Csd":
        return Csd(self, replace(setup.cfg, away="null"))


class Csd(Method):
    """``delta = s [eps(text) - eps(null)] - n [eps(negative) - eps(null)]``; n = 0 saves the negative prediction."""

    def __init__(self, config: CsdConfig, cfg: Cfg) -> None:
        self.config = config
        self.cfg = cfg

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        config = self.config
        n = config.negative_start + (config.negative_end - config.negative_start) * context.progress
        eps = predict(noised, context.select(*self.cfg.names, *(["negative"] if n else [])))
        eps_hat = self.cfg(eps)
        delta = eps_hat - eps["null"]
        if n:
            delta = delta - n * (eps["negative"] - eps["null"])
        return Residual(delta, eps_hat)
