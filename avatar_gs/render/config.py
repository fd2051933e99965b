"""Settings of the cameras, and of timing the renderers."""

from dataclasses import dataclass, field, replace

from avatar_gs.errors import UserError


@dataclass
class FramingConfig:
    """One framing: how often it is drawn, and how much of the scene its picture spans (times the part's own size)."""

    probability: float = 0.25
    span_min: float = 1.05
    span_max: float = 1.25


@dataclass
class CamerasConfig:
    """The orbit sampler. Angles in degrees; azimuth 0 faces the avatar, +90 stands at its left hand."""

    body: FramingConfig = field(default_factory=lambda: FramingConfig(0.36, 1.04, 1.18))
    head: FramingConfig = field(default_factory=lambda: FramingConfig(0.30, 0.75, 1.15))
    upper: FramingConfig = field(default_factory=lambda: FramingConfig(0.19, 1.00, 1.25))
    lower: FramingConfig = field(default_factory=lambda: FramingConfig(0.15, 1.05, 1.25))
    fov_min: float = 40.0
    fov_max: float = 70.0
    elevation_min: float = -15.0
    elevation_max: float = 25.0
    azimuth_min: float = -180.0
    azimuth_max: float = 180.0
    jitter: float = 0.03
    """Standard deviation of the look-at point, as a share of the span."""
    head_share_with_identity: float = 0.35
    """The least share of the views that show the head where an identity is given; 0 changes nothing."""

    def __post_init__(self) -> None:
        framings = {"body": self.body, "head": self.head, "upper": self.upper, "lower": self.lower}
        for name, framing in framings.items():
            if framing.probability < 0:
                raise UserError(f"cameras.{name}.probability={framing.probability} must not be negative")
            if not 0 < framing.span_min <= framing.span_max:
                raise UserError(
                    f"cameras.{name}.span_min/span_max={framing.span_min}/{framing.span_max}: expected 0 < min <= max"
                )
        if sum(framing.probability for framing in framings.values()) <= 0:
            raise UserError("cameras: at least one framing needs a probability above 0 (cameras.body.probability=…)")
        if not 5 <= self.fov_min <= self.fov_max <= 120:
            raise UserError(
                f"cameras.fov_min/fov_max={self.fov_min}/{self.fov_max}: expected 5 <= min <= max <= 120 degrees"
            )
        if not -89 <= self.elevation_min <= self.elevation_max <= 89:
            raise UserError(
                f"cameras.elevation_min/elevation_max={self.elevation_min}/{self.elevation_max}: "
                "expected -89 <= min <= max <= 89 degrees"
            )
        if not self.azimuth_min < self.azimuth_max <= self.azimuth_min + 360:
            raise UserError(
                f"cameras.azimuth_min/azimuth_max={self.azimuth_min}/{self.azimuth_max}: "
                "expected min < max <= min + 360 degrees"
            )
        if self.jitter < 0:
            raise UserError(f"cameras.jitter={self.jitter} must not be negative")
        if not 0 <= self.head_share_with_identity < 1:
            raise UserError(
                f"cameras.head_share_with_identity={self.head_share_with_identity}: expected a share from 0 to below 1"
            )

    def for_identity(self) -> "CamerasConfig":
        """The same cameras with the head in at least ``head_share_with_identity`` of the views; the other framings keep
        their proportions. Where only the head is asked for, or never, nothing changes."""
        others = self.body.probability + self.upper.probability + self.lower.probability
        share = self.head_share_with_identity
        if not self.head.probability or self.head.probability >= share * (self.head.probability + others):
            return self
        return replace(self, head=replace(self.head, probability=others * share / (1 - share)))


@dataclass
class BenchmarkConfig:
    """What ``stage=benchmark`` times: one row of the table for each pair of ``splats`` and ``pixels``."""

    splats: list[int] = field(default_factory=lambda: [1_000, 10_000, 20_000, 50_000, 100_000])
    pixels: list[int] = field(default_factory=lambda: [64, 128, 256, 512, 512])
    """Sides of the square pictures."""
    repeats: int = 9
    dense_limit: int = 8_000_000
    """The dense reference is timed where splats times pixels of the picture do not exceed this: it needs some
    200 bytes for each."""

    def __post_init__(self) -> None:
        if not self.splats or len(self.splats) != len(self.pixels):
            raise UserError(
                f"benchmark.splats={self.splats} benchmark.pixels={self.pixels}: expected two lists of one length, "
                "such as benchmark.splats=[10000,20000] benchmark.pixels=[128,256]"
            )
        if not all(1 <= count <= 10_000_000 for count in self.splats):
            raise UserError(f"benchmark.splats={self.splats}: expected numbers from 1 to 10000000")
        if not all(1 <= side <= 8192 for side in self.pixels):
            raise UserError(f"benchmark.pixels={self.pixels}: expected numbers from 1 to 8192")
        if not 1 <= self.repeats <= 10_000:
            raise UserError(f"benchmark.repeats={self.repeats}: expected 1 to 10000")
