"""How well a prior of the mini world does: samples for prompts that training never saw, against drawn truth."""

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from avatar_gs.lab.scorer.view_judge import JUDGED, LEAST_SHOWN, seen_view
from avatar_gs.lab.world import picture as pic
from avatar_gs.lab.world.colours import nearest_names
from avatar_gs.lab.world.dataset import part_masks
from avatar_gs.lab.world.people import Person
from avatar_gs.lab.world.trials import Trial
from avatar_gs.lab.world.vocabulary import NEGATIVE_WORDS
from avatar_gs.types import Framing, ViewDirection

PARTS = {
    "hair": pic.HAIR,
    "shirt": pic.SHIRT,
    "bottoms": pic.BOTTOMS,
    "shoes": pic.SHOES,
    "hat": pic.HAT,
    "stripe": pic.STRIPE,
}
SHOWN_ON = {
    "hair": (Framing.HEAD, Framing.UPPER, Framing.BODY),
    "shirt": (Framing.UPPER, Framing.BODY),
    "bottoms": (Framing.LOWER, Framing.BODY),
    "shoes": (Framing.LOWER, Framing.BODY),
    "hat": (Framing.HEAD, Framing.UPPER, Framing.BODY),
    "stripe": (Framing.UPPER, Framing.BODY),
}
LEAST_PIXELS = 6
LEAST_STRIPE = 0.2
"""Stripes are right where each of their two colours covers so much of the shirt."""
NEGATIVE = ", ".join(NEGATIVE_WORDS)


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
def draw(
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
    """The prior's pictures ``[N, SIZE, SIZE, 3]`` for the trials' prompts and pose maps, from the noise of ``seed``;
    ``on_batch`` hears how many are done."""
    pictures = []
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
        pictures.append(images.clamp(0, 1).cpu().numpy())
        on_batch(min(start + batch, len(some)))
    return np.concatenate(pictures)


def score(some: list[Trial], pictures: NDArray[np.float32]) -> dict[str, dict[str, float]]:
    """Shares of right parts by framing, silhouette overlap, views as asked and faces; with the number of cases each."""
    hits: dict[str, list[float]] = {}
    for trial, image in zip(some, pictures, strict=True):
        striped = trial.person.outfit.stripe
        if striped and trial.framing in SHOWN_ON["stripe"] and (share := lesser_stripe(trial, image)) is not None:
            hits.setdefault(f"stripes/{trial.framing.value}", []).append(float(share >= LEAST_STRIPE))
        for part, name in asked_colours(trial.person).items():
            if striped and part in ("shirt", "stripe"):
                continue  # no prompt says where the stripes lie
            mask = trial.mask(PARTS[part])
            if mask.sum() < LEAST_PIXELS or trial.framing not in SHOWN_ON[part]:
                continue
            colour = np.median(image[mask], 0)
            hits.setdefault(f"{part}/{trial.framing.value}", []).append(float(nearest_names(colour, part) == name))
        hits.setdefault("silhouette IoU", []).append(_silhouette_iou(trial, image))
        if trial.framing in JUDGED and trial.clear and trial.head.shown >= LEAST_SHOWN:
            for key, picture in (("view", image), ("view of the drawn truth", trial.truth)):
                seen = seen_view(picture, trial.head)
                hits.setdefault(f"{key}/{trial.view.value}", []).append(float(seen is trial.view))
        if trial.framing is Framing.HEAD and trial.view is ViewDirection.FRONT:
            hits.setdefault("face contrast > 0.5 of truth", []).append(float(face_contrast(trial, image) > 0.5))
    return {key: {"mean": round(float(np.mean(values)), 3), "n": len(values)} for key, values in sorted(hits.items())}


def lesser_stripe(trial: Trial, image: NDArray[np.float32]) -> float | None:
    """Of a striped shirt's pixels, the share of the rarer of its two colours; None where no shirt is seen."""
    both = trial.mask(pic.SHIRT) | trial.mask(pic.STRIPE)
    if both.sum() < LEAST_PIXELS:
        return None
    names = nearest_names(image[both], "shirt")
    outfit = trial.person.outfit
    return float(min((names == outfit.shirt).mean(), (names == outfit.stripe).mean()))


def asked_colours(person: Person) -> dict[str, str]:
    """The colour name of every part that a person has."""
    outfit = person.outfit
    names = {
        "hair": person.hair,
        "shirt": outfit.shirt,
        "bottoms": outfit.bottoms_colour,
        "shoes": outfit.shoes,
        "hat": outfit.hat,
        "stripe": outfit.stripe,
    }
    return {part: name for part, name in names.items() if name}


def _silhouette_iou(trial: Trial, image: NDArray[np.float32]) -> float:
    """Overlap of the sampled person with the drawn one. The background is the colour outside the drawn silhouette."""
    truth = 1 - part_masks(trial.sample.maps[0], pic.BACKGROUND) > 0.5
    outside = part_masks(trial.sample.maps[0], pic.BACKGROUND) > 0.99
    if not outside.any():
        return 1.0
    background = np.median(image[outside], 0)
    found = np.abs(image - background).max(-1) > 0.10
    return float((found & truth).sum() / max(1, (found | truth).sum()))


def face_contrast(trial: Trial, image: NDArray[np.float32]) -> float:
    """How much eyes, brows and mouth stand out from the skin, as a share of how much they do in the drawn truth."""
    features = np.any(
        [part_masks(trial.sample.maps[0], part) > 0.6 for part in (pic.EYE, pic.EYE_WHITE, pic.BROW, pic.MOUTH)], 0
    )
    skin = trial.mask(pic.SKIN)
    if features.sum() < LEAST_PIXELS or skin.sum() < LEAST_PIXELS:
        return math.inf

    def contrast(pixels: NDArray[np.float32]) -> float:
        return float(np.abs(pixels[features] - np.median(pixels[skin], 0)).mean())

    return contrast(image) / max(contrast(trial.truth), 1e-6)
