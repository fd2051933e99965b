"""suite=colours: avatars of held-out prompts, measured against drawn truth, and controls that must fail."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from statistics import fmean, median
from typing import Any, ClassVar

from avatar_gs.core.console import format_duration
from avatar_gs.core.images import RGBImage
from avatar_gs.core.seeding import generator
from avatar_gs.lab.metrics.avatar import STRIP_LABELS, Measurement, Strip, comparison_strip, measure
from avatar_gs.lab.metrics.colours import chroma_ratio, colour_difference, wilson_lower_bound
from avatar_gs.lab.metrics.truth import CLOSE_UP, NEAR, Case, cases, red_blue_cases
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites.control_priors import with_random_weights, with_words_exchanged
from avatar_gs.lab.suites.parts import REPORTED, ExpectedPart, expected_parts, pixel_fraction, right_fraction
from avatar_gs.lab.suites.report import markdown_table, mean_of, number
from avatar_gs.lab.suites.suite import AvatarSuite, Figures, FullGrid, Job, Made, Record
from avatar_gs.lab.world.measure import LEAST_PIXELS
from avatar_gs.lab.world.vocabulary import table
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.splats.model import GaussianModel
from avatar_gs.splats.surface import surface_splats

EXCHANGED = {"red": "blue", "blue": "red"}
EIGHT_VIEWS = "front, left, back and right, as full body and in the framing that shows the part"


class Variant(str, Enum):
    """An avatar that counts, or a control that must fail."""

    AVATAR = "avatar"
    NO_GUIDANCE = "no guidance"
    RANDOM_WEIGHTS = "random weights"
    RED_BLUE = "red and blue"
    RED_BLUE_EXCHANGED = "red and blue exchanged"


@dataclass(frozen=True)
class ColoursRecord(Record):
    """One avatar.

    Args:
        variant: what it is for.
        asked: the requested colour names by part.
        start: measured before the first step.
        end: measured after the last.
        metrics: ``training.loop.metrics``.
        seconds: wall time of the optimisation.
    """

    former: ClassVar[Mapping[str, str]] = {"kind": "variant"}

    variant: Variant
    prompt: str
    seed: int
    asked: dict[str, str]
    start: Measurement
    end: Measurement
    metrics: dict[str, Any]
    seconds: float


ColoursJob = Job[Variant, Case]


class ColoursSuite(AvatarSuite[ColoursJob, Made, ColoursRecord]):
    """Avatars of held-out prompts, and controls: no guidance, random weights, two words of the prior exchanged."""

    title = "Avatars follow their prompts"
    full_grid = FullGrid(
        ("evaluate.prompts=24", "evaluate.seeds=3"),
        "24 prompts × 3 seeds",
        lambda costs: 24 * 3 * costs["seconds"]["mean"],
    )
    record = ColoursRecord

    def plan(self) -> Iterator[ColoursJob]:
        """The avatars, seed by seed, then the controls (with the first seed only)."""
        config, seed = self.settings.lab.evaluate, self.settings.seed
        prompts = cases(max(config.prompts, config.controls))
        for index in range(config.seeds):
            for case in prompts[: config.prompts]:
                yield Job(Variant.AVATAR, case, seed + index)
        for variant in (Variant.NO_GUIDANCE, Variant.RANDOM_WEIGHTS):
            for case in prompts[: config.controls]:
                yield Job(variant, case, seed)
        for case in red_blue_cases(config.red_blue if config.controls else 0):
            yield Job(Variant.RED_BLUE, case, seed)
            yield Job(Variant.RED_BLUE_EXCHANGED, case, seed)

    def facts(self, job: ColoursJob) -> list[Any]:
        return [job.variant.value, job.subject.prompt, job.seed, self.fingerprint]

    def settings_of(self, job: ColoursJob) -> LabSettings:
        settings = replace(self.settings, prompt=job.subject.prompt, seed=job.seed)
        if job.variant is Variant.NO_GUIDANCE:
            settings.guidance = replace(settings.guidance, method="none")
        return settings

    def make(self, job: ColoursJob) -> Made:
        prior = self.prior
        if job.variant is Variant.RANDOM_WEIGHTS:
            prior = self._random_prior
        elif job.variant is Variant.RED_BLUE_EXCHANGED:
            prior = self._exchanged_prior
        return self.optimized(self.settings_of(job), prior)

    @cached_property
    def _random_prior(self) -> StableDiffusionPrior:
        return with_random_weights(self.prior, seed=1)

    @cached_property
    def _exchanged_prior(self) -> StableDiffusionPrior:
        return with_words_exchanged(self.prior, "red", "blue")

    def measure(self, job: ColoursJob, made: Made) -> tuple[ColoursRecord, Strip]:
        truth, images = self.truth(job.subject), self.renders(made.model)
        record = ColoursRecord(
            variant=job.variant,
            prompt=job.subject.prompt,
            seed=job.seed,
            asked={part: name for part, name in job.subject.asked.items() if part in CLOSE_UP},
            start=measure(self.renders(self._start(job)), truth),
            end=measure(images, truth),
            metrics=made.metrics,
            seconds=made.seconds,
        )
        return record, comparison_strip(images, truth)

    def _start(self, job: ColoursJob) -> GaussianModel:
        """The grey avatar that ``optimize`` starts from."""
        begin = generator(job.seed, 0, "splats")
        return surface_splats(self.settings.splats, self.body.rest(), self.body.weights, begin).to(self.prior.device)

    def describe(self, job: ColoursJob) -> str:
        return f"{job.variant.value}, seed {job.seed}, “{job.subject.prompt}”"

    def figures(self, records: Mapping[str, ColoursRecord]) -> Figures:
        return {**summarise(list(records.values())), "avatars": list(records)}

    def sheet(self, records: Mapping[str, ColoursRecord]) -> RGBImage:
        """A row for each avatar: truth and avatar."""
        labels = []
        for record in records.values():
            asked = ", ".join(f"{name} {part}" for part, name in record.asked.items())
            labels.append(asked if record.variant is Variant.AVATAR else f"{record.variant.value}: {asked}")
        return self.grid([self.store.strip(key) for key in records], labels, STRIP_LABELS)

    @classmethod
    def sections(cls, results: dict[str, Any]) -> list[str]:
        figures = results["figures"]
        return [
            _parts_section(figures["parts"]),
            _controls_section(figures["controls"]),
            _shapes_section(figures["volumes"], figures["stray"]),
            _costs_section(figures["costs"], figures["wall_seconds"]),
        ]


# ---- figures


def summarise(records: Sequence[ColoursRecord]) -> Figures:
    """All figures of suite=colours."""
    avatars = [record for record in records if record.variant is Variant.AVATAR]
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


def parts_table(records: Sequence[ColoursRecord]) -> dict[str, Figures]:
    """Each part's figures at the end and before the first step."""
    figures = {}
    for part in REPORTED:
        ends = [item for record in records for item in expected_parts(record.end, record.asked, [part])]
        starts = [item for record in records for item in expected_parts(record.start, record.asked, [part])]
        if ends:
            figures[part] = {"end": part_figures(ends), "start": part_figures(starts)}
    return figures


