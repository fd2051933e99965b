"""L_Diff: the diffusion training loss itself, differentiated through the UNet, which SDS skips (Poole et al. 2022)."""

from dataclasses import replace

import torch

from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import GuidanceConfig
from avatar_gs.guidance.noise import Noised
from avatar_gs.guidance.residuals.base import Context, Plain, Predictor, Residual
from avatar_gs.guidance.weights import Cfg
from avatar_gs.protocols import Prior


class LDiff(Plain):
    """delta = alpha J^T (cfg_s - eps), J = d cfg_s / d z_t: the gradient of 0.5 |cfg_s - eps|^2 on z."""

    def __init__(self, cfg: Cfg) -> None:
        self.cfg = cfg

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        with torch.enable_grad():
            z_t = noised.z_t.clone().requires_grad_(True)
            eps_hat = self.cfg(predict(replace(noised, z_t=z_t), context.asked(*self.cfg.names)))
            (gradient,) = torch.autograd.grad(0.5 * (eps_hat - noised.reference).square().sum(), z_t)
        return Residual(noised.alpha * gradient, eps_hat.detach())


def build(config: GuidanceConfig, prior: Prior, conditions: TextConditions) -> LDiff:
    return LDiff(Cfg.of(config))
