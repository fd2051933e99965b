"""suite=scores: what the judges see in the images of each source, and the figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import combinations
from statistics import fmean, stdev
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from avatar_gs.lab.metrics import features as measures
from avatar_gs.lab.metrics.clip import Clip, features_of
from avatar_gs.lab.metrics.colours import SOLID, colour_name, name_pixels, saturation_error
from avatar_gs.lab.metrics.perceptual import Perceptual
from avatar_gs.lab.metrics.scored_images import ScoredImages
from avatar_gs.lab.metrics.truth import BACKGROUND, CLOSE_UP, Truth
from avatar_gs.lab.metrics.views import ORBITS, ScoredViews, orbit
from avatar_gs.lab.suites.suite import Figures, Record
from avatar_gs.prior.config import PromptConfig
from avatar_gs.prior.prompts import bucket_prompts
from avatar_gs.types import Bucket, Framing

Score = Callable[[Float[np.ndarray, "N d"], Float[np.ndarray, "P d"], Int[np.ndarray, " N"]], float]
Rows = dict[str, Figures]
"""Figures by source."""


class Source(str, Enum):
    """Where the scored images come from."""

    TRUTH = "drawn truth"
    SAMPLES = "the prior's samples"
    AVATAR = "avatar"
    CLIP = "CLIP guidance"
    START = "before the first step"


AVATARS = (Source.AVATAR, Source.CLIP)


@dataclass(frozen=True)
class ScoresRecord(Record):
    """The images of one source for one prompt and seed, which are the record's strip.

    Args:
        case: the prompt's place in the fixed list.
        metrics: ``training.loop.metrics``; None where nothing was optimised.
        seconds: wall time of making them.
    """

    former: ClassVar[Mapping[str, str]] = {"kind": "source"}

    source: Source
    case: int
    prompt: str
    seed: int
    metrics: dict[str, Any] | None
    seconds: float


# ---- what the judges see


@dataclass(frozen=True)
class Look:
    """One record's images with their features: colour, without texture (None for samples), and of who it is."""

    record: ScoresRecord
    images: ScoredImages
    colour: Float[np.ndarray, "V d"]
    white: Float[np.ndarray, "V d"] | None
    person: Float[np.ndarray, "V p"]


def look(record: ScoresRecord, images: ScoredImages, clip: Clip) -> Look:
    """``clip``'s features of the images on grey."""
    on_grey = images.colour.on_grey()
    return Look(
        record,
        images,
        features_of(on_grey, clip.image_features),
        None if images.white is None else features_of(images.white, clip.image_features),
        features_of(on_grey, clip.person_features),
    )


@dataclass(frozen=True)
class Captions:
    """The captions that an image is compared with, in the words of its view: those of the measured prompts first, by
    their places, then wrong ones. ``features``: by bucket, a row a caption."""

    size: int
    buckets: Sequence[Bucket]
    features: Mapping[Bucket, Float[np.ndarray, "P d"]]


def read_captions(prompts: Sequence[str], buckets: Sequence[Bucket], config: PromptConfig, clip: Clip) -> Captions:
    """The prompts as a run would ask for them in each view's bucket; all of them end in (or begin with) the same view
    words, so that these decide nothing."""
    worded = [bucket_prompts(prompt, "", config) for prompt in prompts]
    features = {
        bucket: clip.text_features([one[bucket].positive for one in worded]).float().cpu().numpy()
        for bucket in dict.fromkeys(buckets)
    }
    return Captions(len(prompts), buckets, features)


def person_pixels(images: ScoredImages, inside: Bool[np.ndarray, "V S S"]) -> Float[np.ndarray, "N 3"]:
    """The colours of the pixels where every image shows the person and this one is solid."""
    alpha = images.colour.alpha
    solid = inside & (alpha >= SOLID)
    return np.clip(images.colour.rgb[solid] / alpha[solid][:, None], 0, 1)


def backgrounds(samples: ScoredImages, outside: Bool[np.ndarray, "V S S"]) -> Float[np.ndarray, "V 3"]:
    """The median colour of what lies around the person in each sample; the grey of sheets where nothing does."""
    images = zip(samples.colour.rgb, outside, strict=True)
    plain = np.full(3, BACKGROUND, np.float32)
    return np.stack([np.median(rgb[mask], 0) if mask.any() else plain for rgb, mask in images]).astype(np.float32)


