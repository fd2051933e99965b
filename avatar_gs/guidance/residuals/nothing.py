"""No guidance: the control for evaluation. It asks the prior nothing and moves nothing."""

import torch

from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import GuidanceConfig
from avatar_gs.guidance.noise import Noised
from avatar_gs.guidance.residuals.base import Context, Plain, Predictor, Residual
from avatar_gs.protocols import Prior


class Nothing(Plain):
    """delta = 0."""

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        return Residual(delta=torch.zeros_like(noised.z))


def build(config: GuidanceConfig, prior: Prior, conditions: TextConditions) -> Nothing:
    return Nothing()
