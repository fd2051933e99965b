"""What suite=colours keeps of every avatar that it has made."""

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from avatar_gs.lab.metrics.avatar import Measurement


class Kind(str, Enum):
    """What an avatar is for: a figure, or a control that must fail."""

    AVATAR = "avatar"
    NO_GUIDANCE = "no guidance"
    RANDOM_WEIGHTS = "random weights"
    RED_BLUE = "red and blue"
    RED_BLUE_EXCHANGED = "red and blue exchanged"


@dataclass(frozen=True)
class Record:
    """One avatar: what was asked, what it measures before the first step and at the end, and what it cost."""

    kind: Kind
    prompt: str
    seed: int
    asked: dict[str, str]
    start: Measurement
    end: Measurement
    metrics: dict[str, Any]
    """``training.loop.metrics``: splats, seconds a step by part, peak memory."""
    seconds: float
    """Wall time of the optimisation."""

    def plain(self) -> dict[str, Any]:
        return asdict(self) | {"kind": self.kind.value}

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> "Record":
        moments = {name: Measurement.of_plain(plain[name]) for name in ("start", "end")}
        return cls(**{**plain, **moments, "kind": Kind(plain["kind"])})
