"""Likeness to a synthetic person: pixels, features, colours of parts, and retrieval among a crowd."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from avatar_gs.lab.metrics.avatar import ViewImages
from avatar_gs.lab.metrics.clip import features_of
from avatar_gs.lab.metrics.colours import SOLID, colour_name, delta_e
from avatar_gs.lab.metrics.portraits import SHOWN_IN, Portrait
from avatar_gs.lab.metrics.views import sides
from avatar_gs.lab.scorer.faces import THRESHOLD, FaceNet, face_score, load_detector
from avatar_gs.lab.scorer.model import Scorer, load_scorer
from avatar_gs.lab.world import rendering as pic
from avatar_gs.lab.world.dataset import part_masks
from avatar_gs.lab.world.measure import LEAST_PIXELS
from avatar_gs.lab.world.vocabulary import to_lab
from avatar_gs.prior.fingerprint import weights_fingerprint
from avatar_gs.types import Framing, ViewDirection

FACE = (pic.EYE, pic.EYE_WHITE, pic.BROW, pic.MOUTH)
LEAST_CONTRAST = 0.5
"""A face is kept if its contrast to the skin is more than this fraction of the true contrast."""
KEPT_WITHIN = 25.0
"""Maximum ΔE00 between a kept part's colour and the true one. Names alone do not suffice: skin has only four, and a
green face is nearest to one of them."""
GRID = 16
"""Cells of a colour layout along each side of an image."""
MISSED = 50.0
"""CIELAB distance of an area that only one person covers: typical of colours with different names."""


@dataclass(frozen=True)
class LikenessModels:
    """The packaged models for identity and faces."""

    scorer: Scorer
    detector: FaceNet

    @property
    def fingerprint(self) -> str:
        """Hash of the weights."""
        return weights_fingerprint({"scorer": self.scorer.model, "detector": self.detector})

    def faces(self, heads: Float[np.ndarray, "V S S 3"]) -> Bool[np.ndarray, " V"]:
        """Whether each image of a head, in [0, 1], shows a face."""
        scores = face_score(torch.from_numpy(np.asarray(heads, np.float32)), self.detector)
        return (scores > THRESHOLD).cpu().numpy()


def load_likeness_models() -> LikenessModels:
    """Load the packaged models."""
    return LikenessModels(load_scorer(), load_detector())


@dataclass(frozen=True)
class ViewFigures:
    """One view of an avatar compared with the ground truth.

    Args:
        psnr: in dB, on the pixels that the person or the avatar covers.
        distance: 1 - cosine similarity of the scorer's ``person_features``.
        delta_e: CIEDE2000 between the median colours on each part's true pixels.
        kept: whether these have the same nearest colour name and differ by at most ``KEPT_WITHIN``.
        face: the face's contrast relative to the true one; None if no face is visible.
    """

    framing: str
    side: str
    psnr: float
    distance: float
    delta_e: dict[str, float]
    kept: dict[str, bool]
    face: float | None

    @property
    def face_kept(self) -> bool | None:
        return None if self.face is None else self.face > LEAST_CONTRAST


def compare(images: ViewImages, truth: Portrait, scorer: Scorer) -> list[ViewFigures]:
    """The figures of each view; ``images`` show the ground truth's views."""
    found, true = images.on_grey(), truth.images.on_grey()
    distances = 1 - (features_of(found, scorer.person_features) * features_of(true, scorer.person_features)).sum(-1)
    every = []
    for view, side in enumerate(sides(truth.views)):
        framing = truth.views.framings[view]
        parts = {part: mask for part in SHOWN_IN[framing] if (mask := truth.mask(view, part)).sum() >= LEAST_PIXELS}
        medians = {
            part: (np.median(found[view][mask], 0), np.median(true[view][mask], 0)) for part, mask in parts.items()
        }
        facing = framing is Framing.HEAD and side == ViewDirection.FRONT.value
        every.append(
            ViewFigures(
                framing=framing.value,
                side=side,
                psnr=psnr(found[view], true[view], _figure(images, view) | _figure(truth.images, view)),
                distance=float(distances[view]),
                delta_e={part: delta_e(*pair) for part, pair in medians.items()},
                kept={part: is_kept(*pair, part) for part, pair in medians.items()},
                face=face_contrast(found[view], true[view], truth.maps[view]) if facing else None,
            )
        )
    return every


