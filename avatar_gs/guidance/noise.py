"""Settings of the noise that renders are noised with."""

from dataclasses import dataclass
from enum import Enum

from avatar_gs.core.validation import Section, bounded


class NoiseKind(Enum):
    """Where noise is fixed: nowhere, on the image, or on the body's surface."""

    independent = "independent"
    fixed = "fixed"
    surface = "surface"


@dataclass
class NoiseConfig(Section):
    """Noise of a run's steps: independent, or noise that stays (FSD, arXiv:2405.10988), on the surface so that views
    agree (CFD, arXiv:2501.05445). In a toy (docs: why seeds look alike) the latter keeps the prior's diversity."""

    section = "guidance.noise"
    kind: NoiseKind = NoiseKind.independent
    beta: float = bounded(1.0, 0, 1)
    """Fraction of the fixed noise, 0 to 1: beta * fixed + sqrt(1 - beta^2) * independent."""
    gamma: float = bounded(0.0, 0, 1)
    """Rate at which the fixed noise is replaced: after 1 / gamma steps it is independent of what it was; 0: never."""
    points: int = bounded(200_000, 100, 5_000_000)
    """With ``kind=surface``: points on the body that carry noise."""
