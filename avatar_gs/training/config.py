"""Settings of the optimisation."""

from dataclasses import dataclass, field
from enum import Enum

from avatar_gs.core.errors import UserError, require, require_counts
from avatar_gs.render.config import ShadingConfig

MAX_STEPS = 1_000_000
MAX_BATCH = 256


class PoseMode(Enum):
    """The poses that the avatar is seen in: always the A-pose, or a random standing pose every step."""

    fixed = "fixed"
    random = "random"


class PoseMap(Enum):
    """What the pose maps show: all that OpenPose knows, or the body alone, for a ControlNet trained on that."""

    full = "full"
    body = "body"


class Background(Enum):
    """What stands behind the avatar: a random plain grey in every step, or what a small network learned to paint."""

    random = "random"
    learned = "learned"


@dataclass
class EnvironmentConfig:
    """The network of ``optimize.background=learned``: the colour of every direction of view."""

    learning_rate: float = 1e-3
    random_share: float = 0.5
    """The share of steps with a random plain grey in its place: what is see-through is seen to be."""
    width: int = 32
    octaves: int = 3
    """Frequencies 1, 2, 4, … of the direction that it is told."""

    def __post_init__(self) -> None:
        require(
            0 <= self.learning_rate <= 1, "optimize.environment.learning_rate", self.learning_rate, "a rate, 0 to 1"
        )
        require(0 <= self.random_share <= 1, "optimize.environment.random_share", self.random_share, "a share, 0 to 1")
        require_counts("optimize.environment", self, width=(1, 1024), octaves=(0, 12))


@dataclass
class GeometryConfig:
    """Weights of two losses that shape surfaces, each a mean over pixels and views, in the unit of ``losses``; 0
    switches one off."""

    transmittance: float = 0.0
    """-min(transmittance_target, mean transmittance): empties pictures up to that share (Dream Fields, Jain et al.)."""
    transmittance_target: float = 0.88
    """The share of light that passes beside the avatar and through it (Dream Fields, at the end of its runs)."""
    orientation: float = 0.0
    """Visible splats whose normal faces away from the camera (Ref-NeRF, DreamFusion). It grows from a hundredth of
    this over the first third of the run, as in DreamFusion."""

    def __post_init__(self) -> None:
        for name in ("transmittance", "orientation"):
            value = getattr(self, name)
            require(0 <= value < float("inf"), f"optimize.geometry.{name}", value, "a weight of 0 or more")
        target = self.transmittance_target
        require(0 < target <= 1, "optimize.geometry.transmittance_target", target, "a share above 0, at most 1")


@dataclass
class LossesConfig:
    """Weights of the regularisers; 0 switches one off.

    Each is a mean (over pixels and views, or over splats), and a weight is relative to the guidance loss as a mean over
    latent elements: half the squared gradient that guidance asks of a latent element. (Both are multiplied by the
    number of latent elements of a view, ``training.losses.regulariser_scale``.) So a weight means the same for every
    prior, image size, supersampling factor, batch and number of splats. The weight of a loss that is a sum over pixels
    or splats beside a guidance loss that is a sum over latent elements is converted by (number of pixels or splats of a
    view) / (number of latent elements of a view), that of a mean by 1 / (number of latent elements of a view).
    """

    opacity: float = 0.0
    """Sparsity: sqrt(alpha^2 + 0.01), the mean over pixels (DreamFusion). Too large a weight dissolves the avatar: with
    experiment=sd15, a linear stand-in for its encoder and guidance that always asks for a solid person, 0.6 does; 0.04
    does if noise 10 times as large is added to that guidance, of which 6e-5 changes nothing."""
    haze: float = 0.0
    """alpha (1 - alpha), the mean over pixels: half-transparent pixels become opaque or empty."""
    scale: float = 3.0
    """The squared excess of splats beyond twice the median size at the start, in that size, the mean over splats."""
    distance: float = 3.0
    """Opacity times the distance from the body's surface beyond ``distance_margin``, in margins, the mean over
    splats."""
    distance_margin: float = 0.05
    """Metres that hair and clothes may stand off the body."""

    def __post_init__(self) -> None:
        for name in ("opacity", "haze", "scale", "distance"):
            if not getattr(self, name) >= 0:
                raise UserError(f"optimize.losses.{name}={getattr(self, name)}: expected a weight of 0 or more")
        require(self.distance_margin > 0, "optimize.losses.distance_margin", self.distance_margin, "metres above 0")


@dataclass
class OptimizeConfig:
    """The loop that turns a prompt into an avatar."""

    steps: int = 450
    batch: int = 4
    """Views a step."""
    supersample: int = 1
    """Pictures are rendered this many times larger than the prior's, and averaged down."""
    poses: PoseMode = PoseMode.fixed
    pose_spread: float = 1.0
    """How far random poses are from the A-pose (1: everyday standing)."""
    pose_map: PoseMap = PoseMap.full
    """Body, hands and face, or the body alone."""
    preview_every: int = 100
    """Steps between two preview sheets; 0: none."""
    checkpoint_every: int = 50
    """Steps between two checkpoints; 0: only at the end, and at Ctrl-C."""
    tensorboard: bool = False
    """Write scalars to the run's folder ``tensorboard``."""
    surface_every: int = 20
    """Steps after which the nearest point of the body is looked up anew for every splat."""
    max_bad_steps: int = 10
    """So many steps in a row without finite gradients end the run."""
    losses: LossesConfig = field(default_factory=LossesConfig)
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    shading: ShadingConfig = field(default_factory=ShadingConfig)
    background: Background = Background.random
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)

    def __post_init__(self) -> None:
        require_counts(
            "optimize",
            self,
            steps=(1, MAX_STEPS),
            batch=(1, MAX_BATCH),
            supersample=(1, 8),
            preview_every=(0, MAX_STEPS),
            checkpoint_every=(0, MAX_STEPS),
            surface_every=(1, MAX_STEPS),
            max_bad_steps=(1, MAX_STEPS),
        )
        require(
            0 <= self.pose_spread <= 3,
            "optimize.pose_spread",
            self.pose_spread,
            "0 (the A-pose) to 3 (1 is everyday standing)",
        )
