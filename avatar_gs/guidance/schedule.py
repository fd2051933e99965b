"""Which noise levels a run visits, and when."""

from jaxtyping import Float, Int
from torch import Tensor

from avatar_gs.guidance.config import ScheduleConfig, ScheduleKind

ANNEALED = {
    ScheduleKind.sqrt_annealed: lambda progress: progress**0.5,  # HiFA: fast through the high levels, slow below
    ScheduleKind.linear: lambda progress: progress,
}


def draw_times(
    config: ScheduleConfig, progress: float, uniform: Float[Tensor, " B"], num_timesteps: int
) -> Int[Tensor, " B"]:
    """Training steps of the prior (0 … num_timesteps - 1), one a picture.

    Args:
        progress: how much of the run is done, in [0, 1].
        uniform: one draw from [0, 1) a picture, the only randomness.
    """
    lowest, highest = config.t_min, config.t_max
    if config.kind in ANNEALED:
        lowest = max(config.t_min, config.floor)
        done = ANNEALED[config.kind](progress)
        annealed = max(config.t_max - (config.t_max - config.t_min) * done, config.floor)
        share = annealed + config.jitter * (2 * uniform - 1)
    else:
        if config.kind is ScheduleKind.two_stage and progress >= config.late:
            highest = config.t_max_late
        share = config.t_min + (highest - config.t_min) * uniform
    share = share.clamp(lowest, max(highest, lowest))
    return (share * num_timesteps).round().long().clamp(0, num_timesteps - 1)
