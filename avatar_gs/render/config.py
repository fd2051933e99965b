"""Settings of the cameras and of the light."""

from dataclasses import dataclass, field, replace

from avatar_gs.core.errors import UserError
from avatar_gs.core.validation import Section, bounded, check_interval, check_ranges


@dataclass
class FramingConfig:
    """How often one framing is sampled, and the vertical span of its images."""

    probability: float = bounded(0.25, low=0)
    """Sampling weight relative to the other framings, at least 0."""
    span_min: float = 1.05
    """Smallest span, as a factor of the framed part's height, above 0."""
    span_max: float = 1.25
    """Largest span, as a factor of the framed part's height."""


@dataclass
class CamerasConfig(Section):
    """The orbit sampler. Angles in degrees; azimuth 0 is in front of the avatar, +90 at its left hand."""

    section = "cameras"
    body: FramingConfig = field(default_factory=lambda: FramingConfig(0.36, 1.04, 1.18))
    head: FramingConfig = field(default_factory=lambda: FramingConfig(0.50, 0.75, 1.15))
    upper: FramingConfig = field(default_factory=lambda: FramingConfig(0.19, 1.00, 1.25))
    lower: FramingConfig = field(default_factory=lambda: FramingConfig(0.15, 1.05, 1.25))
    fov_min: float = 40.0
    """Smallest field of view, 5 to 120 degrees."""
    fov_max: float = 70.0
    elevation_min: float = -15.0
    """Lowest elevation, -89 to 89 degrees; positive is above the avatar."""
    elevation_max: float = 25.0
    azimuth_min: float = -180.0
    azimuth_max: float = 180.0
    """Largest azimuth, at most 360 degrees above ``azimuth_min``."""
    jitter: float = bounded(0.03, low=0)
    """Standard deviation of the look-at point, as a fraction of the span."""
    head_share_with_identity: float = bounded(0.35, 0, 1, below=True, expected="a fraction from 0 to below 1")
    """Minimum fraction of head views if an identity is given; 0 changes nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        framings = {"body": self.body, "head": self.head, "upper": self.upper, "lower": self.lower}
        for name, framing in framings.items():
            check_ranges(framing, f"cameras.{name}")
            check_interval(framing, f"cameras.{name}", "span", 0, above=True)
        if sum(framing.probability for framing in framings.values()) <= 0:
            raise UserError("cameras: at least one framing needs a probability above 0 (cameras.body.probability=…)")
        check_interval(self, "cameras", "fov", 5, 120, "degrees")
        check_interval(self, "cameras", "elevation", -89, 89, "degrees")
        if not self.azimuth_min < self.azimuth_max <= self.azimuth_min + 360:
            raise UserError(
                f"cameras.azimuth_min/azimuth_max={self.azimuth_min}/{self.azimuth_max}: "
                "expected min < max <= min + 360 degrees"
            )

    def for_identity(self) -> "CamerasConfig":
        """The same cameras with the head in at least ``head_share_with_identity`` of the views.

        The other framings keep their proportions. Nothing changes if the head has no weight or all of it.
        """
        others = self.body.probability + self.upper.probability + self.lower.probability
        fraction = self.head_share_with_identity
        if not self.head.probability or self.head.probability >= fraction * (self.head.probability + others):
            return self
        return replace(self, head=replace(self.head, probability=others * fraction / (1 - fraction)))


@dataclass
class ShadingConfig(Section):
    """Point light during optimisation (``avatar_gs.render.shading``). Values are DreamFusion's (appendix A.2), except
    for ``probability``; distances are in units of the camera's distance (1.25 there in the mean)."""

    section = "optimize.shading"
    probability: float = bounded(0.0, 0, 1, expected="a fraction, 0 to 1")
    """Fraction of steps with a point light; 0: only the albedo is rendered. DreamFusion: 0.75."""
    textureless: float = bounded(0.5, 0, 1, expected="a fraction, 0 to 1")
    """Fraction of lit steps with a white avatar."""
    warmup: float = bounded(0.067, 0, 1, expected="a fraction, 0 to 1")
    """Fraction of the run, at its start, without light (1,000 of DreamFusion's 15,000 steps)."""
    ambient: float = bounded(0.1, 0, 1, expected="an amount of light, 0 to 1")
    """Ambient light, 0 to 1."""
    diffuse: float = bounded(0.9, 0, 1, expected="an amount of light, 0 to 1")
    """Diffuse light, 0 to 1."""
    spread: float = bounded(0.8, 0, 10, expected="0 to 10 camera distances")
    """Standard deviation of the light around the camera's position, in camera distances."""
    distance_min: float = 0.64
    """Smallest distance of the light, in camera distances."""
    distance_max: float = 1.2
    """Largest distance of the light, in camera distances, at most 100."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval(self, "optimize.shading", "distance", 0, 100, "camera distances", above=True)