def part_figures(some: Sequence[ExpectedPart]) -> Figures:
    """Figures of one part over avatars.

    ``every_view``: the fraction of avatars whose part is right in all views. ``worst_view``: the view in which the
    fewest avatars are right.

    Args:
        some: at least one.
    """
    every = [all(item.hits()) for item in some]
    by_view: dict[str, list[bool]] = {}
    for item in some:
        for view, hit in zip(item.views, item.hits(), strict=True):
            by_view.setdefault(view.view, []).append(hit)
    fractions = {view: fmean(hits) for view, hits in by_view.items()}
    worst = min(fractions, key=lambda view: fractions[view])
    medians = [(item, view.median) for item in some for view in item.views if view.median is not None]
    differences = [colour_difference(colour, item.name, item.part) for item, colour in medians]
    ratios = [ratio for item, colour in medians if (ratio := chroma_ratio(colour, item.name, item.part)) is not None]
    return {
        "avatars": len(some),
        "every_view": fmean(every),
        "wilson": wilson_lower_bound(sum(every), len(every)),
        "worst_view": {"view": worst, "fraction": fractions[worst]},
        "views": fractions,
        "all_views": right_fraction(some),
        "full_body": mean_of(hit for view, hits in by_view.items() if view.startswith("body/") for hit in hits),
        "close_up": mean_of(hit for view, hits in by_view.items() if not view.startswith("body/") for hit in hits),
        "pixels": pixel_fraction(some),
        "delta_e": median(differences) if differences else None,
        "chroma_ratio": median(ratios) if ratios else None,
    }