def right_parts(images: ScoredImages, truth: Truth) -> list[bool]:
    """Whether the median colour of each part that the prompt names is nearest to that name, view by view."""
    found = []
    for view in range(len(truth.maps)):
        for part, name in truth.case.asked.items():
            if part in CLOSE_UP and truth.shows(view, part):
                rgb, alpha = images.colour.rgb[view], images.colour.alpha[view]
                median = name_pixels(rgb, alpha, truth.mask(view, part), part, "", "").median
                found.append(median is not None and colour_name(np.array(median), part) == name)
    return found


def of_source(looks: Sequence[Look], source: Source) -> dict[int, list[Look]]:
    """By seed, in the order of the cases."""
    seeds = dict.fromkeys(one.record.seed for one in looks if one.record.source is source)
    return {seed: [one for one in looks if one.record.source is source and one.record.seed == seed] for seed in seeds}


# ---- figures


def mean_and_std(values: Sequence[float]) -> Figures:
    """Mean, standard deviation (None for one value) and number."""
    return {"mean": fmean(values), "std": stdev(values) if len(values) > 1 else None, "n": len(values)}


@dataclass(frozen=True)
class Scores:
    """All figures of the suite. ``groups``: what each view is reported under; ``truths``: the drawn people in the
    A-pose's views, by place."""

    looks: Sequence[Look]
    captions: Captions
    groups: Sequence[str]
    scored_views: ScoredViews
    truths: Sequence[Truth]
    clip: Clip
    lpips: Perceptual | None

    def figures(self) -> Figures:
        return {
            "r_precision": self._by_view(measures.r_precision, lambda one: one.colour),
            "r_precision_textureless": self._by_view(measures.r_precision, lambda one: one.white),
            "clip_score": self._by_view(measures.mean_similarity, lambda one: one.colour),
            "right_parts": self._of_each(lambda some: [fmean(self._right(one)) for one in some]),
            "consistency": {framing.value: self._consistency(framing) for framing in ORBITS},
            "lpips": None if self.lpips is None else {f.value: self._lpips(f) for f in ORBITS},
            "saturation": self._saturation("difference"),
            "saturation_distance": self._saturation("wasserstein"),
            "diversity": self._of_each(self._diversity),
            "frechet": self._set_distance(measures.frechet_distance),
            "kernel": self._set_distance(measures.kernel_distance),
            "costs": self._costs(),
        }

    @cached_property
    def _sources(self) -> dict[Source, dict[int, list[Look]]]:
        return {source: looks for source in Source if (looks := of_source(self.looks, source))}

    @cached_property
    def _samples(self) -> Mapping[tuple[int, int], Look]:
        """The prior's samples by case and seed."""
        return {
            (one.record.case, one.record.seed): one for some in self._sources[Source.SAMPLES].values() for one in some
        }

    def _of_each(self, values: Callable[[Sequence[Look]], list[float]]) -> Rows:
        """``mean_and_std`` of the values that a source's looks have, where they have any."""
        rows = {
            source: values([one for some in seeds.values() for one in some]) for source, seeds in self._sources.items()
        }
        return {source.value: mean_and_std(found) for source, found in rows.items() if found}

    # ---- images and captions

    def _by_view(self, score: Score, features: Callable[[Look], Float[np.ndarray, "V d"] | None]) -> Rows:
        """By source and group of views: mean and std over seeds."""
        rows: Rows = {}
        for source, seeds in self._sources.items():
            found = [self._groups(some, score, features) for some in seeds.values() if features(some[0]) is not None]
            if found:
                rows[source.value] = {group: mean_and_std([one[group] for one in found]) for group in found[0]}
        return rows

    def _groups(
        self, some: Sequence[Look], score: Score, features: Callable[[Look], Float[np.ndarray, "V d"] | None]
    ) -> dict[str, float]:
        """A score in each group, and over all views."""
        found, weights = {}, []
        for group in dict.fromkeys(self.groups):
            views = [index for index, name in enumerate(self.groups) if name == group]
            texts = self.captions.features[self.captions.buckets[views[0]]]
            images = np.concatenate([np.asarray(features(one))[views] for one in some])
            truth = np.repeat([one.record.case for one in some], len(views))
            found[group] = score(images, texts, truth)
            weights.append(len(views))
        return {"all": float(np.average(list(found.values()), weights=weights)), **found}

    def _right(self, one: Look) -> list[bool]:
        return right_parts(one.images, self.truths[one.record.case])

    # ---- views and seeds

    def _consistency(self, framing: Framing) -> Rows:
        def values(some: Sequence[Look]) -> list[float]:
            return measures.view_consistency(np.stack([one.person[orbit(framing)] for one in some])).tolist()

        return self._of_each(values)

    def _lpips(self, framing: Framing) -> Rows:
        """Neighbouring views' LPIPS, each avatar's mean."""

        def of(one: Look) -> float:
            assert self.lpips is not None
            images = torch.from_numpy(one.images.colour.on_grey()[orbit(framing)])
            return float(self.lpips.distances(images, images.roll(-1, 0)).mean())

        return self._of_each(lambda some: [of(one) for one in some])

    def _diversity(self, some: Sequence[Look]) -> list[float]:
        """Of each prompt that has several seeds."""
        cases = dict.fromkeys(one.record.case for one in some)
        sets = [
            np.stack([one.colour[orbit(Framing.BODY)] for one in some if one.record.case == case]) for case in cases
        ]
        return [measures.diversity(features) for features in sets if len(features) > 1]

    # ---- compared with the prior's samples

    def _saturation(self, figure: str) -> Rows:
        inside = self.scored_views.inside

        def of(one: Look, other: Look) -> float:
            ours, theirs = (person_pixels(images, inside) for images in (one.images, other.images))
            return float(getattr(saturation_error(ours, theirs), figure))

        return self._of_each(lambda some: [of(one, other) for one in some for other in self._compared_with(one)])

    def _compared_with(self, one: Look) -> list[Look]:
        """The samples that a look is compared with: those of its prompt and seed; a sample with the next seed's."""
        case, seeds = one.record.case, [*self._sources[Source.SAMPLES]]
        if one.record.source is not Source.SAMPLES:
            return [self._samples[case, one.record.seed]]
        others = [seed for seed in seeds if seed != one.record.seed]
        return [self._samples[case, seed] for seed in others[:1]]

    def _set_distance(self, distance: Callable[[Float[np.ndarray, "N d"], Float[np.ndarray, "M d"]], float]) -> Rows:
        """Between all images of a source (before the samples' own backgrounds) and all samples, seed by seed; for the
        samples themselves between every two seeds."""
        rows: Rows = {}
        sampled = {
            seed: np.concatenate([one.colour for one in some]) for seed, some in self._sources[Source.SAMPLES].items()
        }
        for source in self._sources:
            if source is Source.SAMPLES:
                values = [distance(sampled[a], sampled[b]) for a, b in combinations(sampled, 2)]
            else:
                values = [distance(self._set_features[source, seed], sampled[seed]) for seed in sampled]
            if values:
                rows[source.value] = mean_and_std(values)
        return rows

    @cached_property
    def _set_features(self) -> dict[tuple[Source, int], Float[np.ndarray, "N d"]]:
        """Features before the backgrounds of each seed's samples; the drawn truth stands before all of them."""
        outside, found = self.scored_views.outside, {}
        for source, seeds in self._sources.items():
            for seed in self._sources[Source.SAMPLES] if source is not Source.SAMPLES else ():
                some = seeds[seed] if seed in seeds else next(iter(seeds.values()))
                images = [
                    self._before(one.images, self._samples[one.record.case, seed].images, outside) for one in some
                ]
                found[source, seed] = np.concatenate([features_of(each, self.clip.image_features) for each in images])
        return found

    def _before(self, images: ScoredImages, samples: ScoredImages, outside: np.ndarray) -> Float[np.ndarray, "V S S 3"]:
        return images.on(backgrounds(samples, outside))

    # ---- costs

    def _costs(self) -> Figures:
        rows = {}
        for source in AVATARS:
            made = [(one.record, one.record.metrics) for some in self._sources[source].values() for one in some]
            rows[source.value] = {
                "seconds": mean_and_std([record.seconds for record, _ in made]),
                "prior_calls": fmean(metrics["prior_calls"] for _, metrics in made if metrics is not None),
                "steps": fmean(metrics["steps"] for _, metrics in made if metrics is not None),
            }
        records = [one.record for one in self.looks]
        per_case = {(record.case, record.seed) for record in records}
        total = sum(record.seconds for record in records)
        return {"sources": rows, "wall_seconds": total, "case_seconds": total / len(per_case)}
