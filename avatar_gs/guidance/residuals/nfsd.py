"""NFSD: Noise-Free Score Distillation (Katzir et al. 2023)."""

from jaxtyping import Float
from torch import Tensor

from avatar_gs.core.device import to_device
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import GuidanceConfig, NfsdConfig
from avatar_gs.guidance.noise import Noised, noise_ratios
from avatar_gs.guidance.residuals.base import Context, Plain, Predictor, Residual
from avatar_gs.guidance.weights import Cfg
from avatar_gs.protocols import Prior


class Nfsd(Plain):
    """delta = s [eps(text) - eps(null)] + c delta_D. The correction delta_D is eps(null) where there is little noise,
    and eps(null) - eps(negative) where there is more; each picture decides for itself."""

    def __init__(self, config: NfsdConfig, cfg: Cfg, noise_ratios: Float[Tensor, " T"]) -> None:
        """``noise_ratios``: sigma / alpha at every timestep, on the host."""
        self.config = config
        self.cfg = cfg
        self._subtracts = noise_ratios >= config.small_noise_cut

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        subtracts = self._subtracts[context.t]
        asked = context.asked(*self.cfg.names)
        where = {}
        if subtracts.any() and "negative" not in asked:
            asked |= context.asked("negative")
            where = {"negative": subtracts}
        eps = predict(noised, asked, where)
        eps_hat = self.cfg(eps)
        correction = eps["null"]
        if subtracts.any():
            mask = to_device(subtracts[:, None, None, None], noised.z.device)
            correction = correction - eps["negative"].where(mask, 0.0)
        return Residual(eps_hat - eps["null"] + self.config.correction_weight * correction, eps_hat)


def build(config: GuidanceConfig, prior: Prior, conditions: TextConditions) -> Nfsd:
    return Nfsd(config.nfsd, Cfg.of(config, "null"), noise_ratios(prior))
