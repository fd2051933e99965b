"""Settings of the splats: initial state, learning rates, densification and pruning."""

from dataclasses import dataclass, field

from avatar_gs.core.errors import require
from avatar_gs.core.validation import Section, bounded

MAX_COUNT = 5_000_000


@dataclass
class LearningRates(Section):
    """Adam's step sizes in the unit of each parameter, at the first and (``*_final``) at the last step.

    They decay exponentially in between. Means are metres, scales log-metres, opacities logits, colours SH coefficients.
    """

    section = "splats.lr"
    means: float = bounded(1e-3, low=0)
    means_final: float = bounded(5e-5, low=0)
    quats: float = bounded(5e-3, low=0)
    quats_final: float = bounded(5e-4, low=0)
    scales: float = bounded(1e-2, low=0)
    scales_final: float = bounded(1e-3, low=0)
    opacities: float = bounded(2e-2, low=0)
    opacities_final: float = bounded(5e-3, low=0)
    sh0: float = bounded(5e-2, low=0)
    sh0_final: float = bounded(4e-3, low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("means", "quats", "scales", "opacities", "sh0"):
            start, end = getattr(self, name), getattr(self, f"{name}_final")
            require((start > 0) == (end > 0), f"splats.lr.{name}_final", end, f"above 0 exactly if {name}={start} is")


@dataclass
class SmoothingConfig(Section):
    """Smoothing of colours over neighbouring splats, against speckles (``avatar_gs.splats.smoothing``). Off while an
    avatar is edited (guidance=pds, dds): unchanged regions have no gradient to hold their colours."""

    section = "splats.smoothing"
    strength: float = bounded(0.15, 0, 1, expected="a fraction from 0 to 1")
    """Step size as a fraction of the colours' learning rate, 0 (off) to 1. Larger values are smoother and wash out
    narrow stripes."""
    neighbours: int = bounded(8, 1, 100)
    """Nearest splats that are compared, 1 to 100."""
    detail: float = bounded(2.0, 0, 10)
    """Exponent, 0 to 10, by which strength falls where splats lie closer than the median, as on the head."""


@dataclass
class SplatsConfig(Section):
    """The initial splats: flat disks on the surface of the body at rest."""

    section = "splats"
    count: int = bounded(5000, 10, MAX_COUNT)
    """Number of splats at the start, 10 to 5,000,000. More are smaller, and reach less far from the body."""
    opacity: float = bounded(0.9, 0, 1, above=True, below=True)
    """Initial opacity, between 0 and 1. Nearly opaque suits a few hundred steps; long recipes start at 0.1."""
    color: float = bounded(0.5, 0, 1)
    """Initial grey level, 0 to 1."""
    disk_radius: float = bounded(0.6, 0, 10, above=True)
    """Standard deviation of a disk, as a fraction of the distance to its neighbours, above 0, at most 10."""
    thickness: float = bounded(0.25, 0, 1, above=True)
    """Short axis, as a fraction of the disk's radius, above 0, at most 1."""
    min_scale: float = bounded(0.001, low=0, above=True)
    """Smallest standard deviation in metres, above 0 (viewers render thinner splats as needles)."""
    max_scale: float = 0.05
    """Largest standard deviation in metres, above ``min_scale``."""
    head_density: float = bounded(4.0, 0.01, 100)
    """Density of splats on the head, as a factor, 0.01 to 100; it is seen from closer than the rest."""
    hand_density: float = bounded(3.0, 0.01, 100)
    """Density of splats on the hands, as a factor, 0.01 to 100."""
    foot_density: float = bounded(2.0, 0.01, 100)
    """Density of splats on the feet, as a factor, 0.01 to 100."""
    lr: LearningRates = field(default_factory=LearningRates)
    smoothing: SmoothingConfig = field(default_factory=SmoothingConfig)
    edit_damping: float = bounded(0.7, 0, 100)
    """While an avatar is edited (guidance=pds, dds): splats with a colour gradient below edit_damping × RMS are damped
    quadratically (``optim.relevance``), so that unchanged regions stay. 0 (off) to 100."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expected = f"more than min_scale={self.min_scale}"
        require(self.min_scale < self.max_scale, "splats.max_scale", self.max_scale, expected)


@dataclass
class DensityConfig(Section):
    """Densification and pruning. Growing and pruning last from ``start`` to ``stop``, pruning alone until
    ``prune_stop``; all three are fractions of the run's steps."""

    section = "density"
    enabled: bool = True
    editing: bool = False
    """Densify and prune while an avatar is edited, too (guidance=pds, dds)."""
    start: float = bounded(0.15, 0, 1)
    """First step of densification, as a fraction of the run, 0 to 1."""
    stop: float = 0.6
    """Last step of densification, as a fraction of the run, ``start`` to 1."""
    prune_stop: float = 0.9
    """Last step of pruning, as a fraction of the run, ``stop`` to 1."""
    every: int = bounded(25, low=1)
    """Steps between two refinements, at least 1."""
    grow_share: float = bounded(0.05, 0, 1)
    """Fraction of the splats (those with the largest screen-space gradient) that one refinement splits or duplicates,
    0 to 1."""
    max_splats: int = bounded(16_000, 1, MAX_COUNT)
    """Largest number of splats, 1 to 5,000,000."""
    split_scale: float = bounded(0.4, low=0, above=True)
    """Splats above this size are split in two, others are duplicated; as a factor of the median initial size, above
    0."""
    prune_opacity: float = bounded(0.05, 0, 1, below=True)
    """Splats below this opacity are removed, from 0 to below 1."""
    prune_scale: float = bounded(4.0, low=1, above=True)
    """Splats above this size are removed; as a factor of the median initial size, above 1."""
    prune_distance: float = bounded(0.25, low=0, above=True)
    """Splats farther than this from the body's surface are removed, in metres, above 0."""
    prune_detached: float = bounded(1.5, 0, 100)
    """Small groups of splats are removed if no other splat is within this factor of the sum of both their longest
    standard deviations; 0 (off) to 100."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.start <= self.stop <= 1, "density.stop", self.stop, f"from start={self.start} to 1")
        require(self.stop <= self.prune_stop <= 1, "density.prune_stop", self.prune_stop, f"from stop={self.stop} to 1")
