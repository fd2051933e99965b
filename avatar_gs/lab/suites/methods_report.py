"""suite=methods: what is recorded of each avatar, the figures, and the report."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from avatar_gs.core.console import format_duration
from avatar_gs.guidance.methods.robust_nfsd import WARMUP_SHARE
from avatar_gs.lab.metrics.avatar import Measurement
from avatar_gs.lab.metrics.features import diversity, view_consistency
from avatar_gs.lab.metrics.views import ORBIT
from avatar_gs.lab.scorer.model import PERSON_WIDTH
from avatar_gs.lab.suites.parts import expected_parts, pixel_fraction, right_fraction
from avatar_gs.lab.suites.report import deviation_of, markdown_table, mean_of, number
from avatar_gs.lab.suites.suite import Figures, Record

DEFAULT = "anchored_de_sds"
CALLS = 3
"""Equal compute: the predicted images for each of ``method_steps`` steps and each view."""
BEST = {
    "right": max,
    "saturation": min,
    "diversity": max,
    "view_distance": min,
    "calls_per_step": min,
    "seconds": min,
}
"""Figures that have a better end, and which it is."""
EQUAL_STEPS, EQUAL_COMPUTE = "equal steps", "equal compute"
DIGITS = {"right": 2, "saturation": 1, "diversity": 3, "view_distance": 3, "calls_per_step": 1, "seconds": 0}
WORDS = {
    "right": "colours right",
    "saturation": "saturation error",
    "diversity": "diversity",
    "view_distance": "view distance",
    "calls_per_step": "calls a step",
    "seconds": "seconds",
}


@dataclass(frozen=True)
class MethodsRecord(Record):
    """One avatar by one method.

    Args:
        orbit: the scorer's features of the full body from all sides, view by view.
        saturation: how its chroma differs from that of the prior's samples (``metrics.features.SaturationError``);
            None if nothing was solid.
        metrics: ``training.loop.metrics``.
        seconds: wall time of the optimisation.
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
    seconds: float

    @property
    def calls_per_step(self) -> float:
        """Predicted images per step and view."""
        return self.metrics["prior_calls"] / (self.steps * self.batch)


# ---- figures


def row(records: Sequence[MethodsRecord]) -> Figures:
    """The figures of one method with or without ControlNet. ``std``: standard deviations over its avatars."""
    parts = [expected_parts(record.end, record.asked) for record in records]
    right = [right_fraction(items) for items in parts]
    distances = [record.saturation["wasserstein"] for record in records if record.saturation]
    consistency = view_consistency(np.array([record.orbit for record in records])[..., :PERSON_WIDTH])
    return {
        "preset": records[0].preset,
        "control": records[0].control,
        "avatars": len(records),
        "steps": fmean(record.steps for record in records),
        "right": mean_of(right),
        "pixels": mean_of(pixel_fraction(items) for items in parts),
        "saturation": mean_of(distances),
        "chroma": mean_of(r.saturation["difference"] for r in records if r.saturation),
        "diversity": _diversity(records),
        "view_distance": float(consistency.mean()),
        "calls_per_step": fmean(record.calls_per_step for record in records),
        "calls": fmean(record.metrics["prior_calls"] for record in records),
        "seconds": fmean(record.seconds for record in records),
        "std": {
            "right": deviation_of(right),
            "saturation": deviation_of(distances),
            "view_distance": deviation_of(consistency.tolist()),
        },
    }


def _diversity(records: Sequence[MethodsRecord]) -> float | None:
    """The mean over prompts; None with one seed."""
    by_prompt: dict[str, list[list[list[float]]]] = {}
    for record in records:
        by_prompt.setdefault(record.prompt, []).append(record.orbit)
    several = [np.array(orbits) for orbits in by_prompt.values() if len(orbits) > 1]
    return mean_of(diversity(orbits) for orbits in several)


def rows(records: Iterable[MethodsRecord]) -> list[Figures]:
    """A row for each method with and without ControlNet, in the records' order."""
    groups: dict[tuple[str, bool], list[MethodsRecord]] = {}
    for record in records:
        groups.setdefault((record.preset, record.control), []).append(record)
    return [row(some) for some in groups.values()]


def best(some: Sequence[Figures]) -> dict[str, float]:
    """The best value of each figure that has a better end."""
    found = {}
    for name, end in BEST.items():
        values = [one[name] for one in some if one[name] is not None]
        if values:
            found[name] = end(values)
    return found


def behind(some: Sequence[Figures]) -> list[Figures]:
    """Where the default method is not the best: its value, and the best one with its preset; empty without the default.

    Args:
        some: all with ControlNet, or all without.
    """
    default = next((one for one in some if one["preset"] == DEFAULT), None)
    if default is None:
        return []
    lost = []
    for name, value in best(some).items():
        if default[name] != value:
            winner = next(one["preset"] for one in some if one[name] == value)
            lost.append({"figure": name, "default": default[name], "best": value, "preset": winner})
    return lost


