"""suite=identity: what is recorded of each portrayal of a person, and the figures of all records."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import fmean, median
from typing import Any, ClassVar

from avatar_gs.lab.metrics.colours import RIGHT_SHARE, wilson_lower_bound
from avatar_gs.lab.metrics.likeness import ViewFigures, combined
from avatar_gs.lab.metrics.people import PHOTOS
from avatar_gs.lab.metrics.portraits import PARTS
from avatar_gs.lab.suites.suite import Figures, Record

COMBINED = "combined"
FACE = "face"
OWN = ("hair", "skin", FACE)
"""What stays with a person in any clothes."""


class Portrayal(str, Enum):
    """How a person is portrayed: an avatar made by a method, or a drawing that says what figures to expect."""

    SAME_PERSON = "same person, other colours and light"
    OTHER_PERSON = "another person"
    OTHER_PERSON_REDRESSED = "another person in the new outfit"
    CROSS_INIT = "cross-init"
    TEXTUAL_INVERSION = "textual inversion"
    FAST = "fast"
    NO_IDENTITY = "no identity"
    NEW_OUTFIT = "new outfit"
    FEWER_PHOTOS = "fewer pictures"  # also part of the keys of stored records
    NO_Y_CON = "without y_con"
    NO_CONTROL = "without ControlNet"
    NO_HEAD = "without head framing"
    BOUND = "clothes bound"
    BOUND_REDRESSED = "clothes bound, new outfit"
    NEAR_FACES = "<id> near faces only"
    NEAR_FACES_REDRESSED = "<id> near faces only, new outfit"


DRAWN = (Portrayal.SAME_PERSON, Portrayal.OTHER_PERSON, Portrayal.OTHER_PERSON_REDRESSED)
METHODS = (Portrayal.CROSS_INIT, Portrayal.TEXTUAL_INVERSION, Portrayal.FAST, Portrayal.NO_IDENTITY)
ABLATIONS = (Portrayal.NO_Y_CON, Portrayal.NO_CONTROL, Portrayal.NO_HEAD)
CHOICES = {
    Portrayal.CROSS_INIT: Portrayal.NEW_OUTFIT,
    Portrayal.BOUND: Portrayal.BOUND_REDRESSED,
    Portrayal.NEAR_FACES: Portrayal.NEAR_FACES_REDRESSED,
}
"""The defaults (first) and alternatives to them, each with its portrayal in the new outfit."""
REDRESSED = (*CHOICES.values(), Portrayal.OTHER_PERSON_REDRESSED)


@dataclass(frozen=True)
class Cost:
    """What training an identity took. Memory is the process's peak so far."""

    steps: int
    seconds: float
    peak_memory_mib: float


@dataclass(frozen=True)
class IdentityRecord(Record):
    """One person portrayed once.

    Args:
        photos: the number of photos that the identity is trained on.
        views: likeness in each measured view.
        nearest: by measure, the distances from the front views to everyone of ``people.crowd``.
        backs: the number of views from behind.
        back_faces: how many of them show a face.
        front_face: whether the head shows one from the front.
        embedding: None where no identity was trained.
        metrics: ``training.loop.metrics``; None where nothing was optimised.
        seconds: wall time of the optimisation.
    """

    former: ClassVar[Mapping[str, str]] = {"kind": "portrayal", "pictures": "photos"}

    portrayal: Portrayal
    person: int
    seed: int
    photos: int
    prompt: str
    views: list[ViewFigures]
    nearest: dict[str, list[float]]
    backs: int
    back_faces: int
    front_face: bool
    embedding: Cost | None
    metrics: dict[str, Any] | None
    seconds: float


def portrayed_as(records: Iterable[IdentityRecord], portrayal: Portrayal) -> list[IdentityRecord]:
    return [record for record in records if record.portrayal is portrayal]


def rank(distances: Sequence[float], person: int) -> int:
    """How many of the crowd are nearer than the person, or as near; 0: the person is found."""
    own = distances[person]
    return sum(value <= own for index, value in enumerate(distances) if index != person)


def retrieval(some: Sequence[IdentityRecord]) -> dict[str, Figures]:
    """By measure: how many avatars' own person is the nearest of the crowd, and the mean rank (0 is best)."""
    figures = {}
    for measure in [*some[0].nearest, COMBINED]:
        ranks = [
            rank(combined(one.nearest) if measure == COMBINED else one.nearest[measure], one.person) for one in some
        ]
        found = sum(place == 0 for place in ranks)
        figures[measure] = {
            "avatars": len(ranks),
            "fraction": found / len(ranks),
            "wilson": wilson_lower_bound(found, len(ranks)),
            "mean_rank": fmean(ranks),
        }
    return figures


