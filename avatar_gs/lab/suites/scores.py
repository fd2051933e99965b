"""suite=scores: avatars by the scores of the literature, and what these say of drawn truth and of the prior's samples.

All views are stored as images, so that another judge scores them without making them again.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from avatar_gs.core.console import format_duration
from avatar_gs.core.images import RGBImage
from avatar_gs.core.seeding import generator
from avatar_gs.lab.metrics import scored_images
from avatar_gs.lab.metrics.avatar import Strip
from avatar_gs.lab.metrics.clip import PACKAGED, Clip, load_clip
from avatar_gs.lab.metrics.perceptual import load_lpips
from avatar_gs.lab.metrics.truth import Case, cases, render_truth
from avatar_gs.lab.metrics.views import NEW_POSES, ORBIT, ORBITS, scored_views
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites.clip_guidance import WEIGHT, optimize_by_similarity
from avatar_gs.lab.suites.report import markdown_table, plus_minus
from avatar_gs.lab.suites.scores_figures import AVATARS, Scores, ScoresRecord, Source, look, read_captions
from avatar_gs.lab.suites.suite import AvatarSuite, Figures, FullGrid, Job, digest
from avatar_gs.splats.surface import surface_splats
from avatar_gs.training.config import PoseMap
from avatar_gs.training.prompts import run_prompts

SHOWN = {
    "front": 0,
    "left": 2,
    "back": 4,
    "head": len(ORBIT),
    "new pose": len(ORBIT) * len(ORBITS),
}
SHOWN_WHITE = {"textureless": 0, "its head": len(ORBIT)}
COSTS = {Source.AVATAR: 27.0, Source.CLIP: 15.0, Source.SAMPLES: 12.0}
"""Approximate seconds on two cores; 1 for all others."""


@dataclass(frozen=True)
class ScoresJob(Job[Source, Case]):
    """The images of one source."""

    index: int
    """The case's place in the fixed list."""


@dataclass(frozen=True)
class Scored:
    """Images in all views, and what they took; ``metrics`` (``training.loop.metrics``) if anything was optimised."""

    images: scored_images.ScoredImages
    metrics: dict[str, Any] | None
    seconds: float