def summarise(modes: dict[str, list[MethodsRecord]]) -> Figures:
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
            "seconds_per_step": fmean(r.seconds / r.steps for r in modes[EQUAL_STEPS]),
            "both_modes": sum(r.seconds for r in every) / sum(r.seconds for r in modes[EQUAL_STEPS]),
            "presets": len({record.preset for record in every}),
            "wall_seconds": sum(_once(every)),
        },
    }


def _once(records: Iterable[MethodsRecord]) -> list[float]:
    """The seconds of every avatar, those that serve in both modes counted once."""
    return list({(r.preset, r.control, r.prompt, r.seed, r.steps): r.seconds for r in records}.values())


# ---- report


def sections(results: dict[str, Any]) -> list[str]:
    """The report of suite=methods, below its head."""
    figures = results["figures"]
    parts = [_text(figures)]
    for mode, table in figures["modes"].items():
        for control in (True, False):
            some = [one for one in table if one["control"] is control]
            named = "with" if control else "without"
            parts += [
                f"## {mode[0].upper()}{mode[1:]}, {named} ControlNet",
                _table(some),
                _reading(some, figures["behind"][mode][named]),
            ]
    return [*parts, _settings(figures["guidance"]), _costs(figures["costs"])]


def _text(figures: Mapping[str, Any]) -> str:
    return (
        f"Prompts: {figures['prompts']}, seeds of each: {figures['seeds']}. *Equal steps*: {figures['steps']} for "
        f"every method. *Equal compute*: about {CALLS} prior calls (forward passes) for each of these steps and each "
        "view; backward passes (y_con, LoRA, L_Diff's Jacobian), the decoder and repeated updates are not counted as "
        "calls, but they are in the seconds. Mean ± standard deviation over avatars; the best of each column is "
        "**bold**.\n\n"
        "- *colours right*: the fraction of parts and views with the requested colour on 80 % of the pixels, as in "
        "suite=colours; *pixels*: the fraction of pixels.\n"
        f"- *saturation error*: Wasserstein distance of the CIELAB chroma from that of the prior's samples (with "
        f"ControlNet) of the same prompt from {len(ORBIT)} sides, on the body; *chroma*: above (+) or below theirs.\n"
        "- *diversity*: cosine distance of the scorer's features between seeds; *view distance*: of who it is, between "
        "neighbouring sides. An avatar that stays grey or noisy can score well on both: read them with the colours.\n"
    )


def _table(some: Sequence[Figures]) -> str:
    columns = ["method", "steps", *WORDS.values(), "pixels", "chroma"]
    top = {name: value for name, value in best(some).items() if len({one[name] for one in some}) > 1}
    rows = [
        [
            one["preset"],
            f"{one['steps']:.0f}",
            *(_cell(one, name, top.get(name)) for name in BEST),
            number(one["pixels"]),
            "–" if one["chroma"] is None else f"{one['chroma']:+.1f}",
        ]
        for one in some
    ]
    return markdown_table(columns, rows)


def _cell(one: Figures, name: str, top: float | None) -> str:
    text = number(one[name], DIGITS[name])
    std = one["std"].get(name)
    shown = f"**{text}**" if one[name] is not None and one[name] == top else text
    return shown if std is None else f"{shown} ± {number(std, DIGITS[name])}"


def _reading(some: Sequence[Figures], lost: Sequence[Figures]) -> str:
    if DEFAULT not in {one["preset"] for one in some}:
        return f"The default ({DEFAULT}) was not among them."
    if not lost:
        return f"The default ({DEFAULT}) is the best in every column."
    parts = [
        f"{WORDS[one['figure']]} ({number(one['default'], DIGITS[one['figure']])}; {one['preset']} "
        f"{number(one['best'], DIGITS[one['figure']])})"
        for one in lost
    ]
    return f"The default ({DEFAULT}) is *not* the best in: {', '.join(parts)}."


def _settings(guidance: Mapping[str, str]) -> str:
    text = (
        "Each method with its own preset (`conf/guidance`), and the splats' learning rates of the command for all; "
        f"robust NFSD's warm-up takes at most {WARMUP_SHARE:.0%} of a run.\n\n"
    )
    return f"## Settings\n\n{text}" + "\n".join(f"- {name}: {words}" for name, words in guidance.items())


def _costs(costs: Mapping[str, Any]) -> str:
    took = f"{costs['avatars']} avatars in {format_duration(costs['wall_seconds'])} of optimisation."
    return f"## Costs\n\n{took}"
