"""What the judges see in the pictures of suite=scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from avatar_gs.lab.metrics.clip import Clip, features_of
from avatar_gs.lab.metrics.colours import SOLID, colour_name, name_pixels
from avatar_gs.lab.metrics.shots import ScoredImages
from avatar_gs.lab.metrics.truth import BACKGROUND, CLOSE_UP, Truth
from avatar_gs.lab.suites.scores.records import Kind, Record
from avatar_gs.prior.config import PromptConfig
from avatar_gs.prior.prompts import bucket_prompts
from avatar_gs.types import Bucket


@dataclass(frozen=True)
class Look:
    """One record's pictures with their features: colour, without texture (None for samples), and of who it is."""

    record: Record
    shots: ScoredImages
    colour: Float[np.ndarray, "V d"]
    white: Float[np.ndarray, "V d"] | None
    person: Float[np.ndarray, "V p"]


def look(record: Record, shots: ScoredImages, clip: Clip) -> Look:
    """``clip``'s features of the pictures on grey."""
    on_grey = shots.colour.on_grey()
    return Look(
        record,
        shots,
        features_of(on_grey, clip.image_features),
        None if shots.white is None else features_of(shots.white, clip.image_features),
        features_of(on_grey, clip.person_features),
    )


@dataclass(frozen=True)
class Captions:
    """The captions that a picture is compared with, in the words of its view: those of the measured prompts first, by
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


def person_pixels(shots: ScoredImages, inside: Bool[np.ndarray, "V S S"]) -> Float[np.ndarray, "N 3"]:
    """The colours of the pixels where every picture shows the person and this one is solid."""
    alpha = shots.colour.alpha
    solid = inside & (alpha >= SOLID)
    return np.clip(shots.colour.rgb[solid] / alpha[solid][:, None], 0, 1)


def backgrounds(samples: ScoredImages, outside: Bool[np.ndarray, "V S S"]) -> Float[np.ndarray, "V 3"]:
    """The median colour of what lies around the person in each sample; the grey of sheets where nothing does."""
    pictures = zip(samples.colour.rgb, outside, strict=True)
    plain = np.full(3, BACKGROUND, np.float32)
    return np.stack([np.median(rgb[mask], 0) if mask.any() else plain for rgb, mask in pictures]).astype(np.float32)


def right_parts(shots: ScoredImages, truth: Truth) -> list[bool]:
    """Whether the median colour of each part that the prompt names is nearest to that name, view by view."""
    found = []
    for view in range(len(truth.maps)):
        for part, name in truth.case.asked.items():
            if part in CLOSE_UP and truth.shows(view, part):
                rgb, alpha = shots.colour.rgb[view], shots.colour.alpha[view]
                median = name_pixels(rgb, alpha, truth.mask(view, part), part, "", "").median
                found.append(median is not None and colour_name(np.array(median), part) == name)
    return found


def of_kind(looks: Sequence[Look], kind: Kind) -> dict[int, list[Look]]:
    """By seed, in the order of the cases."""
    seeds = dict.fromkeys(one.record.seed for one in looks if one.record.kind is kind)
    return {seed: [one for one in looks if one.record.kind is kind and one.record.seed == seed] for seed in seeds}