class ScoresSuite(AvatarSuite[ScoresJob, Scored, ScoresRecord]):
    """Avatars of held-out prompts by the command's guidance and by CLIP's, and what they are compared with."""

    title = "Avatars by the scores of the literature"
    full_grid = FullGrid(
        ("evaluate.scored_prompts=12", "evaluate.scored_seeds=5"),
        "12 prompts × 5 seeds",
        lambda costs: 12 * 5 * costs["case_seconds"],
    )
    record = ScoresRecord

    @cached_property
    def clip(self) -> Clip:
        return load_clip(self.settings.lab.evaluate.clip, self.prior.device)

    def plan(self) -> Iterator[ScoresJob]:
        """The drawn truth of all prompts, then all else seed by seed."""
        config, seed = self.settings.lab.evaluate, self.settings.seed
        some = list(enumerate(cases(config.scored_prompts)))
        for index, case in some:
            yield ScoresJob(Source.TRUTH, case, seed, index)
        for turn in range(config.scored_seeds):
            for source in (Source.SAMPLES, Source.START, *AVATARS):
                for index, case in some:
                    yield ScoresJob(source, case, seed + turn, index)

    def settings_of(self, job: ScoresJob) -> LabSettings:
        return replace(self.settings, prompt=job.subject.prompt, seed=job.seed)

    def facts(self, job: ScoresJob) -> list[Any]:
        return [job.variant.value, job.subject.prompt]

    def key(self, job: ScoresJob) -> str:
        facts = [self.version, *self.facts(job)]
        if job.variant is not Source.TRUTH:
            plain = self.settings.plain()
            facts += [job.seed, self.fingerprint, {name: plain[name] for name in self.result_settings}]
        if job.variant is Source.CLIP:
            facts += [self.clip.fingerprint, WEIGHT]
        return digest(facts)

    def cost(self, job: ScoresJob) -> float:
        return COSTS.get(job.variant, 1.0)

    def describe(self, job: ScoresJob) -> str:
        return f"{job.variant.value}, seed {job.seed}, “{job.subject.prompt}”"

    def make(self, job: ScoresJob) -> Scored:
        began = time.monotonic()
        images, metrics = self._make(job)
        return Scored(images, metrics, time.monotonic() - began)

    def _make(self, job: ScoresJob) -> tuple[scored_images.ScoredImages, dict[str, Any] | None]:
        settings = self.settings_of(job)
        if job.variant is Source.TRUTH:
            return scored_images.person_images(job.subject, scored_views()), None
        if job.variant is Source.SAMPLES:
            return self._sample(job), None
        if job.variant is Source.START:
            begin = generator(job.seed, 0, "splats")
            model = surface_splats(settings.splats, self.body.rest(), self.body.weights, begin).to(self.prior.device)
            return scored_images.avatar_images(model, scored_views()), None
        if job.variant is Source.CLIP:
            prompts = run_prompts(settings.training, self.prior)
            made = optimize_by_similarity(settings, self.body, self.prior, self.clip, prompts)
        else:
            made = self.optimized(settings, self.prior)
        return scored_images.avatar_images(made.model, scored_views()), made.metrics

    def _sample(self, job: ScoresJob) -> scored_images.ScoredImages:
        return scored_images.sample_images(
            job.subject.prompt,
            self.settings.negative_prompt,
            self.prior,
            scored_views(),
            self.settings.prior.prompts,
            full_pose_maps=self.settings.optimize.pose_map is PoseMap.full,
            generator=generator(job.seed, job.index, "samples"),
        )

    def measure(self, job: ScoresJob, made: Scored) -> tuple[ScoresRecord, Strip]:
        """The images themselves: ``figures`` scores them."""
        record = ScoresRecord(job.variant, job.index, job.subject.prompt, job.seed, made.metrics, made.seconds)
        return record, made.images.strip()

    def figures(self, records: Mapping[str, ScoresRecord]) -> Figures:
        config, words, seen, clip = self.settings.lab.evaluate, self.settings.prior.prompts, scored_views(), self.clip
        lpips = load_lpips(config.lpips)
        looks = [
            look(record, scored_images.ScoredImages.of_cells(self.store.strip(key), len(seen)), clip)
            for key, record in records.items()
        ]
        prompts = list(dict.fromkeys(case.prompt for case in cases(max(config.pool, config.scored_prompts))))
        truths = [render_truth(case, seen.poses[0]) for case in cases(config.scored_prompts)]
        captions = read_captions(prompts, seen.buckets(words), words, clip)
        scores = Scores(looks, captions, seen.groups(words), seen, truths, clip, lpips)
        return {
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

    def sheet(self, records: Mapping[str, ScoresRecord]) -> RGBImage:
        """A row for each source of each prompt, with the first seed."""
        rows, labels, views = [], [], len(scored_views())
        keys = {(one.source, one.case): key for key, one in records.items() if one.seed == self.settings.seed}
        for case in range(self.settings.lab.evaluate.scored_prompts):
            for source in Source:
                cells = self.store.strip(keys[source, case])
                white = cells[views:-views] if len(cells) == 3 * views else [None] * views
                rows.append(
                    [*(cells[view] for view in SHOWN.values()), *(white[view] for view in SHOWN_WHITE.values())]
                )
                labels.append(f"{case}: {source.value}")
        return self.grid(rows, labels, [*SHOWN, *SHOWN_WHITE], size=96)

    @classmethod
    def sections(cls, results: dict[str, Any]) -> list[str]:
        figures = results["figures"]
        return [
            _intro(figures),
            _precision(figures),
            _similarity(figures),
            _others(figures),
            _costs(figures["costs"]),
        ]


# ---- report


def _with_std(row: Mapping[str, Any] | None, digits: int = 2) -> str:
    """Mean ± standard deviation; a dash where nothing was measured."""
    if row is None:
        return "–"
    return plus_minus(row["mean"], row["std"], digits)


def _intro(figures: Mapping[str, Any]) -> str:
    own = " It was trained on the mini world's images." if figures["judge"] == PACKAGED else ""
    lpips = figures["lpips_network"] or "not given (evaluate.lpips=…)"
    return (
        f"{len(figures['prompts'])} prompts × {figures['seeds']} seeds, {figures['views']} views each: an orbit of "
        f"{len(ORBIT)} around the body and one around the head in the A-pose, and {NEW_POSES} poses that no run has "
        f"seen, from four sides. Judge: {figures['judge']} (weights {figures['judge_fingerprint']}).{own} LPIPS: "
        f"{lpips}. ± is the standard deviation over seeds, in the table of other measures over avatars.\n\n"
        f"*{Source.TRUTH.value}*: the described person drawn as a mesh, which says what a perfect avatar would score; "
        f"*{Source.SAMPLES.value}*: its images for the same prompts, views and pose maps; *{Source.CLIP.value}*: "
        "splats that climb the judge's own similarity to the prompt (Dream Fields), so that what the judge says of "
        f"them is flattery, unlike the right parts below; *{Source.START.value}*: the grey body.\n"
    )


def _precision(figures: Mapping[str, Any]) -> str:
    wrong = figures["pool"] - 1
    text = (
        f"The fraction of images that are nearer to their own prompt than to each of {wrong} wrong ones (other "
        "held-out people; all in the words of the image's view, listed in results.json; chance "
        f"{1 / figures['pool']:.3f}).\n"
    )
    white = (
        "The same images as if everything were white, lit from the camera: what shape alone says. Prompts of this "
        "world speak of colours above all, so that even drawn truth scores little.\n"
    )
    return (
        f"## CLIP R-Precision\n\n{text}\n{_by_view(figures['r_precision'], 'colour')}\n\n{white}\n"
        f"{_by_view(figures['r_precision_textureless'], 'textureless')}\n"
    )


def _similarity(figures: Mapping[str, Any]) -> str:
    text = "The mean cosine of images and their own prompts.\n"
    return f"## CLIP score\n\n{text}\n{_by_view(figures['clip_score'], 'colour', 3)}\n"


def _by_view(rows: Mapping[str, Mapping[str, Any]], title: str, digits: int = 2) -> str:
    groups = list(next(iter(rows.values())))
    table = [[source, *(_with_std(row[group], digits) for group in groups)] for source, row in rows.items()]
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
    sources = list(figures["r_precision"])

    def cell(name: str, source: str) -> str:
        rows, digits = columns[name]
        if rows is None:
            return "not given"
        return _with_std(rows.get(source), digits)

    table = [[source, *(cell(name, source) for name in columns)] for source in sources]
    text = (
        "*Right parts*: of the parts that a prompt names, in the A-pose's views, those whose median colour has the "
        "named colour as its nearest: the one figure here in which no network judges. *Orbits*: view consistency, the "
        "mean cosine distance of neighbouring views (45 degrees apart) in the judge's features, of who it is where it "
        "has such; LPIPS next to it. *Chroma*: mean CIELAB chroma of the person's pixels less that of the prior's "
        "samples for the same prompt, seed, poses and views (positive: over-saturated), and the 1-Wasserstein distance "
        f"of the two distributions; for *{Source.SAMPLES.value}*: other noise. *Diversity*: the mean cosine distance "
        "between seeds in the same view. *Fréchet* and *kernel*: distance of the images, before the samples' own "
        "backgrounds, to the samples, in the judge's features (FID's and KID's formulas, not their network), seed by "
        f"seed on sets of {len(figures['prompts']) * figures['views']} images; the samples' own row, two sets of "
        "them, is the floor. The Fréchet distance of so few is biased (its covariances are shrunk); the kernel "
        "distance is not.\n"
    )
    return f"## Other measures\n\n{text}\n{markdown_table(['', *columns], table)}\n"


def _costs(costs: Mapping[str, Any]) -> str:
    table = [
        [source, _with_std(row["seconds"], 1), f"{row['steps']:.0f}", f"{row['prior_calls']:.0f}"]
        for source, row in costs["sources"].items()
    ]
    text = f"{format_duration(costs['wall_seconds'])} for everything.\n"
    return f"## Costs\n\n{text}\n{markdown_table(['an avatar', 'seconds', 'steps', 'prior calls'], table)}\n"
