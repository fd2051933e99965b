"""The figures of suite=scores as Markdown."""

from collections.abc import Mapping
from typing import Any

from avatar_gs.core.console import format_duration
from avatar_gs.lab.metrics.clip import PACKAGED
from avatar_gs.lab.metrics.views import NEW_POSES, ORBIT
from avatar_gs.lab.suites.report import head, markdown_table, number
from avatar_gs.lab.suites.scores.records import Kind


def scores_markdown(results: dict[str, Any]) -> str:
    """The report of suite=scores."""
    figures = results["figures"]
    sections = [
        head(results, "Avatars by the scores of the literature"),
        _intro(figures),
        _precision(figures),
        _similarity(figures),
        _others(figures),
        _costs(figures["costs"]),
        f"The full grid ({results['full_grid']['note']}): `{results['full_grid']['command']}`\n",
    ]
    return "\n".join(sections)


def with_spread(row: Mapping[str, Any] | None, digits: int = 2) -> str:
    """Mean ± standard deviation; a dash where nothing was measured."""
    if row is None:
        return "–"
    mean = number(row["mean"], digits)
    return mean if row["spread"] is None else f"{mean} ± {number(row['spread'], digits)}"


def _intro(figures: Mapping[str, Any]) -> str:
    own = " It was trained on the mini world's pictures." if figures["judge"] == PACKAGED else ""
    lpips = figures["lpips_network"] or "not given (evaluate.lpips=…)"
    return (
        f"{len(figures['prompts'])} prompts × {figures['seeds']} seeds, {figures['views']} views each: an orbit of "
        f"{len(ORBIT)} around the body and one around the head in the A-pose, and {NEW_POSES} poses that no run has "
        f"seen, from four sides. Judge: {figures['judge']} (weights {figures['judge_fingerprint']}).{own} LPIPS: "
        f"{lpips}. ± is the standard deviation over seeds, in the table of other measures over avatars.\n\n"
        f"*{Kind.TRUTH.value}*: the described person drawn as a mesh, which says what a perfect avatar would score; "
        f"*{Kind.SAMPLES.value}*: its pictures for the same prompts, views and pose maps; *{Kind.CLIP.value}*: splats "
        "that climb the judge's own similarity to the prompt (Dream Fields), so that what the judge says of them is "
        f"flattery, unlike the right parts below; *{Kind.START.value}*: the grey body.\n"
    )


def _precision(figures: Mapping[str, Any]) -> str:
    wrong = figures["pool"] - 1
    text = (
        f"The share of pictures that are nearer to their own prompt than to each of {wrong} wrong ones (other held-out "
        f"people; all in the words of the picture's view, listed in results.json; chance {1 / figures['pool']:.3f}).\n"
    )
    white = (
        "The same pictures as if everything were white, lit from the camera: what shape alone says. Prompts of this "
        "world speak of colours above all, so that even drawn truth scores little.\n"
    )
    return (
        f"## CLIP R-Precision\n\n{text}\n{_by_view(figures['r_precision'], 'colour')}\n\n{white}\n"
        f"{_by_view(figures['r_precision_textureless'], 'textureless')}\n"
    )


def _similarity(figures: Mapping[str, Any]) -> str:
    text = "The mean cosine of pictures and their own prompts.\n"
    return f"## CLIP score\n\n{text}\n{_by_view(figures['clip_score'], 'colour', 3)}\n"


def _by_view(rows: Mapping[str, Mapping[str, Any]], title: str, digits: int = 2) -> str:
    groups = list(next(iter(rows.values())))
    table = [[kind, *(with_spread(row[group], digits) for group in groups)] for kind, row in rows.items()]
    return markdown_table([title, *groups], table)


def _others(figures: Mapping[str, Any]) -> str:
    columns: dict[str, tuple[Mapping[str, Any] | None, int]] = {
        "right parts": (figures["right_parts"], 2),
        "body orbit": (figures["consistency"]["body"], 3),
        "head orbit": (figures["consistency"]["head"], 3),
        "LPIPS, body orbit": ((figures["lpips"] or {}).get("body"), 3),
        "LPIPS, head orbit": ((figures["lpips"] or {}).get("head"), 3),
        "chroma": (figures["saturation"], 1),
        "chroma, W1": (figures["saturation_distance"], 1),
        "diversity": (figures["diversity"], 3),
        "Fréchet": (figures["frechet"], 3),
        "kernel": (figures["kernel"], 3),
    }
    kinds = list(figures["r_precision"])

    def cell(name: str, kind: str) -> str:
        rows, digits = columns[name]
        if rows is None:
            return "not given"
        return with_spread(rows.get(kind), digits)

    table = [[kind, *(cell(name, kind) for name in columns)] for kind in kinds]
    text = (
        "*Right parts*: of the parts that a prompt names, in the A-pose's views, those whose median colour has the "
        "named colour as its nearest: the one figure here in which no network judges. *Orbits*: view consistency, the "
        "mean cosine distance of neighbouring views (45 degrees apart) in the judge's features, of who it is where it "
        "has such; LPIPS beside it. *Chroma*: mean CIELAB chroma of the person's pixels less that of the prior's "
        "samples for the same prompt, seed, poses and views (positive: over-saturated), and the 1-Wasserstein distance "
        f"of the two distributions; for *{Kind.SAMPLES.value}*: other noise. *Diversity*: the mean cosine distance "
        "between seeds in the same view. *Fréchet* and *kernel*: distance of the pictures, before the samples' own "
        "backgrounds, to the samples, in the judge's features (FID's and KID's formulas, not their network), seed by "
        f"seed on sets of {len(figures['prompts']) * figures['views']} pictures; the samples' own row, two sets of "
        "them, is the floor. The Fréchet distance of so few is biased (its covariances are shrunk); the kernel "
        "distance is not.\n"
    )
    return f"## Other measures\n\n{text}\n{markdown_table(['', *columns], table)}\n"


def _costs(costs: Mapping[str, Any]) -> str:
    table = [
        [kind, with_spread(row["seconds"], 1), f"{row['steps']:.0f}", f"{row['prior_calls']:.0f}"]
        for kind, row in costs["kinds"].items()
    ]
    text = f"{format_duration(costs['wall_seconds'])} for everything.\n"
    return f"## Costs\n\n{text}\n{markdown_table(['an avatar', 'seconds', 'steps', 'prior calls'], table)}\n"
