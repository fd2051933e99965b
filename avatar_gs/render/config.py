"""Settings of the cameras and of the light."""

from dataclasses import dataclass, field, replace

from avatar_gs.core.errors import UserError, require


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
    head: FramingConfig = field(default_factory=lambda: FramingConfig(0.50, 0.75, 1.15))
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
        require(
            0 <= self.head_share_with_identity < 1,
            "cameras.head_share_with_identity",
            self.head_share_with_identity,
            "a share from 0 to below 1",
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
class ShadingConfig:
    """How often an avatar is lit while it is made (``avatar_gs.render.shading``). The values beside ``probability`` are
    DreamFusion's (appendix A.2); distances are in units of the camera's own, which is 1.25 there in the mean."""

    probability: float = 0.0
    """The share of steps in which a point light shines; 0: the albedo is all that is ever drawn. DreamFusion: 0.75."""
    textureless: float = 0.5
    """The share of lit steps in which the avatar is white."""
    warmup: float = 0.067
    """The share of the run, at its start, without light (1,000 of DreamFusion's 15,000 steps)."""
    ambient: float = 0.1
    diffuse: float = 0.9
    spread: float = 0.8
    """Standard deviation of the light's direction around the camera's position."""
    distance_min: float = 0.64
    distance_max: float = 1.2

    def __post_init__(self) -> None:
        for name in ("probability", "textureless", "warmup"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"optimize.shading.{name}", value, "a share, 0 to 1")
        for name in ("ambient", "diffuse"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"optimize.shading.{name}", value, "an amount of light, 0 to 1")
        require(0 <= self.spread <= 10, "optimize.shading.spread", self.spread, "0 to 10 camera distances")
        if not 0 < self.distance_min <= self.distance_max <= 100:
            raise UserError(
                f"optimize.shading.distance_min/distance_max={self.distance_min}/{self.distance_max}: "
                "expected 0 < min <= max <= 100 camera distances"
            )
