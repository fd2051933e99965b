"""PDS: Posterior Distillation Sampling (Koo et al. 2023), for editing.

It matches the noise that leads from z_t to the level below, in the picture and in its source. With z_t = alpha z +
sigma eps and the same noise for both, the difference is psi (z - z_source) + chi (eps_hat - eps_hat_source).
"""

from jaxtyping import Float, Int
from torch import Tensor

from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import GuidanceConfig, PdsConfig
from avatar_gs.guidance.noise import Noised
from avatar_gs.guidance.residuals.base import Context, Plain, Predictor, Residual
from avatar_gs.guidance.residuals.editing import check_source, guided_pair
from avatar_gs.guidance.weights import Cfg
from avatar_gs.protocols import Prior


class Pds(Plain):
    """delta = psi (z - z_source) + chi [cfg_s(z_t; text) - cfg_s(z_t of the source; its prompt)]."""

    def __init__(self, config: PdsConfig, cfg: Cfg) -> None:
        self.stride = config.stride
        self.cfg = cfg

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        target, source, z_source = guided_pair(noised, predict, context, self.cfg)
        factors = coefficients(predict.prior, noised.t, self.stride)
        psi, chi = (factor[:, None, None, None].to(noised.z) for factor in factors)
        return Residual(psi * (noised.z - z_source) + chi * (target - source), target)


def coefficients(prior: Prior, t: Int[Tensor, " B"], stride: int) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """``(psi, chi)`` from the posterior q(z_{t - stride} | z_t, z_0), its beta that of one step whatever the stride (as
    published): with stride 1 it is exact and psi vanishes."""
    t = t.clamp_min(1)
    signal, before, below = (prior.alpha(time).double() ** 2 for time in (t, t - 1, (t - stride).clamp_min(0)))
    one_step = signal / before
    beta = 1 - one_step
    of_clean = below.sqrt() * beta / (1 - signal)
    of_noisy = one_step.sqrt() * (1 - below) / (1 - signal)
    spread = ((1 - below) / (1 - signal) * beta).sqrt()
    psi = (below.sqrt() - of_clean - of_noisy * signal.sqrt()) / spread
    chi = of_clean * ((1 - signal) / signal).sqrt() / spread
    return psi, chi


def build(config: GuidanceConfig, prior: Prior, conditions: TextConditions) -> Pds:
    check_source(config.method, conditions)
    return Pds(config.pds, Cfg.of(config))