def likeness(some: Sequence[IdentityRecord]) -> dict[str, Figures]:
    """Figures by framing and side, and of all views: means of PSNR and distance, medians of ΔE00 by part."""
    groups: dict[str, list[ViewFigures]] = {"all": [view for record in some for view in record.views]}
    for view in groups["all"]:
        groups.setdefault(f"{view.framing}/{view.side}", []).append(view)
    return {name: _likeness_of(views) for name, views in groups.items()}


def _likeness_of(views: Sequence[ViewFigures]) -> Figures:
    differences = {part: [view.delta_e[part] for view in views if part in view.delta_e] for part in PARTS}
    return {
        "views": len(views),
        "psnr": fmean(view.psnr for view in views),
        "distance": fmean(view.distance for view in views),
        "delta_e": {part: median(values) for part, values in differences.items() if values},
    }


def parts_kept(record: IdentityRecord) -> dict[str, float]:
    """The fraction of views in which each part has the true colour name, and the face enough of the true contrast."""
    seen: dict[str, list[bool]] = {}
    for view in record.views:
        for part, kept in view.kept.items():
            seen.setdefault(part, []).append(kept)
        if view.face_kept is not None:
            seen.setdefault(FACE, []).append(view.face_kept)
    return {part: fmean(values) for part, values in seen.items()}


def editability(some: Sequence[IdentityRecord]) -> Figures:
    """A part is right when it is so in ``RIGHT_SHARE`` of its views: all parts, the person's own and the worn ones.
    Also the fraction of all views."""
    kept = [parts_kept(record) for record in some]
    fractions = [fraction for parts in kept for fraction in parts.values()]
    right = sum(fraction >= RIGHT_SHARE for fraction in fractions)

    def right_of(names: Sequence[str]) -> float | None:
        found = [parts[part] >= RIGHT_SHARE for parts in kept for part in names if part in parts]
        return fmean(found) if found else None

    names = [part for part in (*PARTS, FACE) if any(part in parts for parts in kept)]
    return {
        "avatars": len(some),
        "parts": {part: fmean(parts[part] for parts in kept if part in parts) for part in names},
        "right": right / len(fractions),
        "wilson": wilson_lower_bound(right, len(fractions)),
        "own": right_of(OWN),
        "worn": right_of([part for part in PARTS if part not in OWN]),
        "views": fmean(fractions),
    }


def janus(some: Sequence[IdentityRecord]) -> Figures:
    """Faces seen from behind, and from the front, where one belongs."""
    views = sum(record.backs for record in some)
    return {
        "views": views,
        "faces": sum(record.back_faces for record in some),
        "rate": sum(record.back_faces for record in some) / views,
        "front": fmean(record.front_face for record in some),
    }


def in_short(some: Sequence[IdentityRecord]) -> Figures:
    """One row of a comparison."""
    all_views = likeness(some)["all"]
    return {
        "avatars": len(some),
        "retrieval": retrieval(some)[COMBINED]["fraction"],
        "psnr": all_views["psnr"],
        "distance": all_views["distance"],
        "delta_e": fmean(all_views["delta_e"].values()),
        "janus": janus(some)["rate"],
        "front_face": janus(some)["front"],
    }


def photos_table(records: Sequence[IdentityRecord]) -> dict[str, Figures]:
    """How likeness grows with the number of photos, on the people and the seed for whom all numbers are there."""
    fewer = portrayed_as(records, Portrayal.FEWER_PHOTOS)
    all_of_them = _same_runs(portrayed_as(records, Portrayal.CROSS_INIT), fewer)
    by_number = {number: [one for one in fewer if one.photos == number] for number in {one.photos for one in fewer}}
    rows = {str(number): in_short(by_number[number]) for number in sorted(by_number)}
    return rows | ({str(PHOTOS): in_short(all_of_them)} if all_of_them else {})


