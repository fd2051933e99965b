"""Robust NFSD: a variant of NFSD (Katzir et al. 2023) whose noise correction has its own, small timestep and a given
norm. Unpublished."""

from dataclasses import dataclass, replace

from avatar_gs.core.device import to_device
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
    independent,
    uniforms,
)
from avatar_gs.guidance.methods.nfsd import Nfsd, NfsdConfig
from avatar_gs.guidance.schedule import ScheduleConfig, ScheduleKind, draw_times, require_t_range

WARMUP_SHARE = 0.6
"""Largest fraction of a short run that the warm-up may take."""


@dataclass
class RobustNfsdConfig(MethodConfig):
    """NFSD whose noise correction is predicted at its own, small t."""

    section = "guidance.robust_nfsd"

    warmup_steps: int = bounded(300, 0, expected="0 or more steps")
    """Steps of plain NFSD at the start of the run."""
    correction_weight: float = bounded(2.0, 0)
    """Norm c of the noise correction relative to the text direction's norm, 0 or more."""
    t_min: float = 0.02
    """Smallest t of the correction, as a fraction of the prior's training steps."""
    t_max: float = 0.2
    """Largest t of the correction, above ``t_min``, at most 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_t_range(self.section, self.t_min, self.t_max)

    def fitted(self, steps: int) -> "RobustNfsdConfig":
        return replace(self, warmup_steps=min(self.warmup_steps, round(WARMUP_SHARE * steps)))

    def build(self, setup: Setup) -> "RobustNfsd":
        cfg, nfsd = replace(setup.cfg, away="null"), setup.methods["nfsd"]
        assert isinstance(nfsd, NfsdConfig)
        return RobustNfsd(self, cfg, nfsd.build(setup))


class RobustNfsd(Method):
    """``delta = g + c |g| d / |d|`` for each image, with ``g = s [eps(text) - eps(null)]`` at the step's t and
    ``d = eps(null)`` at a small one; before that, a warm-up of NFSD."""

    def __init__(self, config: RobustNfsdConfig, cfg: Cfg, first: Nfsd) -> None:
        self.config = config
        self.cfg = cfg
        self.first = first
        self.small = ScheduleConfig(kind=ScheduleKind.uniform, t_min=config.t_min, t_max=config.t_max)

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        if context.step < self.config.warmup_steps:
            return self.first(noised, predict, context)
        prior = predict.prior
        t = draw_times(self.small, context.progress, uniforms(context.generators), prior.num_timesteps)
        little = independent(prior, noised.z, to_device(t, noised.t.device), context.generators)
        inputs = {name: (noised, condition) for name, condition in context.select(*self.cfg.names).items()}
        eps = predict.together({**inputs, "correction": (little, context.conditions["null"])})
        eps_hat = self.cfg(eps)
        direction, correction = eps_hat - eps["null"], eps["correction"]
        norm, own = (value.flatten(1).norm(dim=1)[:, None, None, None] for value in (direction, correction))
        return Residual(direction + self.config.correction_weight * norm / own.clamp_min(1e-12) * correction, eps_hat)
