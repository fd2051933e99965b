"""What suite=editing keeps of every avatar that it has edited."""

from dataclasses import asdict, dataclass
from typing import Any

from avatar_gs.lab.metrics.avatar import Measurement

BEFORE = "before"
"""In the place of a preset: the avatar that is to be edited."""


@dataclass(frozen=True)
class EditRecord:
    """One edit by one method, or (``BEFORE``) the avatar that it began with.

    ``end`` is measured against the drawn truth of the new prompt. ``differences``: by part, for every view that shows
    it, the mean CIEDE2000 between before and after over the pixels that are this part in the truth of both.
    ``overlap``: of the two silhouettes (intersection over union), in the mean over the full-body views.
    """

    preset: str
    changed: str
    old: str
    new: str
    source_prompt: str
    prompt: str
    seed: int
    asked: dict[str, str]
    end: Measurement
    differences: dict[str, list[float]]
    overlap: float
    metrics: dict[str, Any]
    """``training.loop.metrics``."""

    @property
    def seconds(self) -> float:
        """Wall time of all steps."""
        return self.metrics["seconds_per_step"]["total"] * self.metrics["steps"]

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> "EditRecord":
        return cls(**{**plain, "end": Measurement.of_plain(plain["end"])})
