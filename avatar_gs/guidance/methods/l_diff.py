"""L_Diff: the diffusion training loss, differentiated through the UNet (Poole et al. 2022, arXiv:2209.14988, eq. 2)."""

from dataclasses import dataclass, replace

from avatar_gs.core.lazy import torch
from avatar_gs.guidance.cfg import Cfg
from avatar_gs.guidance.methods.base import Context, Method, MethodConfig, Noised, Predictor, Residual, Setup


@dataclass
class LDiffConfig(MethodConfig):
    """L_Diff has no settings of its own."""

    section = "guidance.l_diff"
    subtracts_from_guided = False
    through_networks = True

    def build(self, setup: Setup) -> "LDiff":
        return LDiff(setup.cfg)


class LDiff(Method):
    """``delta = alpha J^T (cfg_s(z_t) - eps)`` with ``J = d cfg_s / d z_t``: the gradient of 0.5 |cfg_s - eps|^2 on z.
    SDS leaves out J."""

    def __init__(self, cfg: Cfg) -> None:
        self.cfg = cfg

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        with torch.enable_grad():
            z_t = noised.z_t.clone().requires_grad_(True)
            eps_hat = self.cfg(predict(replace(noised, z_t=z_t), context.select(*self.cfg.names)))
            (gradient,) = torch.autograd.grad(0.5 * (eps_hat - noised.reference).square().sum(), z_t)
        return Residual(noised.alpha * gradient, eps_hat.detach())
