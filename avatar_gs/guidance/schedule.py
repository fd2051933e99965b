"""Which noise levels a run visits, and when."""

from jaxtyping import Float, Int
from torch import Tensor

from avatar_gs.guidance.config import ScheduleConfig, ScheduleKind


def draw_times(
    config: ScheduleConfig, progress: float, uniform: Float[Tensor, " B"], num_timesteps: int
) -> Int[Tensor, " B"]:
    """Training steps of the prior (0 … num_timesteps - 1), one a picture.

    Args:
        progress: how much of the run is done, in [0, 1].
        uniform: one draw from [0, 1) a picture, the only randomness.
    """
    if config.kind is ScheduleKind.uniform:
        share = config.t_min + (config.t_max - config.t_min) * uniform
    else:  # HiFA (Zhu and Zhuang 2023): fast through the high levels, slow through the low ones
        annealed = max(config.t_max - (config.t_max - config.t_min) * progress**0.5, config.floor)
        share = annealed + config.jitter * (2 * uniform - 1)
    lowest = max(config.t_min, config.floor) if config.kind is ScheduleKind.sqrt_annealed else config.t_min
    share = share.clamp(lowest, max(config.t_max, lowest))
    return (share * num_timesteps).round().long().clamp(0, num_timesteps - 1)
