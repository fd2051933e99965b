"""From the pictures of suite=scores and what the judges see in them to the figures that are reported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from avatar_gs.lab.metrics import features as measures
from avatar_gs.lab.metrics.clip import Clip, features_of
from avatar_gs.lab.metrics.colours import saturation_error
from avatar_gs.lab.metrics.perceptual import Perceptual
from avatar_gs.lab.metrics.shots import ScoredImages
from avatar_gs.lab.metrics.truth import Truth
from avatar_gs.lab.metrics.views import ORBITS, ScoredViews, orbit
from avatar_gs.lab.suites.scores.looks import Captions, Look, backgrounds, of_kind, person_pixels, right_parts
from avatar_gs.lab.suites.scores.records import AVATARS, Kind
from avatar_gs.types import Framing

Score = Callable[[Float[np.ndarray, "N d"], Float[np.ndarray, "P d"], Int[np.ndarray, " N"]], float]
Rows = dict[str, dict[str, Any]]
"""Figures by kind."""


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (None for one value) and number."""
    return {"mean": fmean(values), "spread": stdev(values) if len(values) > 1 else None, "n": len(values)}


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

    def figures(self) -> dict[str, Any]:
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
    def _kinds(self) -> dict[Kind, dict[int, list[Look]]]:
        return {kind: looks for kind in Kind if (looks := of_kind(self.looks, kind))}

    @cached_property
    def _samples(self) -> Mapping[tuple[int, int], Look]:
        """The prior's samples by case and seed."""
        return {(one.record.case, one.record.seed): one for some in self._kinds[Kind.SAMPLES].values() for one in some}

    def _of_each(self, values: Callable[[Sequence[Look]], list[float]]) -> Rows:
        """``spread`` of the values that a kind's looks have, where they have any."""
        rows = {kind: values([one for some in seeds.values() for one in some]) for kind, seeds in self._kinds.items()}
        return {kind.value: spread(found) for kind, found in rows.items() if found}

    # ---- pictures and captions

    def _by_view(self, score: Score, features: Callable[[Look], Float[np.ndarray, "V d"] | None]) -> Rows:
        """By kind and group of views: mean and spread over seeds."""
        rows: Rows = {}
        for kind, seeds in self._kinds.items():
            found = [self._groups(some, score, features) for some in seeds.values() if features(some[0]) is not None]
            if found:
                rows[kind.value] = {group: spread([one[group] for one in found]) for group in found[0]}
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
        return right_parts(one.shots, self.truths[one.record.case])

    # ---- views and seeds

    def _consistency(self, framing: Framing) -> Rows:
        def values(some: Sequence[Look]) -> list[float]:
            return measures.view_consistency(np.stack([one.person[orbit(framing)] for one in some])).tolist()

        return self._of_each(values)

    def _lpips(self, framing: Framing) -> Rows:
        """Neighbouring views' LPIPS, each avatar's mean."""

        def of(one: Look) -> float:
            assert self.lpips is not None
            pictures = torch.from_numpy(one.shots.colour.on_grey()[orbit(framing)])
            return float(self.lpips.distances(pictures, pictures.roll(-1, 0)).mean())

        return self._of_each(lambda some: [of(one) for one in some])

    def _diversity(self, some: Sequence[Look]) -> list[float]:
        """Of each prompt that has several seeds."""
        cases = dict.fromkeys(one.record.case for one in some)
        sets = [
            np.stack([one.colour[orbit(Framing.BODY)] for one in some if one.record.case == case]) for case in cases
        ]
        return [measures.diversity(features) for features in sets if len(features) > 1]

    # ---- beside the prior's own samples

    def _saturation(self, figure: str) -> Rows:
        inside = self.scored_views.inside

        def of(one: Look, other: Look) -> float:
            ours, theirs = (person_pixels(shots, inside) for shots in (one.shots, other.shots))
            return float(getattr(saturation_error(ours, theirs), figure))

        return self._of_each(lambda some: [of(one, other) for one in some for other in self._beside(one)])

    def _beside(self, one: Look) -> list[Look]:
        """The samples that a look is compared with: those of its prompt and seed; a sample with the next seed's."""
        case, seeds = one.record.case, [*self._kinds[Kind.SAMPLES]]
        if one.record.kind is not Kind.SAMPLES:
            return [self._samples[case, one.record.seed]]
        others = [seed for seed in seeds if seed != one.record.seed]
        return [self._samples[case, seed] for seed in others[:1]]

    def _set_distance(self, distance: Callable[[Float[np.ndarray, "N d"], Float[np.ndarray, "M d"]], float]) -> Rows:
        """Between all pictures of a kind (before the samples' own backgrounds) and all samples, seed by seed; for the
        samples themselves between every two seeds."""
        rows: Rows = {}
        sampled = {
            seed: np.concatenate([one.colour for one in some]) for seed, some in self._kinds[Kind.SAMPLES].items()
        }
        for kind in self._kinds:
            if kind is Kind.SAMPLES:
                values = [distance(sampled[a], sampled[b]) for a, b in combinations(sampled, 2)]
            else:
                values = [distance(self._set_features[kind, seed], sampled[seed]) for seed in sampled]
            if values:
                rows[kind.value] = spread(values)
        return rows

    @cached_property
    def _set_features(self) -> dict[tuple[Kind, int], Float[np.ndarray, "N d"]]:
        """Features before the backgrounds of each seed's samples; the drawn truth stands before all of them."""
        outside, found = self.scored_views.outside, {}
        for kind, seeds in self._kinds.items():
            for seed in self._kinds[Kind.SAMPLES] if kind is not Kind.SAMPLES else ():
                some = seeds[seed] if seed in seeds else next(iter(seeds.values()))
                pictures = [
                    self._before(one.shots, self._samples[one.record.case, seed].shots, outside) for one in some
                ]
                found[kind, seed] = np.concatenate([features_of(each, self.clip.image_features) for each in pictures])
        return found

    def _before(self, shots: ScoredImages, samples: ScoredImages, outside: np.ndarray) -> Float[np.ndarray, "V S S 3"]:
        return shots.on(backgrounds(samples, outside))

    # ---- costs

    def _costs(self) -> dict[str, Any]:
        rows = {}
        for kind in AVATARS:
            made = [(one.record, one.record.metrics) for some in self._kinds[kind].values() for one in some]
            rows[kind.value] = {
                "seconds": spread([record.seconds for record, _ in made]),
                "prior_calls": fmean(metrics["prior_calls"] for _, metrics in made if metrics is not None),
                "steps": fmean(metrics["steps"] for _, metrics in made if metrics is not None),
            }
        records = [one.record for one in self.looks]
        per_case = {(record.case, record.seed) for record in records}
        total = sum(record.seconds for record in records)
        return {"kinds": rows, "wall_seconds": total, "case_seconds": total / len(per_case)}
