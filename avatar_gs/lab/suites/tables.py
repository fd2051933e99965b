"""Figures as Markdown."""

from collections.abc import Sequence
from typing import Any

from avatar_gs.core.console import format_duration
from avatar_gs.lab.metrics.truth import NEAR
from avatar_gs.lab.suites.machine import in_words
from avatar_gs.lab.world.measure import LEAST_PIXELS

LABEL = "logic, not photo quality"
EIGHT_VIEWS = "front, left, back and right, as full body and in the framing that shows the part"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def head(results: dict[str, Any], title: str, unseen: str = "prompts") -> str:
    """Title, label, and what it takes to get the same figures again."""
    return "\n".join(
        [
            f"# {title}",
            "",
            f"**{LABEL[0].upper()}{LABEL[1:]}.** On {unseen} that training never saw.",
            "",
            f"- command: `{results['command']}`",
            f"- seed: {results['seed']}",
            f"- prior: {results['prior']['name']}, weights {results['prior']['fingerprint']}",
            f"- machine: {in_words(results['machine'])}",
            "",
        ]
    )


def colours_markdown(results: dict[str, Any]) -> str:
    """The report of suite=colours."""
    figures = results["figures"]
    sections = [
        head(results, "Avatars follow their prompts"),
        _parts(figures["parts"]),
        _controls(figures["controls"]),
        _shapes(figures["volumes"], figures["stray"]),
        _costs(figures["costs"], figures["wall_seconds"]),
        f"The full grid ({results['full_grid']['note']}): `{results['full_grid']['command']}`\n",
    ]
    return "\n".join(sections)


def _parts(parts: dict[str, Any]) -> str:
    columns = ["part", "avatars", "every view", "Wilson ≥", "worst view", "all views", "full body", "close-up"]
    columns += ["ΔE00", "chroma", "step 0: every view", "all views", "ΔE00"]
    rows = [_part_row(part, moments["end"], moments["start"]) for part, moments in parts.items()]
    text = (
        "A part is right in a view when the named colour is the nearest one on at least 80 % of its true pixels (those "
        "that it covers fully, with their neighbours; what the avatar leaves empty is wrong). A view that shows less "
        f"than {LEAST_PIXELS} of them is left out. Eight views: {EIGHT_VIEWS}. *Every view*: avatars whose part is "
        "right in all of them; *Wilson*: the lower end of that share's 95 % interval; *worst view*: the view with the "
        "lowest share of avatars. ΔE00 (aim ≤ 15) and chroma ratio (aim .85–1.15) are medians over views.\n"
    )
    return f"## Colours\n\n{text}\n{markdown_table(columns, rows)}\n"


def _part_row(part: str, end: dict[str, Any], start: dict[str, Any]) -> list[str]:
    worst = f"{number(end['worst_view']['share'])} ({end['worst_view']['view']})"
    shares = [number(end[name]) for name in ("all_views", "full_body", "close_up")]
    colour = [number(end["delta_e"], 1), number(end["chroma_ratio"])]
    before = [number(start["every_view"]), number(start["all_views"]), number(start["delta_e"], 1)]
    return [
        part,
        str(end["avatars"]),
        number(end["every_view"]),
        number(end["wilson"]),
        worst,
        *shares,
        *colour,
        *before,
    ]


def _controls(controls: dict[str, Any]) -> str:
    parts = list(dict.fromkeys(part for row in controls.values() for part in row["parts"]))
    rows = [
        [name, str(row["views"]), number(row["right"]), number(row["pixels"]), number(row["chance"])]
        + [number(row["parts"].get(part)) for part in parts]
        for name, row in controls.items()
    ]
    text = (
        "Shares of right views. No guidance, random weights and swapped prompts (avatars against the next prompt's "
        "colours) must be near chance; with the prior's words red and blue exchanged, red and blue clothes must be "
        "wrong as asked and right as exchanged.\n"
    )
    table = markdown_table(["control", "views", "right", "pixels right", "chance", *parts], rows)
    return f"## Controls\n\n{text}\n{table}\n"


def _shapes(volumes: dict[str, Any], stray: dict[str, float]) -> str:
    rows = [
        [name, str(row["avatars"]), number(row["iou"]), number(row["least"]), number(row["iou_start"])]
        for name, row in volumes.items()
    ]
    text = (
        "Intersection over union on the pixels outside the undressed body's silhouette (aim ≥ .5), pooled over front, "
        f"left, back and right. Too much within {100 * NEAR:g} cm of it or of other clothes and hair, where any "
        "splat's soft edge reaches, is no mistake; see step 0 for what the body's own edge fills.\n"
    )
    table = (
        markdown_table(["volume", "avatars", "IoU", "least", "step 0"], rows) if rows else "No volumes were asked for."
    )
    floaters = (
        f"Alpha more than 4 pixels (6 cm) outside the true silhouette, as a share of the silhouette: mean "
        f"{stray['mean']:.4f}, at most {stray['most']:.4f}; at step 0 {stray['start']:.4f}."
    )
    return f"## Shapes\n\n{text}\n{table}\n\n{floaters}\n"


def _costs(costs: dict[str, Any], wall_seconds: float) -> str:
    split = costs["seconds_per_step"]
    table = markdown_table(["seconds a step", *split], [["mean", *(number(value, 3) for value in split.values())]])
    text = (
        f"{costs['steps']} steps, {costs['seconds']['mean']:.0f} s an avatar (at most {costs['seconds']['most']:.0f} "
        f"s), {costs['splats']['mean']:.0f} splats at the end (at most {costs['splats']['most']}), peak memory "
        f"{costs['peak_memory_mib']:.0f} MiB; {format_duration(wall_seconds)} for all avatars and controls.\n"
    )
    return f"## Costs\n\n{text}\n{table}\n"


def prior_markdown(results: dict[str, Any]) -> str:
    """The report of suite=prior."""
    figures = results["figures"]
    rows = [
        [name, str(row["n"]), number(row["mean"]), "–" if row["wilson"] is None else number(row["wilson"])]
        for name, row in figures["scores"].items()
    ]
    text = (
        f"{figures['samples']} DDIM samples ({figures['steps']} steps, CFG {figures['cfg_scale']:g}, guidance on pose "
        f"maps {figures['pose_scale']:g}) of random people in random poses and views, against drawn truth. A part is "
        "right when its median colour's nearest name is the one asked for; stripes, when each of their two colours "
        "covers a fifth of the shirt. "
        "Views are judged where the camera stands, and the head is turned, 15 degrees inside them, by a small network "
        "that sees the pixels around the head only; its share of right verdicts on the drawn truth is given beside.\n"
    )
    table = markdown_table(["measure / framing", "cases", "mean", "Wilson ≥"], rows)
    took = f"Took {format_duration(figures['seconds'])}."
    return f"{head(results, 'The prior in 2D')}\n{text}\n{table}\n\n{took}\n"
