"""ISM: Interval Score Matching (Liang et al. 2023, LucidDreamer)."""

from dataclasses import replace
from itertools import pairwise

from jaxtyping import Float, Int
from torch import Tensor

from avatar_gs.core.device import to_device
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import GuidanceConfig, IsmConfig
from avatar_gs.guidance.noise import Noised, arrived, ddim
from avatar_gs.guidance.residuals.base import Context, Predictor
from avatar_gs.guidance.residuals.sds import Sds
from avatar_gs.guidance.weights import Cfg
from avatar_gs.protocols import Prior


class Ism(Sds):
    """delta = cfg_s(z_t) - eps(z_u; null), with z_u and then z_t by inversion under the empty prompt: SDS's residual
    with the last step of that inversion for a reference."""

    def __init__(self, config: IsmConfig, cfg: Cfg) -> None:
        super().__init__(cfg)
        self.config = config

    def noise(self, z: Float[Tensor, "B c h w"], t: Int[Tensor, " B"], predict: Predictor, context: Context) -> Noised:
        prior, empty = predict.prior, context.asked("null")
        z_t, eps = z, z
        levels = self.path(context.t, context.progress, prior.num_timesteps)  # on the host: no GPU is asked
        there = [to_device(level, t.device) for level in levels]
        for (low, high), (now, later) in zip(pairwise(levels), pairwise(there), strict=True):
            here = arrived(prior, z, z_t, now)
            eps = predict(here, empty, where={"null": high > low})["null"]
            z_t = ddim(prior, z_t, now, eps, later)
        return replace(arrived(prior, z, z_t, t), reference=eps)

    def path(self, t: Int[Tensor, " B"], progress: float, num_timesteps: int) -> list[Int[Tensor, " B"]]:
        """The levels of the inversion: from 0 in strides to u, and from u to t. A picture with a low u waits at 0."""
        stride, gap = (max(round(share * num_timesteps), 1) for share in (self.config.stride, self.gap(progress)))
        u = (t - gap).clamp_min(0)
        strides = -(-int(u.max()) // stride)
        return [*((u - stride * left).clamp_min(0) for left in reversed(range(strides + 1))), t]

    def gap(self, progress: float) -> float:
        """t - u, as a share of the training steps."""
        left = max(0.0, 1 - progress / self.config.gap_falls) if self.config.gap_falls else 0.0
        return self.config.gap + (self.config.gap_start - self.config.gap) * left


def build(config: GuidanceConfig, prior: Prior, conditions: TextConditions) -> Ism:
    return Ism(config.ism, Cfg.of(config))
