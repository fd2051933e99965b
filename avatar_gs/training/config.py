"""Settings of the optimisation."""

from dataclasses import dataclass, field
from enum import Enum

from avatar_gs.errors import UserError

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


@dataclass
class LossesConfig:
    """Weights of the regularisers, each summed over splats or pixels; 0 switches one off. Adam sees them relative to
    the gradient of the guidance."""

    opacity: float = 0.0
    """Sparsity: sqrt(alpha^2 + 0.01) of the pictures (DreamFusion); large weights dissolve the avatar."""
    haze: float = 0.0
    """alpha (1 - alpha) of the pictures: half-transparent pixels become solid or empty."""
    scale: float = 1.0
    """Splats that have grown beyond twice the median size at the start."""
    distance: float = 1.0
    """Splats farther than ``distance_margin`` from the body's surface, by their opacity."""
    distance_margin: float = 0.05
    """Metres that hair and clothes may stand off the body."""

    def __post_init__(self) -> None:
        for name in ("opacity", "haze", "scale", "distance"):
            if not getattr(self, name) >= 0:
                raise UserError(f"optimize.losses.{name}={getattr(self, name)}: expected a weight of 0 or more")
        if not self.distance_margin > 0:
            raise UserError(f"optimize.losses.distance_margin={self.distance_margin}: expected metres above 0")


@dataclass
class OptimizeConfig:
    """The loop that turns a prompt into an avatar."""

    steps: int = 600
    batch: int = 2
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
    max_bad_steps: int = 20
    """So many steps in a row without finite gradients end the run."""
    losses: LossesConfig = field(default_factory=LossesConfig)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("steps", 1, MAX_STEPS),
            ("batch", 1, MAX_BATCH),
            ("supersample", 1, 8),
            ("preview_every", 0, MAX_STEPS),
            ("checkpoint_every", 0, MAX_STEPS),
            ("surface_every", 1, MAX_STEPS),
            ("max_bad_steps", 1, MAX_STEPS),
        ):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"optimize.{name}={getattr(self, name)}: expected a whole number from {low} to {high}")
        if not 0 <= self.pose_spread <= 3:
            raise UserError(
                f"optimize.pose_spread={self.pose_spread}: expected 0 (the A-pose) to 3 (1 is everyday standing)"
            )
