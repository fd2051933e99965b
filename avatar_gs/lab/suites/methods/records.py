"""What suite=methods keeps of every avatar that it has made."""

from dataclasses import asdict, dataclass
from typing import Any

from avatar_gs.lab.metrics.avatar import Measurement


@dataclass(frozen=True)
class Record:
    """One avatar by one method.

    ``orbit`` holds the scorer's features of its full body from all sides, view by view; ``saturation`` how its chroma
    differs from that of the prior's own samples (``measures.SaturationError``), None where it left nothing solid.
    """

    preset: str
    control: bool
    prompt: str
    seed: int
    steps: int
    batch: int
    asked: dict[str, str]
    end: Measurement
    orbit: list[list[float]]
    saturation: dict[str, float] | None
    metrics: dict[str, Any]
    """``training.loop.metrics``."""
    seconds: float
    """Wall time of the optimisation."""

    @property
    def calls_per_step(self) -> float:
        """Predicted pictures a step and view."""
        return self.metrics["prior_calls"] / (self.steps * self.batch)

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> "Record":
        return cls(**{**plain, "end": Measurement.of_plain(plain["end"])})
