"""Settings of the optimisation."""

from dataclasses import dataclass, field
from enum import Enum

from avatar_gs.core.validation import Section, bounded
from avatar_gs.guidance.config import GuidanceConfig
from avatar_gs.prior.config import PromptConfig
from avatar_gs.render.config import CamerasConfig, ShadingConfig
from avatar_gs.splats.config import DensityConfig, SplatsConfig

MAX_STEPS = 1_000_000
MAX_BATCH = 256


class PoseMode(Enum):
    """Poses of the avatar during optimisation: always the A-pose, or a random standing pose every step."""

    fixed = "fixed"
    random = "random"


class PoseMap(Enum):
    """Keypoints in the pose maps: body, hands and face, or the body alone for a ControlNet trained on that."""

    full = "full"
    body = "body"


class Background(Enum):
    """Background of the renders: a random plain grey in every step, or a learned network."""

    random = "random"
    learned = "learned"


@dataclass
class EnvironmentConfig(Section):
    """The network of ``optimize.background=learned``: a colour for every view direction."""

    section = "optimize.environment"
    learning_rate: float = bounded(1e-3, 0, 1)
    """Adam's step size, 0 to 1."""
    random_share: float = bounded(0.5, 0, 1, expected="a fraction, 0 to 1")
    """Fraction of steps rendered on a random grey instead, so that transparent regions stay visible to the prior."""
    width: int = bounded(32, 1, 1024)
    """Hidden units, 1 to 1024."""
    octaves: int = bounded(3, 0, 12)
    """Frequencies (1, 2, 4, …) of the direction's encoding, 0 to 12."""


@dataclass
class GeometryConfig(Section):
    """Weights of two losses on surfaces, each a mean over pixels and views, in the unit of ``losses``; 0 is off."""

    section = "optimize.geometry"
    transmittance: float = bounded(0.0, 0, float("inf"), below=True, expected="a weight of 0 or more")
    """-min(transmittance_target, mean transmittance): empties images up to that fraction (Dream Fields)."""
    transmittance_target: float = bounded(0.88, 0, 1, above=True, expected="a fraction above 0, at most 1")
    """Fraction of light that passes the avatar, above 0, at most 1 (Dream Fields' value at the end of its runs)."""
    orientation: float = bounded(0.0, 0, float("inf"), below=True, expected="a weight of 0 or more")
    """Visible splats with normals that face away from the camera (Ref-NeRF, DreamFusion). Ramps up from a hundredth
    over the first third of the run, as in DreamFusion."""


@dataclass
class LossesConfig(Section):
    """Weights of the regularisers; 0 is off.

    Each is a mean over pixels and views, or over splats. Weights are relative to the guidance loss as a mean over
    latent elements (half the squared guidance gradient of a latent element): regularisers are multiplied by the number
    of latent elements of a view (``training.losses.regulariser_scale``). A weight therefore means the same for any
    prior, image size, supersampling, batch and number of splats. To convert the weight of a loss that is a sum over
    pixels or splats, next to a guidance loss that is a sum over latent elements: multiply by (pixels or splats of a
    view) / (latent elements of a view). For a mean: multiply by 1 / (latent elements of a view).
    """

    section = "optimize.losses"
    opacity: float = bounded(0.0, low=0, expected="a weight of 0 or more")
    """Sparsity: mean over pixels of sqrt(alpha² + 0.01) (DreamFusion). Too large a weight dissolves the avatar."""
    haze: float = bounded(0.0, low=0, expected="a weight of 0 or more")
    """Mean over pixels of alpha (1 - alpha): half-transparent pixels become opaque or empty."""
    scale: float = bounded(3.0, low=0, expected="a weight of 0 or more")
    """Squared excess of splat sizes over twice the median initial size, in that size; mean over splats."""
    distance: float = bounded(3.0, low=0, expected="a weight of 0 or more")
    """Opacity times the distance from the body's surface beyond ``distance_margin``, in margins; mean over splats."""
    distance_margin: float = bounded(0.05, low=0, above=True, expected="metres above 0")
    """Distance from the body that hair and clothes may have without penalty, in metres, above 0."""


@dataclass
class OptimizeConfig(Section):
    """The optimisation loop."""

    section = "optimize"
    steps: int = bounded(450, 1, MAX_STEPS)
    """Optimisation steps, 1 to 1,000,000."""
    batch: int = bounded(4, 1, MAX_BATCH)
    """Views per step, 1 to 256."""
    supersample: int = bounded(1, 1, 8)
    """Size of the renders as a factor of the prior's image size, 1 to 8; they are averaged down."""
    poses: PoseMode = PoseMode.fixed
    pose_spread: float = bounded(1.0, 0, 3, expected="0 (the A-pose) to 3 (1 is everyday standing)")
    """Deviation of random poses from the A-pose, 0 to 3; 1 is everyday standing."""
    pose_map: PoseMap = PoseMap.full
    """Body, hands and face, or the body alone."""
    preview_every: int = bounded(100, 0, MAX_STEPS)
    """Steps between two preview sheets; 0: none."""
    checkpoint_every: int = bounded(50, 0, MAX_STEPS)
    """Steps between two checkpoints; 0: only at the end, and at Ctrl-C."""
    tensorboard: bool = False
    """Write scalars to the run's folder ``tensorboard``."""
    surface_every: int = bounded(20, 1, MAX_STEPS)
    """Steps between two updates of every splat's nearest point on the body."""
    max_bad_steps: int = bounded(10, 1, MAX_STEPS)
    """Consecutive steps without finite gradients that end the run."""
    losses: LossesConfig = field(default_factory=LossesConfig)
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    shading: ShadingConfig = field(default_factory=ShadingConfig)
    background: Background = Background.random
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)


@dataclass(frozen=True)
class TrainingConfig:
    """All settings that the optimisation of an avatar depends on (``Settings.training``)."""

    prompt: str = ""
    negative_prompt: str = ""
    source_prompt: str = ""
    """What an editing method takes the avatar of ``init`` to show."""
    has_identity: bool = False
    """Whether ``<id>`` in prompts is a known person."""
    init: str = ""
    """Folder of the run whose avatar this one starts from; empty: the body's surface."""
    seed: int = 0
    optimize: OptimizeConfig = field(default_factory=OptimizeConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    splats: SplatsConfig = field(default_factory=SplatsConfig)
    density: DensityConfig = field(default_factory=DensityConfig)
    cameras: CamerasConfig = field(default_factory=CamerasConfig)
    prompts: PromptConfig = field(default_factory=PromptConfig)
    """How prompts name views."""
