"""What suite=identity keeps of every avatar that it has made, and of every drawing beside them."""

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from avatar_gs.lab.metrics.likeness import ViewFigures


class Kind(str, Enum):
    """What is measured: an avatar of one of the ways to make it, or a drawing that says what figures to expect."""

    SAME_PERSON = "same person drawn anew"
    OTHER_PERSON = "another person"
    OTHER_PERSON_REDRESSED = "another person in the new outfit"
    CROSS_INIT = "cross-init"
    TEXTUAL_INVERSION = "textual inversion"
    FAST = "fast"
    NO_IDENTITY = "no identity"
    NEW_OUTFIT = "new outfit"
    FEWER_PICTURES = "fewer pictures"
    NO_Y_CON = "without y_con"
    NO_CONTROL = "without ControlNet"
    NO_HEAD = "without head framing"
    BOUND = "clothes bound"
    BOUND_REDRESSED = "clothes bound, new outfit"
    NEAR_FACES = "<id> near faces only"
    NEAR_FACES_REDRESSED = "<id> near faces only, new outfit"


DRAWN = (Kind.SAME_PERSON, Kind.OTHER_PERSON, Kind.OTHER_PERSON_REDRESSED)
METHODS = (Kind.CROSS_INIT, Kind.TEXTUAL_INVERSION, Kind.FAST, Kind.NO_IDENTITY)
ABLATIONS = (Kind.NO_Y_CON, Kind.NO_CONTROL, Kind.NO_HEAD)
CHOICES = {
    Kind.CROSS_INIT: Kind.NEW_OUTFIT,
    Kind.BOUND: Kind.BOUND_REDRESSED,
    Kind.NEAR_FACES: Kind.NEAR_FACES_REDRESSED,
}
"""The defaults (first) and what could stand in their place, each with its kind in the new outfit."""
REDRESSED = (*CHOICES.values(), Kind.OTHER_PERSON_REDRESSED)


@dataclass(frozen=True)
class Cost:
    """What training an embedding took. Memory is the largest of the process so far."""

    steps: int
    seconds: float
    peak_memory_mib: float

    def plain(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Record:
    """One person made or drawn in one way.

    ``nearest`` holds the distances from the front views to everyone of ``people.crowd``, by measure. ``backs`` counts
    the views from behind, ``back_faces`` those that show a face; ``front_face`` says whether the head shows one from
    the front. ``embedding`` and ``metrics`` (``training.loop.metrics``) are None where none was trained or made.
    """

    kind: Kind
    person: int
    seed: int
    pictures: int
    prompt: str
    views: list[ViewFigures]
    nearest: dict[str, list[float]]
    backs: int
    back_faces: int
    front_face: bool
    embedding: Cost | None
    metrics: dict[str, Any] | None
    seconds: float
    """Wall time of the optimisation."""

    def plain(self) -> dict[str, Any]:
        return asdict(self) | {"kind": self.kind.value}

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> "Record":
        views = [ViewFigures(**view) for view in plain["views"]]
        embedding = None if plain["embedding"] is None else Cost(**plain["embedding"])
        return cls(**{**plain, "kind": Kind(plain["kind"]), "views": views, "embedding": embedding})