def controls_table(records: Sequence[ColoursRecord]) -> dict[str, Figures]:
    """The fraction of right views in every control, next to the figure that it belongs to and the level of chance."""
    of = {variant: [record for record in records if record.variant is variant] for variant in Variant}
    avatars, exchanged = of[Variant.AVATAR], of[Variant.RED_BLUE_EXCHANGED]
    prompts = {record.prompt for record in of[Variant.RANDOM_WEIGHTS]}
    clothes = ("shirt", "bottoms")
    rows: dict[str, list[ExpectedPart]] = {
        "avatars": _as_asked(avatars),
        "the controls' prompts": _as_asked([record for record in avatars if record.prompt in prompts]),
        "step 0": [item for record in avatars for item in expected_parts(record.start, record.asked)],
        "no guidance": _as_asked(of[Variant.NO_GUIDANCE]),
        "random weights": _as_asked(of[Variant.RANDOM_WEIGHTS]),
        "swapped prompts": _swapped(avatars),
        "red and blue clothes": _as_asked(of[Variant.RED_BLUE], clothes),
        "words exchanged: as asked": _as_asked(exchanged, clothes),
        "words exchanged: as exchanged": [
            item
            for record in exchanged
            for item in expected_parts(record.end, {part: EXCHANGED[record.asked[part]] for part in clothes}, clothes)
        ],
    }
    return {name: _control(items) for name, items in rows.items() if items}


def _as_asked(records: Sequence[ColoursRecord], parts: Iterable[str] = REPORTED) -> list[ExpectedPart]:
    return [item for record in records for item in expected_parts(record.end, record.asked, parts)]


def _swapped(records: Sequence[ColoursRecord]) -> list[ExpectedPart]:
    """Every avatar against the colours of the next one with another prompt."""
    prompts = {record.prompt: record.asked for record in records}
    names = list(prompts)
    following = dict(zip(names, [*names[1:], *names[:1]], strict=True))
    if len(names) < 2:
        return []
    return [item for record in records for item in expected_parts(record.end, prompts[following[record.prompt]])]


def _control(items: Sequence[ExpectedPart]) -> Figures:
    by_part = {part: [item for item in items if item.part == part] for part in REPORTED}
    return {
        "views": sum(len(item.views) for item in items),
        "right": right_fraction(items),
        "pixels": pixel_fraction(items),
        "chance": fmean(1 / len(table(item.part)) for item in items for _ in item.views),
        "parts": {part: right_fraction(some) for part, some in by_part.items() if some},
    }


def volumes_table(records: Sequence[ColoursRecord]) -> dict[str, Figures]:
    """Mean intersection over union with each true volume outside the bare body."""
    figures = {}
    for name in ("long hair", "hat", "skirt"):
        pairs = [
            (record.start.volumes[name], record.end.volumes[name]) for record in records if name in record.end.volumes
        ]
        if pairs:
            start, end = ([both / max(either, 1) for both, either in moment] for moment in zip(*pairs, strict=True))
            figures[name] = {"avatars": len(pairs), "iou": fmean(end), "least": min(end), "iou_start": fmean(start)}
    return figures


def costs(records: Sequence[ColoursRecord]) -> Figures:
    """What an avatar costs on average (memory: at most)."""
    metrics = [record.metrics for record in records]
    return {
        "splats": {"mean": fmean(one["splats"] for one in metrics), "most": max(one["splats"] for one in metrics)},
        "steps": metrics[0]["steps"],
        "seconds": {"mean": fmean(r.seconds for r in records), "most": max(r.seconds for r in records)},
        "seconds_per_step": {
            part: fmean(one["seconds_per_step"].get(part, 0.0) for one in metrics)
            for part in metrics[0]["seconds_per_step"]
        },
        "peak_memory_mib": max(max(one["peak_memory_mib"].values()) for one in metrics),
    }