def ablations_table(records: Sequence[IdentityRecord]) -> dict[str, Figures]:
    """The whole method, without the identity, and without each of its other parts, on the same people."""
    ablated = [record for portrayal in ABLATIONS for record in portrayed_as(records, portrayal)]
    rows = {
        "the whole method": _same_runs(portrayed_as(records, Portrayal.CROSS_INIT), ablated),
        "without identity": _same_runs(portrayed_as(records, Portrayal.NO_IDENTITY), ablated),
        **{portrayal.value: portrayed_as(ablated, portrayal) for portrayal in ABLATIONS},
    }
    return {name: in_short(some) for name, some in rows.items() if some}


def choices_table(records: Sequence[IdentityRecord]) -> dict[str, Figures]:
    """The defaults and alternatives to them, on the same people: likeness, and the new outfit."""
    others = [record for portrayal in list(CHOICES)[1:] for record in portrayed_as(records, portrayal)]
    rows = {}
    for portrayal, redressed in CHOICES.items():
        alone, dressed = (_same_runs(portrayed_as(records, one), others) for one in (portrayal, redressed))
        if alone and dressed:
            edited = editability(dressed)
            rows[portrayal.value] = in_short(alone) | {name: edited[name] for name in ("right", "own", "worn")}
    return rows


def _same_runs(some: Sequence[IdentityRecord], others: Sequence[IdentityRecord]) -> list[IdentityRecord]:
    """Those of the same people and seeds as others."""
    wanted = {(record.person, record.seed) for record in others}
    return [record for record in some if (record.person, record.seed) in wanted]


def embedding_table(records: Sequence[IdentityRecord]) -> dict[str, Figures]:
    """What training an identity takes, by method. A process's peak memory only grows, so the least of them bounds what
    training needs."""
    figures = {}
    for portrayal in METHODS:
        costs = [record.embedding for record in portrayed_as(records, portrayal) if record.embedding is not None]
        if costs:
            figures[portrayal.value] = {
                "identities": len(costs),
                "steps": costs[0].steps,
                "seconds": fmean(cost.seconds for cost in costs),
                "most_seconds": max(cost.seconds for cost in costs),
                "peak_memory_mib": min(cost.peak_memory_mib for cost in costs),
            }
    return figures


def costs(records: Sequence[IdentityRecord]) -> Figures:
    """What avatars cost, and identities and avatars together. ``person_seconds``: all methods and the new outfit of one
    person with one seed."""
    made = [(record, record.metrics) for record in records if record.metrics is not None]
    trained = {(one.person, one.seed, one.photos, one.embedding) for one in records if one.embedding is not None}
    runs = {(record.person, record.seed) for record in portrayed_as(records, Portrayal.CROSS_INIT)}
    regular = [record for portrayal in METHODS for record in portrayed_as(records, portrayal)]
    embedding = sum(record.embedding.seconds for record in regular if record.embedding is not None)
    making = sum(record.seconds for record in [*regular, *portrayed_as(records, Portrayal.NEW_OUTFIT)])
    return {
        "person_seconds": (embedding + making) / len(runs),
        "avatars": len(made),
        "steps": made[0][1]["steps"],
        "seconds": fmean(record.seconds for record, _ in made),
        "splats": fmean(metrics["splats"] for _, metrics in made),
        "peak_memory_mib": max(max(metrics["peak_memory_mib"].values()) for _, metrics in made),
        "wall_seconds": sum(record.seconds for record, _ in made) + sum(one[3].seconds for one in trained),
    }


def summarise(records: Sequence[IdentityRecord]) -> Figures:
    """All figures of suite=identity."""

    def by_portrayal(
        portrayals: Sequence[Portrayal], figures: Callable[[Sequence[IdentityRecord]], dict[str, Any]]
    ) -> Figures:
        return {
            portrayal.value: figures(some) for portrayal in portrayals if (some := portrayed_as(records, portrayal))
        }

    return {
        "retrieval": by_portrayal((Portrayal.SAME_PERSON, *METHODS), retrieval),
        "likeness": by_portrayal((Portrayal.SAME_PERSON, *METHODS, Portrayal.OTHER_PERSON), likeness),
        "editability": by_portrayal(
            (Portrayal.SAME_PERSON, Portrayal.NEW_OUTFIT, Portrayal.OTHER_PERSON_REDRESSED), editability
        ),
        "photos": photos_table(records),
        "embedding": embedding_table(records),
        "ablations": ablations_table(records),
        "choices": choices_table(records),
        "janus": by_portrayal((Portrayal.SAME_PERSON, *METHODS), janus),
        "costs": costs(records),
    }
