"""suite=claims from end to end: what is said of the methods, checked in two dimensions with the prior in use.

Every run's record is kept under a hash of all that its result depends on, so the same command goes on where it was
interrupted, and more claims or seeds cost only what is new.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avatar_gs.core.console import format_duration
from avatar_gs.core.images import RGBImage, contact_sheet
from avatar_gs.lab.scorer.model import Scorer
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites.claims.claims import Claim, chosen_claims
from avatar_gs.lab.suites.claims.figures import Plays
from avatar_gs.lab.suites.claims.recipes import TOY, recipes
from avatar_gs.lab.suites.claims.records import Record
from avatar_gs.lab.suites.claims.runs import make_records
from avatar_gs.lab.suites.claims.verdicts import Condition, verdict
from avatar_gs.lab.suites.folder import RecordFolder
from avatar_gs.lab.suites.report import LABEL, head, markdown_table, number
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior

CELL_SIZE = 128


def measure_claims(
    settings: LabSettings, prior: StableDiffusionPrior, scorer: Scorer, folder: Path
) -> tuple[dict[str, Any], RGBImage]:
    """The suite's figures and its sheet of pictures; makes the records that ``folder`` does not hold yet."""
    claims = chosen_claims(settings.lab.evaluate.claims)
    kept = RecordFolder(folder / "runs", Record.of_plain)
    records = make_records(settings, prior, scorer, claims, kept)
    figures = summarise(list(records.values()), claims) | {
        "steps": settings.lab.evaluate.claim_steps,
        "seeds": settings.lab.evaluate.claim_seeds,
    }
    return figures, _sheet(records, kept)


def summarise(records: list[Record], claims: Mapping[str, Claim]) -> dict[str, Any]:
    """Every claim's numbers and verdict, and what every recipe measured."""
    known = recipes()
    plays = Plays(records, known)
    return {
        "claims": {name: _checked(claim, claim.check(plays)) for name, claim in claims.items()},
        "recipes": {
            name: {
                "label": known[name].label,
                "figures": [record.figures for record in records if record.recipe == name],
                "prior_calls": [record.prior_calls for record in records if record.recipe == name],
                "seconds": [record.seconds for record in records if record.recipe == name],
            }
            for name in dict.fromkeys(record.recipe for record in records)
        },
        "wall_seconds": sum(record.seconds for record in records),
    }


def _checked(claim: Claim, conditions: list[Condition]) -> dict[str, Any]:
    rows = [
        {
            "text": condition.text,
            "needed": condition.needed,
            "values": list(condition.values),
            "mean": condition.mean,
            "spread": condition.spread,
            "inside": sum(map(condition.inside, condition.values)) if condition.judged else None,
        }
        for condition in conditions
    ]
    return {"statement": claim.statement, "verdict": verdict(conditions).value, "conditions": rows}


def _sheet(records: Mapping[str, Record], kept: RecordFolder[Record]) -> RGBImage:
    """A row for each recipe, a column for each seed; of the plane of points the first seed's three methods."""
    known, rows = recipes(), {}
    for key, record in records.items():
        strip = kept.strip(key)
        if record.recipe != TOY:
            rows.setdefault(known[record.recipe].label, []).append(strip[0])
        else:
            rows.setdefault(known[TOY].label, list(strip))
    seeds = list(dict.fromkeys(record.seed for record in records.values()))
    labels = [f"seed {seed}" for seed in seeds]
    title = f"suite=claims: {LABEL}"
    return contact_sheet(list(rows.values()), row_labels=list(rows), column_labels=labels, title=title, size=CELL_SIZE)


def claims_markdown(results: dict[str, Any]) -> str:
    """The report of suite=claims."""
    figures = results["figures"]
    text = (
        "Runs of the 2D playground: latent pixels from noise, the A-pose from the front, unless the sheet says "
        f"otherwise; {figures['steps']} steps, {figures['seeds']} seeds, each with a held-out prompt of its own; every "
        "method with its paper's scale and schedule. A claim is *confirmed* when every number that has a range is in "
        "it with every seed, *not confirmed here* when one of them is in it with none, else *undecided*. The ranges "
        "stand in the code. Sharpness: variance of the Laplacian (noise counts as well as detail); chroma: "
        "CIELAB, on the body; score: the packaged scorer's likeness of picture and prompt, 0 for a grey picture and 1 "
        "for the prior's own samples.\n"
    )
    short = markdown_table(
        ["claim", "verdict"], [[claim["statement"], f"**{claim['verdict']}**"] for claim in figures["claims"].values()]
    )
    took = f"Took {format_duration(figures['wall_seconds'])}."
    parts = [head(results, "What is claimed of the methods"), text, short, _numbers(figures["claims"]), took]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _numbers(claims: Mapping[str, Any]) -> str:
    rows = [
        [
            f"{claim['statement']}: {row['text']}",
            f"{number(row['mean'])} ± {number(row['spread'])}",
            row["needed"],
            "–" if row["inside"] is None else f"{row['inside']} of {len(row['values'])}",
        ]
        for claim in claims.values()
        for row in claim["conditions"]
    ]
    return markdown_table(["number", "mean ± SD", "needed", "seeds in it"], rows)
