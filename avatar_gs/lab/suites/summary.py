"""From the records of many avatars to the figures that are reported."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from avatar_gs.lab.metrics.avatar import Measurement
from avatar_gs.lab.metrics.colours import PartView, chroma_ratio, colour_difference, wilson_lower_bound
from avatar_gs.lab.suites.records import Kind, Record
from avatar_gs.lab.world.colours import table

REPORTED = ("hair", "shirt", "bottoms", "shoes", "hat")
EXCHANGED = {"red": "blue", "blue": "red"}


@dataclass(frozen=True)
class Judged:
    """A part of one avatar with the name that its colour should have."""

    part: str
    name: str
    views: list[PartView]

    def hits(self) -> list[bool]:
        return [view.right(self.name) for view in self.views]


def judged(measurement: Measurement, asked: dict[str, str], parts: Iterable[str] = REPORTED) -> list[Judged]:
    """The parts of an avatar that are seen and have an asked colour."""
    return [
        Judged(part, asked[part], measurement.parts[part])
        for part in parts
        if part in asked and measurement.parts.get(part)
    ]


def part_figures(some: Sequence[Judged]) -> dict[str, Any]:
    """Figures of one part over avatars. Every view: an avatar counts if even its worst view is right. Worst view: the
    lowest share among the eight views. ``some`` must not be empty."""
    every = [all(item.hits()) for item in some]
    by_view: dict[str, list[bool]] = {}
    for item in some:
        for view, hit in zip(item.views, item.hits(), strict=True):
            by_view.setdefault(view.view, []).append(hit)
    shares = {view: fmean(hits) for view, hits in by_view.items()}
    worst = min(shares, key=lambda view: shares[view])
    differences, ratios = _colour_figures(some)
    return {
        "avatars": len(some),
        "every_view": fmean(every),
        "wilson": wilson_lower_bound(sum(every), len(every)),
        "worst_view": {"view": worst, "share": shares[worst]},
        "views": shares,
        "all_views": fmean(hit for hits in by_view.values() for hit in hits),
        "full_body": _mean(hit for view, hits in by_view.items() if view.startswith("body/") for hit in hits),
        "close_up": _mean(hit for view, hits in by_view.items() if not view.startswith("body/") for hit in hits),
        "pixels": fmean(view.share(item.name) for item in some for view in item.views),
        "delta_e": median(differences) if differences else None,
        "chroma_ratio": median(ratios) if ratios else None,
    }


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return fmean(listed) if listed else None


def _colour_figures(some: Sequence[Judged]) -> tuple[list[float], list[float]]:
    """ΔE00 and chroma ratios of every view of every avatar that has pixels there."""
    differences, ratios = [], []
    for item in some:
        for view in item.views:
            if view.median is not None:
                differences.append(colour_difference(view.median, item.name, item.part))
                ratio = chroma_ratio(view.median, item.name, item.part)
                ratios += [] if ratio is None else [ratio]
    return differences, ratios


def parts_table(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Each part's figures at the end and before the first step."""
    figures = {}
    for part in REPORTED:
        ends = [item for record in records for item in judged(record.end, record.asked, [part])]
        starts = [item for record in records for item in judged(record.start, record.asked, [part])]
        if ends:
            figures[part] = {"end": part_figures(ends), "start": part_figures(starts)}
    return figures


def controls_table(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """The share of right views in every control, beside the figure that it belongs to and the level of chance."""
    of_kind = {kind: [record for record in records if record.kind is kind] for kind in Kind}
    avatars = of_kind[Kind.AVATAR]
    prompts = {record.prompt for record in of_kind[Kind.RANDOM_WEIGHTS]}
    same = [record for record in avatars if record.prompt in prompts]
    clothes = ("shirt", "bottoms")
    exchanged = of_kind[Kind.RED_BLUE_EXCHANGED]
    rows: dict[str, list[Judged]] = {
        "avatars": _as_asked(avatars),
        "the controls' prompts": _as_asked(same),
        "step 0": [item for record in avatars for item in judged(record.start, record.asked)],
        "no guidance": _as_asked(of_kind[Kind.NO_GUIDANCE]),
        "random weights": _as_asked(of_kind[Kind.RANDOM_WEIGHTS]),
        "swapped prompts": _swapped(avatars),
        "red and blue clothes": _as_asked(of_kind[Kind.RED_BLUE], clothes),
        "words exchanged: as asked": _as_asked(exchanged, clothes),
        "words exchanged: as exchanged": [
            item
            for record in exchanged
            for item in judged(record.end, {part: EXCHANGED[record.asked[part]] for part in clothes}, clothes)
        ],
    }
    return {name: _share(items) for name, items in rows.items() if items}


def _as_asked(records: Sequence[Record], parts: Iterable[str] = REPORTED) -> list[Judged]:
    return [item for record in records for item in judged(record.end, record.asked, parts)]


def _swapped(records: Sequence[Record]) -> list[Judged]:
    """Every avatar against the colours of the next one with another prompt."""
    prompts = {record.prompt: record.asked for record in records}
    names = list(prompts)
    following = dict(zip(names, [*names[1:], *names[:1]], strict=True))
    if len(names) < 2:
        return []
    return [item for record in records for item in judged(record.end, prompts[following[record.prompt]])]


def _share(items: Sequence[Judged]) -> dict[str, Any]:
    hits = [hit for item in items for hit in item.hits()]
    by_part = {
        part: fmean(hit for item in items if item.part == part for hit in item.hits())
        for part in REPORTED
        if any(item.part == part for item in items)
    }
    chance = fmean(1 / len(table(item.part)) for item in items for _ in item.views)
    pixels = fmean(view.share(item.name) for item in items for view in item.views)
    return {"views": len(hits), "right": fmean(hits), "pixels": pixels, "chance": chance, "parts": by_part}


def volumes_table(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """The mean over avatars of the overlap (intersection over union) with each true volume outside the bare body."""
    figures = {}
    for name in ("long hair", "hat", "skirt"):
        pairs = [
            (record.start.volumes[name], record.end.volumes[name]) for record in records if name in record.end.volumes
        ]
        if pairs:
            start, end = ([both / max(either, 1) for both, either in moment] for moment in zip(*pairs, strict=True))
            figures[name] = {"avatars": len(pairs), "iou": fmean(end), "least": min(end), "iou_start": fmean(start)}
    return figures


def costs(records: Sequence[Record]) -> dict[str, Any]:
    """What an avatar costs, in the mean (memory: at most)."""
    parts = records[0].metrics["seconds_per_step"]
    return {
        "splats": {
            "mean": fmean(r.metrics["splats"] for r in records),
            "most": max(r.metrics["splats"] for r in records),
        },
        "steps": records[0].metrics["steps"],
        "seconds": {"mean": fmean(r.seconds for r in records), "most": max(r.seconds for r in records)},
        "seconds_per_step": {
            part: fmean(r.metrics["seconds_per_step"].get(part, 0.0) for r in records) for part in parts
        },
        "peak_memory_mib": max(max(r.metrics["peak_memory_mib"].values()) for r in records),
    }


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """All figures of suite=colours."""
    avatars = [record for record in records if record.kind is Kind.AVATAR]
    return {
        "parts": parts_table(avatars),
        "controls": controls_table(records),
        "volumes": volumes_table(avatars),
        "stray": {
            "mean": fmean(record.end.stray for record in avatars),
            "most": max(record.end.stray for record in avatars),
            "start": fmean(record.start.stray for record in avatars),
        },
        "costs": costs(avatars),
        "wall_seconds": sum(record.seconds for record in records),
    }
