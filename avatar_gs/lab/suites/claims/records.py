"""What suite=claims keeps of every run."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """One recipe with one seed: its figures by name (``figures.FIGURES``; the plane of points has its own) and the
    scorer's features of its pictures."""

    recipe: str
    seed: int
    prompt: str
    figures: dict[str, float]
    features: list[list[float]]
    prior_calls: int
    seconds: float

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> "Record":
        return cls(**plain)
