"""Settings of score distillation: the method, and the parts that all methods share."""

from dataclasses import dataclass, field
from enum import Enum

from avatar_gs.errors import UserError


class Method(Enum):
    """What the residual is made of; ``none`` is the control that moves nothing."""

    de_sds = "de_sds"
    sds = "sds"
    none = "none"


class ScheduleKind(Enum):
    """How noise levels are drawn over a run."""

    sqrt_annealed = "sqrt_annealed"
    uniform = "uniform"


class Weight(Enum):
    """w(t) before the residual, in alpha = sqrt(alphas_cumprod) and sigma = sqrt(1 - alphas_cumprod)."""

    sigma_squared = "sigma_squared"
    one = "one"
    alpha = "alpha"
    sigma_over_alpha = "sigma_over_alpha"
    alpha_over_sigma = "alpha_over_sigma"
    one_over_alpha = "one_over_alpha"


class Unconditional(Enum):
    """The condition that classifier-free guidance pushes away from."""

    negative = "negative"
    null = "null"


class SmallNoise(Enum):
    """DE-SDS below the noise cut: ``seed`` subtracts nothing (as first described); ``con``: eps(y_con), as above it."""

    seed = "seed"
    con = "con"


@dataclass
class ScheduleConfig:
    """Noise levels as shares of the prior's training steps (0 clean, 1 pure noise)."""

    kind: ScheduleKind = ScheduleKind.sqrt_annealed
    t_max: float = 0.98
    t_min: float = 0.02
    floor: float = 0.0
    """An annealed t never falls below this share."""
    jitter: float = 0.0
    """An annealed t moves by up to ± this share, drawn for each picture."""

    def __post_init__(self) -> None:
        if not 0 <= self.t_min < self.t_max <= 1:
            raise UserError(
                f"guidance.schedule.t_min={self.t_min}, t_max={self.t_max}: expected 0 <= t_min < t_max <= 1 "
                "(shares of the prior's training steps)"
            )
        for name, value in {"floor": self.floor, "jitter": self.jitter}.items():
            if not 0 <= value < 1:
                raise UserError(f"guidance.schedule.{name}={value}: expected 0 <= {name} < 1")


@dataclass
class DeSdsConfig:
    """DE-SDS: the learnable condition y_con that comes to describe the renders as they are."""

    learning_rate: float = 8e-4
    warmup: float = 0.03
    """The share of the run, at its start, in which only y_con learns and the avatar rests."""
    update_every: int = 1
    """Steps between two updates of y_con; the others are cheaper by one backward pass."""
    small_noise: SmallNoise = SmallNoise.seed
    small_noise_cut: float = 0.57
    """sigma / alpha below which ``small_noise`` applies (t < 200 of 1000 in Stable Diffusion)."""
    norm_band: float = 0.5
    """Each token of y_con keeps its first norm within ± this share."""

    def __post_init__(self) -> None:
        if not self.learning_rate >= 0:
            raise UserError(f"guidance.de_sds.learning_rate={self.learning_rate}: expected 0 or more")
        if not 0 <= self.warmup < 1:
            raise UserError(f"guidance.de_sds.warmup={self.warmup}: expected a share of the run, 0 <= warmup < 1")
        if self.update_every < 1:
            raise UserError(f"guidance.de_sds.update_every={self.update_every}: expected 1 or more steps")
        if not self.small_noise_cut >= 0:
            raise UserError(f"guidance.de_sds.small_noise_cut={self.small_noise_cut}: expected a ratio of 0 or more")
        if not 0 < self.norm_band <= 1:
            raise UserError(f"guidance.de_sds.norm_band={self.norm_band}: expected 0 < norm_band <= 1")


@dataclass
class SdsConfig:
    """SDS (DreamFusion)."""

    unconditional: Unconditional = Unconditional.negative


@dataclass
class GuidanceConfig:
    """Score distillation. ``cfg_scale`` is s in each method's own formula: SDS at s + 1 pulls as DE-SDS does at s."""

    method: Method = Method.de_sds
    cfg_scale: float = 4.0
    """7.5 is usual for Stable Diffusion (its presets set it); the small packaged prior wants less for clean colours."""
    cfg_rescale: float = 0.0
    """phi of CFG-rescale (Lin et al. 2023): 0 is off, 1 gives the guided prediction the text prediction's spread."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    weight: Weight = Weight.sigma_squared
    clip: float = 0.0
    """The largest norm over the channels of one latent pixel's gradient; 0 is off."""
    de_sds: DeSdsConfig = field(default_factory=DeSdsConfig)
    sds: SdsConfig = field(default_factory=SdsConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.cfg_scale <= 1000:
            raise UserError(f"guidance.cfg_scale={self.cfg_scale}: expected 0 to 1000 (7.5 is usual)")
        if not 0 <= self.cfg_rescale <= 1:
            raise UserError(f"guidance.cfg_rescale={self.cfg_rescale}: expected 0 to 1")
        if not self.clip >= 0:
            raise UserError(f"guidance.clip={self.clip}: expected 0 (off) or a positive norm")
