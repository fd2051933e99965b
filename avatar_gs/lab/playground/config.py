"""Settings of the 2D playground."""

import dataclasses
from dataclasses import dataclass
from enum import Enum
from typing import Any

from avatar_gs.core.errors import UserError
from avatar_gs.core.validation import Section, bounded
from avatar_gs.guidance.config import require_method

MAX_STEPS = 100_000


class FieldKind(Enum):
    """What is optimised: latent pixels (epl), a hash grid of latents (ehl), a hash grid of colours seen through the
    encoder (ehc), or image pixels seen through the encoder (rgb)."""

    epl = "epl"
    ehl = "ehl"
    ehc = "ehc"
    rgb = "rgb"


class Init(Enum):
    """Initial values: Gaussian noise in the field's own space; an image decoded from Gaussian latents; all parameters
    zero (a saddle point for hash grids); mid-grey; or an image file (``picture`` is the former name of ``image``)."""

    gaussian = "gaussian"
    decoded = "decoded"
    zero = "zero"
    grey = "grey"
    image = "image"
    picture = "image"  # noqa: PIE796 (an alias)


class FramingName(Enum):
    """Names of ``types.Framing``, which settings cannot import."""

    body = "body"
    head = "head"
    upper = "upper"
    lower = "lower"


def _rate(default: float) -> Any:
    return bounded(default, 0, 10, above=True, expected="a learning rate above 0, at most 10")


def _count(default: int, low: int, high: int) -> Any:
    return bounded(default, low, high, expected=f"a whole number from {low} to {high}")


@dataclass
class LearningRates(Section):
    """Adam's learning rate for each field."""

    section = "playground.lr"

    epl: float = _rate(4e-2)
    ehl: float = _rate(3e-3)
    ehc: float = _rate(3e-3)
    rgb: float = _rate(1e-2)


@dataclass
class GridConfig(Section):
    """The multiresolution hash grid (Instant-NGP) of ``ehl`` and ``ehc``, followed by a small MLP."""

    section = "playground.grid"

    levels: int = _count(8, 2, 32)
    features: int = _count(2, 1, 16)
    """Features per corner and level."""
    log2_table: int = _count(14, 2, 24)
    """Base-2 logarithm of a level's table size; levels with more corners are hashed."""
    coarsest: int = _count(4, 1, 512)
    """Cells along a side of the coarsest level; the finest has one cell per pixel."""
    width: int = _count(32, 1, 512)
    """Width of the MLP's hidden layer."""


@dataclass
class PlaygroundConfig(Section):
    """One image instead of an avatar: what the guidance does to it, step by step."""

    section = "playground"

    field: FieldKind = FieldKind.epl
    init: Init = Init.gaussian
    image: str = ""
    """Image file for ``init=image``, which editing methods edit."""
    source_prompt: str = ""
    """Description of ``image`` for editing methods (dds, pds)."""
    methods: list[str] = dataclasses.field(default_factory=list)
    """Methods to compare; empty: the method of ``guidance`` alone."""
    own_settings: bool = True
    """Use each method's own preset (scale, schedule, weight); false: those of ``guidance`` for all."""
    control: bool = True
    """Condition on the view's pose map through the ControlNet."""
    framing: FramingName = FramingName.body
    azimuth: float = bounded(0.0, -3600, 3600, expected="degrees, such as 0 (front) or 180 (back)")
    """Azimuth of the view in degrees: 0 in front of the A-pose, 90 at its left hand."""
    steps: int = _count(500, 1, MAX_STEPS)
    every: int = _count(10, 1, MAX_STEPS)
    """Steps between two frames of the strip and the video."""
    lr: LearningRates = dataclasses.field(default_factory=LearningRates)
    grid: GridConfig = dataclasses.field(default_factory=GridConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init is Init.image and not self.image:
            raise UserError("playground.init=image needs playground.image=<file>")
        if self.image and self.init is not Init.image:
            raise UserError(
                f"playground.image={self.image} is not used with playground.init={self.init.name}: add "
                "playground.init=image"
            )
        for method in self.methods:
            require_method("playground.methods", method)
        if len(set(self.methods)) < len(self.methods):
            raise UserError("playground.methods: names a method twice; give each once")