def _figure(images: ViewImages, view: int) -> Bool[np.ndarray, "S S"]:
    return images.alpha[view] >= SOLID


def psnr(found: Float[np.ndarray, "S S 3"], true: Float[np.ndarray, "S S 3"], mask: Bool[np.ndarray, "S S"]) -> float:
    """Peak signal-to-noise ratio in dB of colours in [0, 1] on the pixels of ``mask``; 99 if they are equal."""
    error = float(np.square(found[mask] - true[mask]).mean())
    return 99.0 if error < 1e-9 else float(-10 * np.log10(error))


def is_kept(found: Float[np.ndarray, "3"], true: Float[np.ndarray, "3"], part: str) -> bool:
    """Whether a part has kept its colour."""
    return colour_name(found, part) == colour_name(true, part) and delta_e(found, true) <= KEPT_WITHIN


def face_contrast(
    found: Float[np.ndarray, "S S 3"], true: Float[np.ndarray, "S S 3"], part_map: pic.PartMap
) -> float | None:
    """Contrast of eyes, brows and mouth to the skin, relative to the true contrast; None if too few of their pixels are
    visible."""
    features_mask = np.any([part_masks(part_map, part) > 0.6 for part in FACE], 0)
    skin = part_masks(part_map, pic.SKIN) > SOLID
    if min(features_mask.sum(), skin.sum()) < LEAST_PIXELS:
        return None

    def contrast(image: Float[np.ndarray, "S S 3"]) -> float:
        return float(np.abs(image[features_mask] - np.median(image[skin], 0)).mean())

    return contrast(found) / max(contrast(true), 1e-6)


@dataclass(frozen=True)
class Layout:
    """Mean CIELAB colour of a person in each of ``GRID``² cells, and the fraction of the cell covered."""

    lab: Float[np.ndarray, "V G G 3"]
    cover: Float[np.ndarray, "V G G"]


def layout(images: ViewImages) -> Layout:
    """The colour layout of each view."""
    views, size = images.alpha.shape[:2]
    cell = size // GRID
    cover = images.alpha.reshape(views, GRID, cell, GRID, cell).mean((2, 4))
    rgb = images.rgb.reshape(views, GRID, cell, GRID, cell, 3).mean((2, 4))
    return Layout(to_lab(np.clip(rgb / np.maximum(cover, 1e-3)[..., None], 0, 1)), cover)


def layout_distance(first: Layout, second: Layout) -> float:
    """Mean CIELAB distance over cells, weighted by the larger coverage; ``MISSED`` where only one person covers."""
    larger, smaller = np.maximum(first.cover, second.cover), np.minimum(first.cover, second.cover)
    difference = np.linalg.norm(first.lab - second.lab, axis=-1)
    total = (smaller * difference + (larger - smaller) * MISSED).sum((1, 2))
    return float((total / np.maximum(larger.sum((1, 2)), 1e-6)).mean())


class Gallery:
    """Front views of a crowd, among which the person of an avatar is to be retrieved."""

    def __init__(self, fronts: Sequence[ViewImages], scorer: Scorer) -> None:
        self._scorer = scorer
        self._layouts = [layout(images) for images in fronts]
        self._features = np.stack([features_of(images.on_grey(), scorer.person_features) for images in fronts])

    def distances(self, fronts: ViewImages) -> dict[str, list[float]]:
        """Distances to each member of the crowd by colour layout and by the scorer's features, in the crowd's order."""
        seen, own = layout(fronts), features_of(fronts.on_grey(), self._scorer.person_features)
        return {
            "colour layout": [layout_distance(seen, other) for other in self._layouts],
            "scorer": (1 - (self._features * own).sum(-1).mean(-1)).tolist(),
        }


def combined(distances: dict[str, list[float]]) -> list[float]:
    """Sum of the distances, each divided by its mean over the crowd."""
    return np.sum([np.array(values) / max(float(np.mean(values)), 1e-9) for values in distances.values()], 0).tolist()
