"""PDS: Posterior Distillation Sampling (Koo et al. 2023, arXiv:2311.13831), for editing.

PDS matches the noise of the step from z_t to the level below, between an image and the source it is edited from. With
z_t = alpha z + sigma eps and the same eps for both, the difference is psi (z - z_source) + chi (eps_hat - eps_source).
"""

from dataclasses import dataclass

from avatar_gs.core.lazy import Float, Int, Tensor
from avatar_gs.core.validation import bounded
from avatar_gs.guidance.cfg import Cfg
from avatar_gs.guidance.methods.base import Context, Method, MethodConfig, Noised, Predictor, Residual, Setup
from avatar_gs.guidance.methods.dds import guided_pair
from avatar_gs.protocols import Prior


@dataclass
class PdsConfig(MethodConfig):
    """Posterior Distillation Sampling."""

    section = "guidance.pds"
    edits = True
    subtracts_from_guided = False

    stride: int = bounded(2, 1, expected="1 or more steps")
    """Training steps between a level and the one below it; the published code uses 2, and 1 is a reweighted DDS."""

    def build(self, setup: Setup) -> "Pds":
        self.require_source("source" in setup.conditions.extra)
        return Pds(self, setup.cfg)


class Pds(Method):
    """``delta = psi (z - z_source) + chi [cfg_s(z_t; text) - cfg_s(z_t of the source; its prompt)]``."""

    def __init__(self, config: PdsConfig, cfg: Cfg) -> None:
        self.stride = config.stride
        self.cfg = cfg

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        target, source, z_source = guided_pair(noised, predict, context, self.cfg)
        factors = coefficients(predict.prior, noised.t, self.stride)
        psi, chi = (factor[:, None, None, None].to(noised.z) for factor in factors)
        return Residual(psi * (noised.z - z_source) + chi * (target - source), target)


def coefficients(prior: Prior, t: Int[Tensor, " B"], stride: int) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """``(psi, chi)`` of the posterior q(z_{t - stride} | z_t, z_0).

    As in the published code, beta is that of a single step for any stride; with stride 1 the posterior is exact and psi
    vanishes.
    """
    t = t.clamp_min(1)
    signal, before, below = (prior.alpha(time).double() ** 2 for time in (t, t - 1, (t - stride).clamp_min(0)))
    one_step = signal / before
    beta = 1 - one_step
    of_clean = below.sqrt() * beta / (1 - signal)
    of_noisy = one_step.sqrt() * (1 - below) / (1 - signal)
    deviation = ((1 - below) / (1 - signal) * beta).sqrt()
    psi = (below.sqrt() - of_clean - of_noisy * signal.sqrt()) / deviation
    chi = of_clean * ((1 - signal) / signal).sqrt() / deviation
    return psi, chi
