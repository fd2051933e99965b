"""How good a prior of the mini world is: samples for prompts that training never saw, compared with rendered truth."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from avatar_gs.lab.scorer.views import JUDGED, LEAST_SHOWN, seen_view
from avatar_gs.lab.world import rendering as r
from avatar_gs.lab.world.captions import caption, view_suffix
from avatar_gs.lab.world.dataset import CAMERAS, SIZE, Sample, paint, part_masks, render_sample
from avatar_gs.lab.world.people import Person, held_out, named_colours, random_person
from avatar_gs.lab.world.rendering import PART_IDS, SHOWN_ON
from avatar_gs.lab.world.views import Head, beyond_doubt, find_heads, view_of
from avatar_gs.lab.world.vocabulary import NEGATIVE_WORDS, nearest_names
from avatar_gs.lab.world.wardrobe import load_wardrobe
from avatar_gs.render.config import CamerasConfig
from avatar_gs.types import Framing, ViewDirection

COVERED = 0.95
"""Coverage from which a pixel belongs to a part."""
LEAST_PIXELS = 6
"""Parts with fewer pixels are not measured."""
LEAST_STRIPE = 0.2
"""Smallest fraction of a shirt that each colour of a correct stripe covers."""
NEGATIVE = ", ".join(NEGATIVE_WORDS)


@dataclass(frozen=True)
class Trial:
    """A prompt with the correct image: a random person in a random pose and view."""

    person: Person
    framing: Framing
    view: ViewDirection
    prompt: str
    sample: Sample
    truth: NDArray[np.float32]
    """The rendered image ``[SIZE, SIZE, 3]`` in [0, 1]."""

    @property
    def control(self) -> NDArray[np.float32]:
        """The pose map in [0, 1]."""
        return self.sample.controls[0].astype(np.float32) / np.float32(255)

    @cached_property
    def head(self) -> Head:
        """The head in a correct image."""
        return find_heads(self.sample.posed, self.sample.views.cameras.resized(SIZE, SIZE))[0]

    @property
    def clear(self) -> bool:
        """Whether body and head are both seen unambiguously from the view that the prompt names."""
        turns = (float(self.sample.views.azimuth[0]), self.head.turn)
        return all(view_of(turn) is self.view and beyond_doubt(turn) for turn in turns)

    def mask(self, part: int) -> NDArray[np.bool_]:
        """The pixels covered by a part."""
        return part_masks(self.sample.maps[0], part) > COVERED


def trials(count: int, seed: int, *, held: bool = True, cameras: CamerasConfig | None = None) -> list[Trial]:
    """Random people in random poses, framings and views.

    Args:
        held: only colour combinations reserved for evaluation; False: only those of training.
        cameras: by default those of the training set.
    """
    wardrobe = load_wardrobe()
    rng = np.random.default_rng(seed)
    found: list[Trial] = []
    while len(found) < count:
        person = random_person(rng)
        if held_out(person) != held:
            continue
        pose_range = 0.1 if len(found) % 2 else float(rng.uniform(0.2, 0.9))
        shown = render_sample(wardrobe, person, cameras or CAMERAS, 1, rng, pose_range)
        framing, view = shown.views.framings[0], view_of(float(shown.views.azimuth[0]))
        prompt = caption(person, rng, 1.0) + view_suffix(framing, view)
        truth = paint(person, shown.maps[0], rng, np.full(3, 190.0)).astype(np.float32) / np.float32(255)
        found.append(Trial(person, framing, view, prompt, shown, truth))
    return found


@runtime_checkable
class Sampler(Protocol):
    """A prior that can be sampled (``StableDiffusionPrior``)."""

    def sample(
        self,
        prompts: list[str],
        negatives: list[str],
        control: Float[Tensor, "B H W 3"],
        *,
        steps: int,
        cfg_scale: float,
        generator: torch.Generator,
        pose_scale: float,
    ) -> Float[Tensor, "B H W 3"]: ...


@torch.no_grad()
def sample(
    prior: Sampler,
    some: list[Trial],
    *,
    seed: int = 0,
    steps: int = 20,
    cfg_scale: float = 4.0,
    pose_scale: float = 1.0,
    batch: int = 20,
    on_batch: Callable[[int], object] = lambda done: None,
) -> NDArray[np.float32]:
    """The prior's samples ``[N, SIZE, SIZE, 3]`` in [0, 1] for the trials' prompts and pose maps.

    Args:
        steps: denoising steps.
        batch: images per call of the prior.
        on_batch: called with the number of images done.
    """
    samples = []
    for start in range(0, len(some), batch):
        chunk = some[start : start + batch]
        control = torch.from_numpy(np.stack([trial.control for trial in chunk]))
        images = prior.sample(
            [trial.prompt for trial in chunk],
            [NEGATIVE] * len(chunk),
            control,
            steps=steps,
            cfg_scale=cfg_scale,
            generator=torch.Generator().manual_seed(1_000_003 * seed + start),
            pose_scale=pose_scale,
        )
        samples.append(images.clamp(0, 1).cpu().numpy())
        on_batch(min(start + batch, len(some)))
    return np.concatenate(samples)


def score(some: list[Trial], images: NDArray[np.float32]) -> dict[str, dict[str, float]]:
    """Fractions of correct colours by part and framing, of views and of faces, and the overlap of silhouettes.

    Returns:
        By measure, ``mean`` and the number ``n`` of cases.
    """
    hits: dict[str, list[float]] = {}
    for trial, image in zip(some, images, strict=True):
        striped = trial.person.outfit.stripe
        if striped and trial.framing in SHOWN_ON["stripe"] and (rarer := lesser_stripe(trial, image)) is not None:
            hits.setdefault(f"stripes/{trial.framing.value}", []).append(float(rarer >= LEAST_STRIPE))
        for part, name in named_colours(trial.person).items():
            if striped and part in ("shirt", "stripe"):
                continue  # prompts do not specify where the stripes are
            mask = trial.mask(PART_IDS[part])
            if mask.sum() < LEAST_PIXELS or trial.framing not in SHOWN_ON[part]:
                continue
            colour = np.median(image[mask], 0)
            hits.setdefault(f"{part}/{trial.framing.value}", []).append(float(nearest_names(colour, part) == name))
        hits.setdefault("silhouette IoU", []).append(_silhouette_iou(trial, image))
        if trial.framing in JUDGED and trial.clear and trial.head.shown >= LEAST_SHOWN:
            for key, shown in (("view", image), ("view of the drawn truth", trial.truth)):
                seen = seen_view(shown, trial.head)
                hits.setdefault(f"{key}/{trial.view.value}", []).append(float(seen is trial.view))
        if trial.framing is Framing.HEAD and trial.view is ViewDirection.FRONT:
            hits.setdefault("face contrast > 0.5 of truth", []).append(float(face_contrast(trial, image) > 0.5))
    return {key: {"mean": round(float(np.mean(values)), 3), "n": len(values)} for key, values in sorted(hits.items())}


def lesser_stripe(trial: Trial, image: NDArray[np.float32]) -> float | None:
    """Fraction of a striped shirt's pixels in the rarer of its two colours; None if no shirt is visible."""
    both = trial.mask(r.SHIRT) | trial.mask(r.STRIPE)
    if both.sum() < LEAST_PIXELS:
        return None
    names = nearest_names(image[both], "shirt")
    outfit = trial.person.outfit
    return float(min((names == outfit.shirt).mean(), (names == outfit.stripe).mean()))


