"""Which timesteps a run samples, and the weight w(t) of each."""

from dataclasses import dataclass
from enum import Enum

from avatar_gs.core.errors import UserError
from avatar_gs.core.lazy import Float, Int, Tensor
from avatar_gs.core.validation import Section, bounded


class ScheduleKind(Enum):
    """How timesteps are sampled over a run."""

    sqrt_annealed = "sqrt_annealed"
    linear = "linear"
    uniform = "uniform"
    two_stage = "two_stage"


class Weight(Enum):
    """w(t), the factor of the residual; alpha = sqrt(alphas_cumprod), sigma = sqrt(1 - alphas_cumprod)."""

    sigma_squared = "sigma_squared"
    one = "one"
    alpha = "alpha"
    sigma_over_alpha = "sigma_over_alpha"
    alpha_over_sigma = "alpha_over_sigma"
    one_over_alpha = "one_over_alpha"


def require_t_range(section: str, t_min: float, t_max: float) -> None:
    """Raises UserError unless 0 <= t_min < t_max <= 1."""
    if not 0 <= t_min < t_max <= 1:
        raise UserError(
            f"{section}.t_min={t_min}, t_max={t_max}: expected 0 <= t_min < t_max <= 1 (fractions of the prior's "
            "training steps)"
        )


@dataclass
class ScheduleConfig(Section):
    """Timesteps t as fractions of the prior's training steps (0 clean, 1 pure noise)."""

    section = "guidance.schedule"

    kind: ScheduleKind = ScheduleKind.linear
    """``linear`` and ``sqrt_annealed`` fall from ``t_max`` to ``t_min`` over the run, ``uniform`` samples between them,
    ``two_stage`` samples uniformly and lowers the upper limit at ``late``."""
    t_max: float = 0.98
    """Largest t, above ``t_min``, at most 1."""
    t_min: float = 0.02
    """Smallest t, 0 or more."""
    floor: float = bounded(0.0, 0, 1, below=True)
    """An annealed t never falls below this."""
    jitter: float = bounded(0.0, 0, 1, below=True)
    """An annealed t is shifted by a uniform sample from ± this, for each image."""
    late: float = bounded(0.5, 0, 1, expected="a fraction of the run, 0 to 1")
    """Fraction of the run after which ``two_stage`` replaces ``t_max`` by ``t_max_late``."""
    t_max_late: float = 0.5
    """Largest t of the second stage, above ``t_min``, at most ``t_max``."""

    def __post_init__(self) -> None:
        require_t_range(self.section, self.t_min, self.t_max)
        super().__post_init__()
        if self.kind is ScheduleKind.two_stage and not self.t_min < self.t_max_late <= self.t_max:
            raise UserError(
                f"guidance.schedule.t_max_late={self.t_max_late}: expected more than t_min={self.t_min}, at most "
                f"t_max={self.t_max}"
            )


ANNEALED = {
    ScheduleKind.sqrt_annealed: lambda progress: progress**0.5,  # HiFA: most steps at small t
    ScheduleKind.linear: lambda progress: progress,
}
"""Maps the completed fraction of the run to that of the descent from ``t_max`` to ``t_min``."""


def draw_times(
    config: ScheduleConfig, progress: float, uniform: Float[Tensor, " B"], num_timesteps: int
) -> Int[Tensor, " B"]:
    """Sample a timestep for each image.

    Args:
        config: the schedule.
        progress: completed fraction of the run, in [0, 1].
        uniform: a sample from U[0, 1) per image, the only randomness.
        num_timesteps: training steps of the prior.

    Returns:
        Timesteps from 0 to ``num_timesteps`` - 1.
    """
    lowest, highest = config.t_min, config.t_max
    if config.kind in ANNEALED:
        lowest = max(config.t_min, config.floor)
        annealed = max(config.t_max - (config.t_max - config.t_min) * ANNEALED[config.kind](progress), config.floor)
        fraction = annealed + config.jitter * (2 * uniform - 1)
    else:
        if config.kind is ScheduleKind.two_stage and progress >= config.late:
            highest = config.t_max_late
        fraction = config.t_min + (highest - config.t_min) * uniform
    fraction = fraction.clamp(lowest, max(highest, lowest))
    return (fraction * num_timesteps).round().long().clamp(0, num_timesteps - 1)


def weight(name: Weight, alpha: Float[Tensor, "B 1 1 1"], sigma: Float[Tensor, "B 1 1 1"]) -> Float[Tensor, "B 1 1 1"]:
    """w(t) of each image."""
    return {
        Weight.sigma_squared: lambda: sigma**2,
        Weight.one: lambda: sigma * 0 + 1,
        Weight.alpha: lambda: alpha,
        Weight.sigma_over_alpha: lambda: sigma / alpha,
        Weight.alpha_over_sigma: lambda: alpha / sigma,
        Weight.one_over_alpha: lambda: 1 / alpha,
    }[name]()
