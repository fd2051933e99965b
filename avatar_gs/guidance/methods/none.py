"""No guidance: a control for experiments."""

from dataclasses import dataclass

from avatar_gs.core.lazy import torch
from avatar_gs.guidance.methods.base import Context, Method, MethodConfig, Noised, Predictor, Residual, Setup


@dataclass
class NoneConfig(MethodConfig):
    """The control has no settings of its own."""

    section = "guidance.none"

    def build(self, setup: Setup) -> "Nothing":
        return Nothing()


class Nothing(Method):
    """``delta = 0``, without a prediction of the prior."""

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        return Residual(delta=torch.zeros_like(noised.z))