# ---- report


def _parts_section(parts: dict[str, Any]) -> str:
    columns = ["part", "avatars", "every view", "Wilson ≥", "worst view", "all views", "full body", "close-up"]
    columns += ["ΔE00", "chroma", "step 0: every view", "all views", "ΔE00"]
    rows = [_part_row(part, moments["end"], moments["start"]) for part, moments in parts.items()]
    text = (
        "A part is right in a view when the named colour is the nearest one on at least 80 % of its true pixels (those "
        "that it covers fully, with their neighbours; what the avatar leaves empty is wrong). A view that shows less "
        f"than {LEAST_PIXELS} of them is left out. Eight views: {EIGHT_VIEWS}. *Every view*: avatars whose part is "
        "right in all of them; *Wilson*: the lower end of that fraction's 95 % interval; *worst view*: the view with "
        "the lowest fraction of avatars. ΔE00 (aim ≤ 15) and chroma ratio (aim .85–1.15) are medians over views.\n"
    )
    return f"## Colours\n\n{text}\n{markdown_table(columns, rows)}\n"


def _part_row(part: str, end: dict[str, Any], start: dict[str, Any]) -> list[str]:
    worst = f"{number(end['worst_view']['fraction'])} ({end['worst_view']['view']})"
    fractions = [number(end[name]) for name in ("all_views", "full_body", "close_up")]
    colour = [number(end["delta_e"], 1), number(end["chroma_ratio"])]
    before = [number(start["every_view"]), number(start["all_views"]), number(start["delta_e"], 1)]
    return [
        part,
        str(end["avatars"]),
        number(end["every_view"]),
        number(end["wilson"]),
        worst,
        *fractions,
        *colour,
        *before,
    ]


def _controls_section(controls: dict[str, Any]) -> str:
    parts = list(dict.fromkeys(part for row in controls.values() for part in row["parts"]))
    rows = [
        [name, str(row["views"]), number(row["right"]), number(row["pixels"]), number(row["chance"])]
        + [number(row["parts"].get(part)) for part in parts]
        for name, row in controls.items()
    ]
    text = (
        "Fractions of right views. No guidance, random weights and swapped prompts (avatars against the next prompt's "
        "colours) must be near chance; with the prior's words red and blue exchanged, red and blue clothes must be "
        "wrong as asked and right as exchanged.\n"
    )
    table = markdown_table(["control", "views", "right", "pixels right", "chance", *parts], rows)
    return f"## Controls\n\n{text}\n{table}\n"


def _shapes_section(volumes: dict[str, Any], stray: dict[str, float]) -> str:
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
        markdown_table(["volume", "avatars", "IoU", "least", "step 0"], rows) if rows else "No volumes were requested."
    )
    floaters = (
        f"Alpha more than 4 pixels (6 cm) outside the true silhouette, as a fraction of the silhouette: mean "
        f"{stray['mean']:.4f}, at most {stray['most']:.4f}; at step 0 {stray['start']:.4f}."
    )
    return f"## Shapes\n\n{text}\n{table}\n\n{floaters}\n"


def _costs_section(costs: dict[str, Any], wall_seconds: float) -> str:
    split = costs["seconds_per_step"]
    table = markdown_table(["seconds a step", *split], [["mean", *(number(value, 3) for value in split.values())]])
    text = (
        f"{costs['steps']} steps, {costs['seconds']['mean']:.0f} s an avatar (at most {costs['seconds']['most']:.0f} "
        f"s), {costs['splats']['mean']:.0f} splats at the end (at most {costs['splats']['most']}), peak memory "
        f"{costs['peak_memory_mib']:.0f} MiB; {format_duration(wall_seconds)} for all avatars and controls.\n"
    )
    return f"## Costs\n\n{text}\n{table}\n"
