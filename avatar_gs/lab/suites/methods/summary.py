"""From the records of all methods to the rows of the comparison."""

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np

from avatar_gs.lab.metrics.features import diversity, view_consistency
from avatar_gs.lab.scorer.model import PERSON_WIDTH
from avatar_gs.lab.suites.methods.records import Record
from avatar_gs.lab.suites.methods.runs import DEFAULT
from avatar_gs.lab.suites.parts import expected_parts

BEST = {
    "right": max,
    "saturation": min,
    "diversity": max,
    "view_distance": min,
    "calls_per_step": min,
    "seconds": min,
}
"""Figures that have a better end, and which it is."""
MODES = ("equal steps", "equal compute")


def row(records: Sequence[Record]) -> dict[str, Any]:
    """The figures of one method with or without ControlNet. ``spread``: standard deviations over its avatars."""
    right = [_right(record) for record in records]
    distances = [record.saturation["wasserstein"] for record in records if record.saturation]
    consistency = view_consistency(np.array([record.orbit for record in records])[..., :PERSON_WIDTH])
    return {
        "preset": records[0].preset,
        "control": records[0].control,
        "avatars": len(records),
        "steps": fmean(record.steps for record in records),
        "right": fmean(right),
        "pixels": fmean(_pixels(record) for record in records),
        "saturation": fmean(distances) if distances else None,
        "chroma": fmean(r.saturation["difference"] for r in records if r.saturation) if distances else None,
        "diversity": _diversity(records),
        "view_distance": float(consistency.mean()),
        "calls_per_step": fmean(record.calls_per_step for record in records),
        "calls": fmean(record.metrics["prior_calls"] for record in records),
        "seconds": fmean(record.seconds for record in records),
        "spread": {
            "right": _spread(right),
            "saturation": _spread(distances),
            "view_distance": _spread(consistency.tolist()),
        },
    }


def _right(record: Record) -> float:
    """The share of (part, view) that are right."""
    return fmean(hit for item in expected_parts(record.end, record.asked) for hit in item.hits())


def _pixels(record: Record) -> float:
    """The share of a part's pixels with the asked colour, over parts and views."""
    return fmean(view.share(item.name) for item in expected_parts(record.end, record.asked) for view in item.views)


def _diversity(records: Sequence[Record]) -> float | None:
    """The mean over prompts; None with one seed."""
    by_prompt: dict[str, list[list[list[float]]]] = {}
    for record in records:
        by_prompt.setdefault(record.prompt, []).append(record.orbit)
    several = [np.array(orbits) for orbits in by_prompt.values() if len(orbits) > 1]
    return fmean(diversity(orbits) for orbits in several) if several else None


def _spread(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """A row for each method with and without ControlNet, in the records' order."""
    groups: dict[tuple[str, bool], list[Record]] = {}
    for record in records:
        groups.setdefault((record.preset, record.control), []).append(record)
    return [row(some) for some in groups.values()]


def best(some: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The best value of each figure that has a better end."""
    found = {}
    for name, end in BEST.items():
        values = [one[name] for one in some if one[name] is not None]
        if values:
            found[name] = end(values)
    return found


def behind(some: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where the default method is not the best: its value, the best one and whose that is. ``some`` share their
    ControlNet; nothing without the default among them."""
    default = next((one for one in some if one["preset"] == DEFAULT), None)
    if default is None:
        return []
    lost = []
    for name, value in best(some).items():
        if default[name] != value:
            winner = next(one["preset"] for one in some if one[name] == value)
            lost.append({"figure": name, "default": default[name], "best": value, "preset": winner})
    return lost


def summarise(modes: dict[str, list[Record]]) -> dict[str, Any]:
    """All figures of suite=methods, by mode."""
    tables = {mode: rows(records) for mode, records in modes.items()}
    every = [record for records in modes.values() for record in records]
    return {
        "modes": tables,
        "behind": {
            mode: {
                "with" if control else "without": behind([one for one in table if one["control"] is control])
                for control in (True, False)
            }
            for mode, table in tables.items()
        },
        "costs": {
            "avatars": len({(r.preset, r.control, r.prompt, r.seed, r.steps) for r in every}),
            "seconds_per_step": fmean(r.seconds / r.steps for r in modes[MODES[0]]),
            "both_modes": sum(r.seconds for r in every) / sum(r.seconds for r in modes[MODES[0]]),
            "presets": len({record.preset for record in every}),
            "wall_seconds": sum(_once(every)),
        },
    }


def _once(records: Iterable[Record]) -> list[float]:
    """The seconds of every avatar, those that serve in both modes counted once."""
    return list({(r.preset, r.control, r.prompt, r.seed, r.steps): r.seconds for r in records}.values())
