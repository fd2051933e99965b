"""suite=methods from end to end: every method of guidance on the same prompts, with equal steps and equal compute.

Every avatar's record is kept under a hash of all that its result depends on, so the same command goes on where it was
interrupted, and more methods, prompts or seeds cost only what is new.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avatar_gs.core.console import format_duration
from avatar_gs.core.images import RGBImage, contact_sheet
from avatar_gs.guidance.methods.robust_nfsd import WARMUP_SHARE
from avatar_gs.guidance.presets import named_preset
from avatar_gs.lab.metrics.views import ORBIT
from avatar_gs.lab.scorer.model import Scorer
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites.folder import RecordFolder
from avatar_gs.lab.suites.methods.records import Record
from avatar_gs.lab.suites.methods.runs import CALLS, DEFAULT, make_records
from avatar_gs.lab.suites.methods.summary import BEST, MODES, best, summarise
from avatar_gs.lab.suites.report import LABEL, head, markdown_table, number
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior

CELL_SIZE = 96
SHOWN = (1, 3)
"""Of an avatar's strip: front and back."""
DIGITS = {"right": 2, "saturation": 1, "diversity": 3, "view_distance": 3, "calls_per_step": 1, "seconds": 0}
WORDS = {
    "right": "colours right",
    "saturation": "saturation error",
    "diversity": "diversity",
    "view_distance": "view distance",
    "calls_per_step": "calls a step",
    "seconds": "seconds",
}
FULL_PROMPTS, FULL_SEEDS, FULL_STEPS = 12, 5, 250


def measure_methods(
    settings: LabSettings, prior: StableDiffusionPrior, scorer: Scorer, folder: Path
) -> tuple[dict[str, Any], RGBImage]:
    """The suite's figures and its sheet of pictures; makes the avatars that ``folder`` does not hold yet."""
    kept = RecordFolder(folder / "avatars", Record.of_plain)
    steps, compute = make_records(settings, prior, scorer, kept)
    modes: dict[str, dict[str, Record]] = dict(zip(MODES, (steps, compute), strict=True))
    figures = summarise({mode: list(records.values()) for mode, records in modes.items()})
    presets = dict.fromkeys(record.preset for record in steps.values())
    figures |= {
        "guidance": {name: _settings_in_words(name) for name in presets},
        "steps": settings.lab.evaluate.method_steps,
        "prompts": settings.lab.evaluate.method_prompts,
        "seeds": settings.lab.evaluate.method_seeds,
    }
    return figures, _sheet(modes, kept, settings.seed)


def full_seconds(costs: dict[str, Any]) -> float:
    """What the full grid takes, from the costs of a smaller one."""
    avatars = 2 * costs["presets"] * FULL_PROMPTS * FULL_SEEDS
    return avatars * FULL_STEPS * costs["seconds_per_step"] * costs["both_modes"]


def _settings_in_words(name: str) -> str:
    config = named_preset(name)
    schedule = config.schedule
    return (
        f"s = {config.cfg_scale:g}, t {schedule.kind.name.replace('_', ' ')} {schedule.t_min:g} to {schedule.t_max:g}, "
        f"w = {config.weight.name}"
    )


def _sheet(modes: Mapping[str, Mapping[str, Record]], kept: RecordFolder[Record], seed: int) -> RGBImage:
    """A row for each method, with and without ControlNet, in both modes: each prompt's first avatar, front and back.
    Above them the drawn truth."""
    rows: dict[str, list[RGBImage]] = {}
    truths: dict[str, RGBImage] = {}
    for mode, records in modes.items():
        for key, record in records.items():
            if record.seed == seed:
                strip = kept.strip(key)
                truths.setdefault(record.prompt, strip[0])
                control = "" if record.control else ", no ControlNet"
                cells = rows.setdefault(f"{record.preset}{control}, {mode.removeprefix('equal ')}", [])
                cells += [strip[view] for view in SHOWN]
    shown = [cell for truth in truths.values() for cell in (truth, truth)]
    columns = ["front", "back"] * len(truths)
    title = f"suite=methods, seed {seed}: {LABEL}"
    names = ["drawn truth (front)", *rows]
    return contact_sheet([shown, *rows.values()], row_labels=names, column_labels=columns, title=title, size=CELL_SIZE)


def methods_markdown(results: dict[str, Any]) -> str:
    """The report of suite=methods."""
    figures = results["figures"]
    sections = [head(results, "The methods of guidance beside each other"), _text(figures)]
    for mode, table in figures["modes"].items():
        for control in (True, False):
            some = [one for one in table if one["control"] is control]
            named = "with" if control else "without"
            sections += [
                f"## {mode[0].upper()}{mode[1:]}, {named} ControlNet",
                _table(some),
                _reading(some, figures["behind"][mode][named]),
            ]
    sections += [_settings(figures["guidance"]), _costs(figures["costs"], results["full_grid"])]
    return "\n\n".join(section.strip("\n") for section in sections) + "\n"


def _text(figures: Mapping[str, Any]) -> str:
    return (
        f"Prompts: {figures['prompts']}, seeds of each: {figures['seeds']}. *Equal steps*: {figures['steps']} for "
        f"every method. *Equal compute*: about {CALLS} prior calls (forward passes) for each of these steps and each "
        "view; backward passes (y_con, LoRA, L_Diff's Jacobian), the decoder and repeated updates are not counted as "
        "calls, but they are in the seconds. Mean ± standard deviation over avatars; the best of each column is "
        "**bold**.\n\n"
        "- *colours right*: the share of parts and views with the asked colour on 80 % of the pixels, as in "
        "suite=colours; *pixels*: the share of pixels.\n"
        f"- *saturation error*: Wasserstein distance of the CIELAB chroma from that of the prior's own samples (with "
        f"ControlNet) of the same prompt from {len(ORBIT)} sides, on the body; *chroma*: above (+) or below theirs.\n"
        "- *diversity*: cosine distance of the scorer's features between seeds; *view distance*: of who it is, between "
        "neighbouring sides. An avatar that stays grey or noisy can score well on both: read them with the colours.\n"
    )


def _table(some: Sequence[dict[str, Any]]) -> str:
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


def _cell(one: dict[str, Any], name: str, top: float | None) -> str:
    text = number(one[name], DIGITS[name])
    spread = one["spread"].get(name)
    shown = f"**{text}**" if one[name] is not None and one[name] == top else text
    return shown if spread is None else f"{shown} ± {number(spread, DIGITS[name])}"


def _reading(some: Sequence[dict[str, Any]], lost: Sequence[dict[str, Any]]) -> str:
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
    return f"## LabSettings\n\n{text}" + "\n".join(f"- {name}: {words}" for name, words in guidance.items())


def _costs(costs: Mapping[str, Any], full: Mapping[str, str]) -> str:
    took = f"{costs['avatars']} avatars in {format_duration(costs['wall_seconds'])} of optimisation."
    return f"## Costs\n\n{took}\n\nThe full grid, not run here ({full['note']}): `{full['command']}`"
