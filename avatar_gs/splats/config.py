"""Settings of the splats: how they start, how fast each parameter learns, and how their number grows and shrinks."""

from dataclasses import dataclass, field

from avatar_gs.core.errors import require, require_counts

MAX_COUNT = 5_000_000


@dataclass
class LearningRates:
    """Adam's step sizes in the units of each parameter, at the first and (``*_final``) at the last step.

    Rates decay exponentially in between. Means are metres, scales are log-metres, opacities logits, colours SH units.
    """

    means: float = 1e-3
    means_final: float = 5e-5
    quats: float = 5e-3
    quats_final: float = 5e-4
    scales: float = 1e-2
    scales_final: float = 1e-3
    opacities: float = 2e-2
    opacities_final: float = 5e-3
    sh0: float = 5e-2
    sh0_final: float = 4e-3

    def __post_init__(self) -> None:
        for name, rate in vars(self).items():
            require(rate >= 0, f"splats.lr.{name}", rate, "a number that is not negative")
        for name in ("means", "quats", "scales", "opacities", "sh0"):
            start, end = getattr(self, name), getattr(self, f"{name}_final")
            require((start > 0) == (end > 0), f"splats.lr.{name}_final", end, f"above 0 exactly if {name}={start} is")


@dataclass
class SmoothingConfig:
    """How strongly colours are drawn towards those of neighbouring splats, against speckles (``splats.smoothing``).
    An edit (guidance=pds, dds) is not smoothed: what it leaves alone has no gradient that would hold it."""

    strength: float = 0.15
    """Of the colours' learning rate; 0 switches it off. What guidance asks for with more than this share of its full
    step, in one direction, is painted even on a single splat. More is smoother, but with experiment=quick 0.3 washes
    out a shirt's stripes, two splats wide, which 0.15 leaves."""
    neighbours: int = 8
    detail: float = 2.0
    """Where splats lie closer than the median one, as on the head, strength falls by this power of their distance: they
    are there to show what is small."""

    def __post_init__(self) -> None:
        require(0 <= self.strength <= 1, "splats.smoothing.strength", self.strength, "a share from 0 to 1")
        require_counts("splats.smoothing", self, neighbours=(1, 100))
        require(0 <= self.detail <= 10, "splats.smoothing.detail", self.detail, "a power from 0 to 10")


@dataclass
class SplatsConfig:
    """The splats that an avatar starts from: flat disks on the surface of the body at rest."""

    count: int = 5000
    """More are smaller, and reach less far beyond the body: of three hats, 7,000 splats that lay ten times as dense on
    the head as elsewhere nearly lost one within a quick run."""
    opacity: float = 0.9
    """Nearly opaque suits a few hundred steps; the long recipes for large priors start at 0.1."""
    color: float = 0.5
    """The grey level of every splat at the start."""
    disk_radius: float = 0.6
    """Standard deviation of a disk, as a share of the distance to its neighbours."""
    thickness: float = 0.25
    """The short axis, as a share of the disk's radius."""
    min_scale: float = 0.001
    """No standard deviation shrinks below this, in metres (viewers draw thinner splats as needles)."""
    max_scale: float = 0.05
    head_density: float = 4.0
    """How many times as many splats an area of the head gets; it is seen from closer than the rest."""
    hand_density: float = 3.0
    foot_density: float = 2.0
    lr: LearningRates = field(default_factory=LearningRates)
    smoothing: SmoothingConfig = field(default_factory=SmoothingConfig)
    edit_damping: float = 0.7
    """While an avatar is edited (guidance=pds, dds): splats whose colours are pulled less than so many times as hard as
    the root mean square of all move less, by the square of that (``optim.relevance``), so that what the edit leaves
    alone stays. 0: all move as far."""

    def __post_init__(self) -> None:
        require(10 <= self.count <= MAX_COUNT, "splats.count", self.count, f"a whole number from 10 to {MAX_COUNT}")
        require(0 < self.opacity < 1, "splats.opacity", self.opacity, "a number between 0 and 1, neither of them")
        require(0 <= self.color <= 1, "splats.color", self.color, "a grey level from 0 to 1")
        require(0 < self.disk_radius <= 10, "splats.disk_radius", self.disk_radius, "a number above 0, at most 10")
        require(0 < self.thickness <= 1, "splats.thickness", self.thickness, "a number above 0, at most 1")
        require(self.min_scale > 0, "splats.min_scale", self.min_scale, "metres above 0")
        require(
            self.min_scale < self.max_scale, "splats.max_scale", self.max_scale, f"more than min_scale={self.min_scale}"
        )
        require(0 <= self.edit_damping <= 100, "splats.edit_damping", self.edit_damping, "0 (off) to 100")
        for name in ("head_density", "hand_density", "foot_density"):
            density = getattr(self, name)
            require(0.01 <= density <= 100, f"splats.{name}", density, "a number from 0.01 to 100")


@dataclass
class DensityConfig:
    """Densification and pruning. ``start``, ``stop`` and ``prune_stop`` are shares of the run's steps:
    grow and prune from ``start`` to ``stop``, then only prune until ``prune_stop``."""

    enabled: bool = True
    editing: bool = False
    """Grow and prune while an avatar is edited, too (guidance=pds, dds): off, what is to be kept keeps its splats."""
    start: float = 0.15
    stop: float = 0.6
    prune_stop: float = 0.9
    every: int = 25
    """Steps from one refinement to the next."""
    grow_share: float = 0.05
    """The share of the splats, those of the largest screen gradient, that one refinement divides. A share needs no
    calibration, whereas gsplat's threshold of 2e-4 is meant for a pixel loss."""
    max_splats: int = 16_000
    split_scale: float = 0.4
    """Splats above this size are split in two smaller ones, those below are duplicated; times the median size of the
    splats at the start."""
    prune_opacity: float = 0.05
    prune_scale: float = 4.0
    """Splats above this size are removed; times the median size at the start. (8 mm with 100,000 splats.)"""
    prune_distance: float = 0.25
    """Splats farther than this from the surface of the body (metres) are removed."""
    prune_detached: float = 1.5
    """Small groups of splats that no other splat comes closer to than so many times the sum of both their longest
    standard deviations are removed; 0 keeps them."""

    def __post_init__(self) -> None:
        require(0 <= self.start <= 1, "density.start", self.start, "a share of the steps from 0 to 1")
        require(self.start <= self.stop <= 1, "density.stop", self.stop, f"from start={self.start} to 1")
        require(self.stop <= self.prune_stop <= 1, "density.prune_stop", self.prune_stop, f"from stop={self.stop} to 1")
        require(self.every >= 1, "density.every", self.every, "at least 1 step")
        require(0 <= self.grow_share <= 1, "density.grow_share", self.grow_share, "a share from 0 to 1")
        require(1 <= self.max_splats <= MAX_COUNT, "density.max_splats", self.max_splats, f"from 1 to {MAX_COUNT}")
        require(0 <= self.prune_opacity < 1, "density.prune_opacity", self.prune_opacity, "from 0 to below 1")
        require(self.split_scale > 0, "density.split_scale", self.split_scale, "a share of the first size above 0")
        require(self.prune_scale > 1, "density.prune_scale", self.prune_scale, "more than 1 time the first size")
        require(0 <= self.prune_detached <= 100, "density.prune_detached", self.prune_detached, "0 (off) to 100")
        require(self.prune_distance > 0, "density.prune_distance", self.prune_distance, "metres above 0")
