"""The rows of DreamFusion's ablation, and what suite=shading keeps of every avatar that it has made."""

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from avatar_gs.lab.metrics.avatar import Measurement


class Row(str, Enum):
    """Each row has all that the rows above it have (Poole et al. 2022, figure 6)."""

    NOTHING = "none"
    VIEW_AUG = "+ ViewAug"
    VIEW_DEP = "+ ViewDep"
    LIGHTING = "+ Lighting"
    TEXTURELESS = "+ Textureless"

    def has(self, other: "Row") -> bool:
        rows = list(Row)
        return rows.index(other) <= rows.index(self)


@dataclass(frozen=True)
class ShadingRecord:
    """One avatar.

    ``albedo``, ``shaded``: colours against the drawn truth, of the albedo and of the lit pictures. ``found``: by look
    (``albedo``, ``shaded``, ``textureless``, and the controls ``truth`` and ``silhouette``) and direction, whether the
    scorer finds its prompt.
    """

    row: Row
    prompt: str
    seed: int
    asked: dict[str, str]
    albedo: Measurement
    shaded: Measurement
    found: dict[str, dict[str, bool]]
    metrics: dict[str, Any]
    seconds: float

    def plain(self) -> dict[str, Any]:
        return asdict(self) | {"row": self.row.value}

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> "ShadingRecord":
        looks = {name: Measurement.of_plain(plain[name]) for name in ("albedo", "shaded")}
        return cls(**{**plain, **looks, "row": Row(plain["row"])})
