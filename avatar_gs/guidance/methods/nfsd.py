"""NFSD: Noise-Free Score Distillation (Katzir et al. 2023, arXiv:2310.17590)."""

from dataclasses import dataclass, replace

from avatar_gs.core.device import to_device
from avatar_gs.core.lazy import Float, Tensor
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
    noise_ratios,
)


@dataclass
class NfsdConfig(MethodConfig):
    """Noise-Free Score Distillation."""

    section = "guidance.nfsd"

    correction_weight: float = bounded(1.0, 0)
    """Weight c of the noise correction, 0 or more."""
    small_noise_cut: float = bounded(0.57, 0, expected="a ratio of 0 or more")
    """sigma / alpha below which the noise correction is eps(null) alone (t < 200 of 1000 in Stable Diffusion)."""

    def build(self, setup: Setup) -> "Nfsd":
        return Nfsd(self, replace(setup.cfg, away="null"), noise_ratios(setup.prior))


class Nfsd(Method):
    """``delta = s [eps(text) - eps(null)] + c delta_D``, where the noise correction delta_D is eps(null) below the
    noise cut and eps(null) - eps(negative) above it, for each image."""

    def __init__(self, config: NfsdConfig, cfg: Cfg, ratios: Float[Tensor, " T"]) -> None:
        """``ratios``: sigma / alpha at every timestep, on the host."""
        self.config = config
        self.cfg = cfg
        self._subtracts = ratios >= config.small_noise_cut

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        subtracts = self._subtracts[context.t]
        conditions = context.select(*self.cfg.names)
        where = {}
        if subtracts.any() and "negative" not in conditions:
            conditions |= context.select("negative")
            where = {"negative": subtracts}
        eps = predict(noised, conditions, where)
        eps_hat = self.cfg(eps)
        correction = eps["null"]
        if subtracts.any():
            mask = to_device(subtracts[:, None, None, None], noised.z.device)
            correction = correction - eps["negative"].where(mask, 0.0)
        return Residual(eps_hat - eps["null"] + self.config.correction_weight * correction, eps_hat)
