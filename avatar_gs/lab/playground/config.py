"""Settings of the 2D playground."""

import dataclasses
from dataclasses import dataclass
from enum import Enum

from avatar_gs.core.errors import UserError, require, require_counts
from avatar_gs.guidance.config import require_method

MAX_STEPS = 100_000


class FieldKind(Enum):
    """What is optimised: the latents' pixels (epl), a hash grid of latents (ehl), a hash grid of colours seen through
    the encoder (ehc), or a picture's pixels seen through the encoder (rgb)."""

    epl = "epl"
    ehl = "ehl"
    ehc = "ehc"
    rgb = "rgb"


class Init(Enum):
    """How it begins: normal noise in the field's own values; a picture decoded from normal latents; all parameters zero
    (a saddle for hash grids); mid-grey; or a picture of yours."""

    gaussian = "gaussian"
    decoded = "decoded"
    zero = "zero"
    grey = "grey"
    picture = "picture"


class Framing(Enum):
    """Which part of the body the view shows."""

    body = "body"
    head = "head"
    upper = "upper"
    lower = "lower"


@dataclass
class LearningRates:
    """Adam's, by field."""

    epl: float = 4e-2
    ehl: float = 3e-3
    ehc: float = 3e-3
    rgb: float = 1e-2

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            require(0 < value <= 10, f"playground.lr.{entry.name}", value, "a learning rate above 0, at most 10")


@dataclass
class GridConfig:
    """The multiresolution hash grid (Instant-NGP) of ``ehl`` and ``ehc``, with a small MLP behind it."""

    levels: int = 8
    features: int = 2
    """Numbers that each level keeps at a corner."""
    log2_table: int = 14
    """Levels with more corners than 2 to this power share their entries by hashing."""
    coarsest: int = 4
    """Cells along a side of the coarsest level; the finest has one for each pixel."""
    width: int = 32
    """Of the MLP's hidden layer."""

    def __post_init__(self) -> None:
        require_counts(
            "playground.grid",
            self,
            levels=(2, 32),
            features=(1, 16),
            log2_table=(2, 24),
            coarsest=(1, 512),
            width=(1, 512),
        )


@dataclass
class PlaygroundConfig:
    """One picture instead of an avatar: what the guidance does to it, step by step."""

    field: FieldKind = FieldKind.epl
    init: Init = Init.gaussian
    picture: str = ""
    """The picture that ``init=picture`` begins with, and that editing methods edit."""
    source_prompt: str = ""
    """What ``picture`` shows, for editing methods (dds, pds)."""
    methods: list[str] = dataclasses.field(default_factory=list)
    """Methods to compare; empty: ``guidance``'s alone."""
    own_settings: bool = True
    """Each of ``methods`` with its own preset's scale, schedule and weight; false: all with those of ``guidance``."""
    control: bool = True
    """Whether the ControlNet sees the pose map of the view."""
    framing: Framing = Framing.body
    azimuth: float = 0.0
    """Where the view stands around the A-pose, in degrees: 0 in front, 90 at its left hand."""
    steps: int = 500
    every: int = 10
    """Steps between two pictures of the strip and the video."""
    lr: LearningRates = dataclasses.field(default_factory=LearningRates)
    grid: GridConfig = dataclasses.field(default_factory=GridConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "every"):
            if not 1 <= getattr(self, name) <= MAX_STEPS:
                raise UserError(
                    f"playground.{name}={getattr(self, name)}: expected a whole number from 1 to {MAX_STEPS}"
                )
        require(
            -3600 <= self.azimuth <= 3600,
            "playground.azimuth",
            self.azimuth,
            "degrees, such as 0 (front) or 180 (back)",
        )
        if self.init is Init.picture and not self.picture:
            raise UserError("playground.init=picture: which one? Give playground.picture=<file>")
        if self.picture and self.init is not Init.picture:
            raise UserError(
                f"playground.picture={self.picture} is not used with playground.init={self.init.name}: add "
                "playground.init=picture"
            )
        for method in self.methods:
            require_method("playground.methods", method)
        if len(set(self.methods)) < len(self.methods):
            raise UserError("playground.methods: names a method twice; give each once")
