"""Settings of the scorer's training."""

from dataclasses import dataclass
from typing import Optional

from avatar_gs.core.errors import UserError
from avatar_gs.core.validation import Section, bounded


@dataclass
class ScorerConfig(Section):
    """``stage=train_scorer``: trains on ``people`` x ``recolourings`` persons with ``views`` images each."""

    section = "scorer"
    folder: str = "outputs/train_scorer"
    people: int = bounded(2000, low=1)
    """Number of geometries."""
    recolourings: int = bounded(2, low=1)
    """Persons made from one geometry by changing its colours."""
    views: int = bounded(6, low=2)
    """Images of each person."""
    people_per_shard: int = bounded(50, low=1)
    textureless_share: float = bounded(0.12, low=0, high=1)
    """Fraction of the images that show a white person in random light, as evaluation renders untextured avatars."""
    shaded_share: float = bounded(0.08, low=0, high=1)
    """Fraction of the images that are coloured and lit by a lamp near the camera."""
    workers: Optional[int] = None
    """Processes; None: one per core."""
    steps: int = bounded(3000, low=1)
    batch: int = bounded(40, low=2)
    """Persons per step, with two images each."""
    lr: float = bounded(1.5e-3, low=0, above=True)
    person_weight: float = bounded(0.5, low=0)
    """Weight of the loss that separates persons, relative to the loss that separates captions."""
    face_steps: int = bounded(1000, low=1)
    """Training steps of the face detector."""
    face_people: int = bounded(130, low=1)
    """People in the face detector's training set."""
    view_steps: int = bounded(3000, low=1)
    """Training steps of the view classifier."""
    view_people: int = bounded(2500, low=1)
    """People in the view classifier's training set."""
    measured_people: int = bounded(300, low=100, expected="at least 100, a pool of captions")
    """Unseen people on which the result is measured."""
    checkpoint_every: int = bounded(100, low=1)
    """Steps between checkpoints."""
    from_packaged: bool = False
    """Start from the packaged weights instead of from scratch."""
    bfloat16: bool = False
    """Mixed precision: twice as fast on processors with AVX-512 BF16, slower on others."""
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch > self.people * self.recolourings:
            raise UserError(
                f"scorer.batch={self.batch}: expected at most scorer.people x scorer.recolourings, "
                f"{self.people * self.recolourings}"
            )
        if self.textureless_share + self.shaded_share > 1:
            raise UserError(
                f"scorer.textureless_share={self.textureless_share} scorer.shaded_share={self.shaded_share}: "
                "expected at most 1 together"
            )
