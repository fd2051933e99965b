"""What suite=scores keeps of everything that it has made, beside the pictures."""

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class Kind(str, Enum):
    """What is scored."""

    TRUTH = "drawn truth"
    SAMPLES = "the prior's samples"
    AVATAR = "avatar"
    CLIP = "CLIP guidance"
    START = "before the first step"


AVATARS = (Kind.AVATAR, Kind.CLIP)


@dataclass(frozen=True)
class Record:
    """One of them for one prompt (by its place in the fixed list) and seed; ``metrics`` (``training.loop.metrics``) is
    None where nothing was optimised."""

    kind: Kind
    case: int
    prompt: str
    seed: int
    metrics: dict[str, Any] | None
    seconds: float

    def plain(self) -> dict[str, Any]:
        return asdict(self) | {"kind": self.kind.value}

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> "Record":
        return cls(**{**plain, "kind": Kind(plain["kind"])})
