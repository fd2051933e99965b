"""Robust NFSD: NFSD whose noise correction is taken at a small noise level of its own, at a length that is given."""

from avatar_gs.core.device import to_device
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import GuidanceConfig, RobustNfsdConfig, ScheduleConfig, ScheduleKind
from avatar_gs.guidance.noise import Noised, independent, uniforms
from avatar_gs.guidance.residuals import nfsd
from avatar_gs.guidance.residuals.base import Context, Plain, Predictor, Residual
from avatar_gs.guidance.schedule import draw_times
from avatar_gs.guidance.weights import Cfg
from avatar_gs.protocols import Prior


class RobustNfsd(Plain):
    """delta = g + c |g| d / |d| for each picture, g = s [eps(text) - eps(null)] at the step's (large) t and d =
    eps(null) at a small one; before that, a warm-up of plain NFSD."""

    def __init__(self, config: RobustNfsdConfig, cfg: Cfg, warmup: nfsd.Nfsd) -> None:
        self.config = config
        self.cfg = cfg
        self.first = warmup
        self.small = ScheduleConfig(kind=ScheduleKind.uniform, t_min=config.t_min, t_max=config.t_max)

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        if context.step < self.config.warmup_steps:
            return self.first(noised, predict, context)
        prior = predict.prior
        t = draw_times(self.small, context.progress, uniforms(context.generators), prior.num_timesteps)
        t = to_device(t, noised.t.device)
        little = independent(prior, noised.z, t, context.generators)
        asked = {name: (noised, cond) for name, cond in context.asked(*self.cfg.names).items()}
        eps = predict.together({**asked, "correction": (little, context.conditions["null"])})
        eps_hat = self.cfg(eps)
        direction = eps_hat - eps["null"]
        length, own = (value.flatten(1).norm(dim=1)[:, None, None, None] for value in (direction, eps["correction"]))
        correction = self.config.correction_weight * length / own.clamp_min(1e-12) * eps["correction"]
        return Residual(direction + correction, eps_hat)


def build(config: GuidanceConfig, prior: Prior, conditions: TextConditions) -> RobustNfsd:
    return RobustNfsd(config.robust_nfsd, Cfg.of(config, "null"), nfsd.build(config, prior, conditions))
