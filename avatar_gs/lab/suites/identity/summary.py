"""From the records of suite=identity to the figures that are reported."""

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, median
from typing import Any

from avatar_gs.lab.metrics.colours import RIGHT_SHARE, wilson_lower_bound
from avatar_gs.lab.metrics.likeness import ViewFigures, combined
from avatar_gs.lab.metrics.people import PICTURES
from avatar_gs.lab.metrics.portraits import PARTS
from avatar_gs.lab.suites.identity.records import ABLATIONS, CHOICES, METHODS, Kind, Record

COMBINED = "combined"
FACE = "face"
OWN = ("hair", "skin", FACE)
"""What stays with a person in any clothes."""


def of_kind(records: Iterable[Record], kind: Kind) -> list[Record]:
    return [record for record in records if record.kind is kind]


def rank(distances: Sequence[float], person: int) -> int:
    """How many of the crowd are nearer than the person, or as near; 0: the person is found."""
    own = distances[person]
    return sum(value <= own for index, value in enumerate(distances) if index != person)


def retrieval(some: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """By measure: the share of avatars whose own person is the nearest of the crowd, and the mean rank (0 is best)."""
    figures = {}
    for measure in [*some[0].nearest, COMBINED]:
        ranks = [
            rank(combined(one.nearest) if measure == COMBINED else one.nearest[measure], one.person) for one in some
        ]
        found = sum(place == 0 for place in ranks)
        figures[measure] = {
            "avatars": len(ranks),
            "share": found / len(ranks),
            "wilson": wilson_lower_bound(found, len(ranks)),
            "mean_rank": fmean(ranks),
        }
    return figures


def likeness(some: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Figures by framing and side, and of all views: means of PSNR and distance, medians of ΔE00 by part."""
    groups: dict[str, list[ViewFigures]] = {"all": [view for record in some for view in record.views]}
    for view in groups["all"]:
        groups.setdefault(f"{view.framing}/{view.side}", []).append(view)
    return {name: _likeness_of(views) for name, views in groups.items()}


def _likeness_of(views: Sequence[ViewFigures]) -> dict[str, Any]:
    differences = {part: [view.delta_e[part] for view in views if part in view.delta_e] for part in PARTS}
    return {
        "views": len(views),
        "psnr": fmean(view.psnr for view in views),
        "distance": fmean(view.distance for view in views),
        "delta_e": {part: median(values) for part, values in differences.items() if values},
    }


def parts_kept(record: Record) -> dict[str, float]:
    """The share of views in which each part has the true colour name, and the face enough of the true contrast."""
    seen: dict[str, list[bool]] = {}
    for view in record.views:
        for part, kept in view.kept.items():
            seen.setdefault(part, []).append(kept)
        if view.face_kept is not None:
            seen.setdefault(FACE, []).append(view.face_kept)
    return {part: fmean(values) for part, values in seen.items()}


def editability(some: Sequence[Record]) -> dict[str, Any]:
    """A part is right when it is so in ``RIGHT_SHARE`` of its views: all parts, the person's own and the worn ones;
    beside it, all views alike."""
    kept = [parts_kept(record) for record in some]
    shares = [share for parts in kept for share in parts.values()]
    right = sum(share >= RIGHT_SHARE for share in shares)

    def right_of(names: Sequence[str]) -> float | None:
        found = [parts[part] >= RIGHT_SHARE for parts in kept for part in names if part in parts]
        return fmean(found) if found else None

    names = [part for part in (*PARTS, FACE) if any(part in parts for parts in kept)]
    return {
        "avatars": len(some),
        "parts": {part: fmean(parts[part] for parts in kept if part in parts) for part in names},
        "right": right / len(shares),
        "wilson": wilson_lower_bound(right, len(shares)),
        "own": right_of(OWN),
        "worn": right_of([part for part in PARTS if part not in OWN]),
        "views": fmean(shares),
    }


def janus(some: Sequence[Record]) -> dict[str, Any]:
    """Faces seen from behind, and from the front, where one belongs."""
    views = sum(record.backs for record in some)
    return {
        "views": views,
        "faces": sum(record.back_faces for record in some),
        "rate": sum(record.back_faces for record in some) / views,
        "front": fmean(record.front_face for record in some),
    }


def in_short(some: Sequence[Record]) -> dict[str, Any]:
    """One row of a comparison."""
    all_views = likeness(some)["all"]
    return {
        "avatars": len(some),
        "retrieval": retrieval(some)[COMBINED]["share"],
        "psnr": all_views["psnr"],
        "distance": all_views["distance"],
        "delta_e": fmean(all_views["delta_e"].values()),
        "janus": janus(some)["rate"],
        "front_face": janus(some)["front"],
    }


def pictures_table(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """How likeness grows with the number of pictures, on the people and the seed for whom all numbers are there."""
    fewer = of_kind(records, Kind.FEWER_PICTURES)
    all_of_them = _same_runs(of_kind(records, Kind.CROSS_INIT), fewer)
    by_number = {number: [one for one in fewer if one.pictures == number] for number in {one.pictures for one in fewer}}
    rows = {str(number): in_short(by_number[number]) for number in sorted(by_number)}
    return rows | ({str(PICTURES): in_short(all_of_them)} if all_of_them else {})


def ablations_table(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """The whole method, without the identity, and without each of its other parts, on the same people."""
    ablated = [record for kind in ABLATIONS for record in of_kind(records, kind)]
    rows = {
        "the whole method": _same_runs(of_kind(records, Kind.CROSS_INIT), ablated),
        "without identity": _same_runs(of_kind(records, Kind.NO_IDENTITY), ablated),
        **{kind.value: of_kind(ablated, kind) for kind in ABLATIONS},
    }
    return {name: in_short(some) for name, some in rows.items() if some}


def choices_table(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """What could stand in the place of a default, beside it, on the same people: likeness, and the new outfit."""
    others = [record for kind in list(CHOICES)[1:] for record in of_kind(records, kind)]
    rows = {}
    for kind, redressed in CHOICES.items():
        alone, dressed = (_same_runs(of_kind(records, one), others) for one in (kind, redressed))
        if alone and dressed:
            edited = editability(dressed)
            rows[kind.value] = in_short(alone) | {name: edited[name] for name in ("right", "own", "worn")}
    return rows


def _same_runs(some: Sequence[Record], others: Sequence[Record]) -> list[Record]:
    """Those of the same people and seeds as others."""
    wanted = {(record.person, record.seed) for record in others}
    return [record for record in some if (record.person, record.seed) in wanted]


def embedding_table(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """What training an identity takes, by method. A process's peak memory only grows, so the least of them bounds what
    training needs."""
    figures = {}
    for kind in METHODS:
        costs = [record.embedding for record in of_kind(records, kind) if record.embedding is not None]
        if costs:
            figures[kind.value] = {
                "identities": len(costs),
                "steps": costs[0].steps,
                "seconds": fmean(cost.seconds for cost in costs),
                "most_seconds": max(cost.seconds for cost in costs),
                "peak_memory_mib": min(cost.peak_memory_mib for cost in costs),
            }
    return figures


def costs(records: Sequence[Record]) -> dict[str, Any]:
    """What avatars cost, and identities and avatars together. ``person_seconds``: all methods and the new outfit of one
    person with one seed."""
    made = [(record, record.metrics) for record in records if record.metrics is not None]
    trained = {(one.person, one.seed, one.pictures, one.embedding) for one in records if one.embedding is not None}
    runs = {(record.person, record.seed) for record in of_kind(records, Kind.CROSS_INIT)}
    regular = [record for kind in METHODS for record in of_kind(records, kind)]
    embedding = sum(record.embedding.seconds for record in regular if record.embedding is not None)
    making = sum(record.seconds for record in [*regular, *of_kind(records, Kind.NEW_OUTFIT)])
    return {
        "person_seconds": (embedding + making) / len(runs),
        "avatars": len(made),
        "steps": made[0][1]["steps"],
        "seconds": fmean(record.seconds for record, _ in made),
        "splats": fmean(metrics["splats"] for _, metrics in made),
        "peak_memory_mib": max(max(metrics["peak_memory_mib"].values()) for _, metrics in made),
        "wall_seconds": sum(record.seconds for record, _ in made) + sum(one[3].seconds for one in trained),
    }


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """All figures of suite=identity."""

    def by_kind(kinds: Sequence[Kind], figures: Callable[[Sequence[Record]], dict[str, Any]]) -> dict[str, Any]:
        return {kind.value: figures(some) for kind in kinds if (some := of_kind(records, kind))}

    return {
        "retrieval": by_kind((Kind.SAME_PERSON, *METHODS), retrieval),
        "likeness": by_kind((Kind.SAME_PERSON, *METHODS, Kind.OTHER_PERSON), likeness),
        "editability": by_kind((Kind.SAME_PERSON, Kind.NEW_OUTFIT, Kind.OTHER_PERSON_REDRESSED), editability),
        "pictures": pictures_table(records),
        "embedding": embedding_table(records),
        "ablations": ablations_table(records),
        "choices": choices_table(records),
        "janus": by_kind((Kind.SAME_PERSON, *METHODS), janus),
        "costs": costs(records),
    }
