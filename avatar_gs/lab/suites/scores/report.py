"""suite=scores from end to end: avatars as the literature scores them, beside what the scores say of drawn truth."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avatar_gs.core.images import RGBImage, contact_sheet
from avatar_gs.lab.metrics.clip import load_clip
from avatar_gs.lab.metrics.perceptual import load_lpips
from avatar_gs.lab.metrics.shots import ScoredImages
from avatar_gs.lab.metrics.truth import cases, render_truth
from avatar_gs.lab.metrics.views import ORBIT, ORBITS, scored_views
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites.folder import RecordFolder
from avatar_gs.lab.suites.report import LABEL
from avatar_gs.lab.suites.scores.looks import look, read_captions
from avatar_gs.lab.suites.scores.records import Kind, Record
from avatar_gs.lab.suites.scores.runs import make_records
from avatar_gs.lab.suites.scores.summary import Scores
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior

SHOWN = {
    "front": 0,
    "left": 2,
    "back": 4,
    "head": len(ORBIT),
    "new pose": len(ORBIT) * len(ORBITS),
}
SHOWN_WHITE = {"textureless": 0, "its head": len(ORBIT)}
CELL_SIZE = 96


def measure_scores(settings: LabSettings, prior: StableDiffusionPrior, folder: Path) -> tuple[dict[str, Any], RGBImage]:
    """The suite's figures and its sheet of pictures; makes the records that ``folder`` does not hold yet.

    Raises:
        UserError: ``evaluate.clip`` or ``evaluate.lpips`` cannot be loaded, or a run diverges.
    """
    config, seen = settings.lab.evaluate, scored_views()
    clip, lpips = load_clip(config.clip, prior.device), load_lpips(config.lpips)
    kept = RecordFolder(folder / "avatars", Record.of_plain)
    records = make_records(settings, prior, clip, kept)
    looks = [look(record, ScoredImages.of_cells(kept.strip(key), len(seen)), clip) for key, record in records.items()]
    prompts = list(dict.fromkeys(case.prompt for case in cases(max(config.pool, config.scored_prompts))))
    buckets = seen.buckets(settings.prior.prompts)
    truths = [render_truth(case, seen.poses[0]) for case in cases(config.scored_prompts)]
    captions = read_captions(prompts, buckets, settings.prior.prompts, clip)
    scores = Scores(looks, captions, seen.groups(settings.prior.prompts), seen, truths, clip, lpips)
    figures = {
        "judge": clip.name,
        "judge_fingerprint": clip.fingerprint,
        "lpips_network": None if lpips is None else lpips.name,
        "pool": captions.size,
        "wrong_prompts": prompts[config.scored_prompts :],
        "prompts": prompts[: config.scored_prompts],
        "seeds": config.scored_seeds,
        "views": len(seen),
        **scores.figures(),
        "avatars": list(records),
    }
    return figures, _sheet(records, kept, len(seen), settings)


def _sheet(records: Mapping[str, Record], kept: RecordFolder[Record], views: int, settings: LabSettings) -> RGBImage:
    """A row for each kind of each prompt, with the first seed."""
    rows, labels = [], []
    for case in range(settings.lab.evaluate.scored_prompts):
        for kind in Kind:
            wanted = kind, case, settings.seed
            key = next(key for key, one in records.items() if (one.kind, one.case, one.seed) == wanted)
            cells = kept.strip(key)
            white = cells[views:-views] if len(cells) == 3 * views else [None] * views
            rows.append([*(cells[view] for view in SHOWN.values()), *(white[view] for view in SHOWN_WHITE.values())])
            labels.append(f"{case}: {kind.value}")
    title = f"suite=scores, seed {settings.seed}: {LABEL}"
    return contact_sheet(rows, row_labels=labels, column_labels=[*SHOWN, *SHOWN_WHITE], title=title, size=CELL_SIZE)