def _silhouette_iou(trial: Trial, image: NDArray[np.float32]) -> float:
    """Overlap of the sampled person with the rendered one; the background is the colour outside the latter."""
    truth = 1 - part_masks(trial.sample.maps[0], r.BACKGROUND) > 0.5
    outside = part_masks(trial.sample.maps[0], r.BACKGROUND) > 0.99
    if not outside.any():
        return 1.0
    background = np.median(image[outside], 0)
    found = np.abs(image - background).max(-1) > 0.10
    return float((found & truth).sum() / max(1, (found | truth).sum()))


def face_contrast(trial: Trial, image: NDArray[np.float32]) -> float:
    """Contrast of eyes, brows and mouth with the skin, relative to that of the rendered truth."""
    features = np.any(
        [part_masks(trial.sample.maps[0], part) > 0.6 for part in (r.EYE, r.EYE_WHITE, r.BROW, r.MOUTH)], 0
    )
    skin = trial.mask(r.SKIN)
    if features.sum() < LEAST_PIXELS or skin.sum() < LEAST_PIXELS:
        return math.inf

    def contrast(pixels: NDArray[np.float32]) -> float:
        return float(np.abs(pixels[features] - np.median(pixels[skin], 0)).mean())

    return contrast(image) / max(contrast(trial.truth), 1e-6)
