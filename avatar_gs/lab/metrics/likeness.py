"""How much pictures are like a person: pixels, features, colours of parts, and who in a crowd is nearest."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from skimage.color import deltaE_ciede2000

from avatar_gs.lab.metrics.avatar import Pictures
from avatar_gs.lab.metrics.colours import SOLID
from avatar_gs.lab.metrics.portraits import SHOWN_IN, Portrait, sides
from avatar_gs.lab.scorer.faces import THRESHOLD, FaceNet, face_score, load_detector
from avatar_gs.lab.scorer.model import Scorer, load_scorer
from avatar_gs.lab.world import rendering as pic
from avatar_gs.lab.world.dataset import part_masks
from avatar_gs.lab.world.measure import LEAST_PIXELS
from avatar_gs.lab.world.vocabulary import SKIN, albedo, table, to_lab
from avatar_gs.prior.fingerprint import weights_fingerprint
from avatar_gs.types import Framing, ViewDirection

FACE = (pic.EYE, pic.EYE_WHITE, pic.BROW, pic.MOUTH)
LEAST_CONTRAST = 0.5
"""A face is kept when it stands out from the skin at least this much of how it does in truth."""
KEPT_WITHIN = 25.0
"""A part whose colour is farther than so many ΔE00 from the true one is not kept, whatever the names: skin has only
four of them, and a green face is nearest to one."""
GRID = 16
"""Cells of a colour layout along each side of a picture."""
MISSED = 50.0
"""The CIELAB distance that a place which only one figure covers counts as: that of colours with different names."""


@dataclass(frozen=True)
class Judges:
    """The models that look at pictures: who is it, and is there a face?"""

    scorer: Scorer
    detector: FaceNet

    @property
    def fingerprint(self) -> str:
        """Changes with their weights."""
        return weights_fingerprint({"scorer": self.scorer.model, "detector": self.detector})

    def faces(self, heads: Float[np.ndarray, "V S S 3"]) -> Bool[np.ndarray, " V"]:
        """Which pictures of heads, in [0, 1], show a face."""
        scores = face_score(torch.from_numpy(np.asarray(heads, np.float32)), self.detector)
        return (scores > THRESHOLD).cpu().numpy()


def load_judges() -> Judges:
    """The packaged ones."""
    return Judges(load_scorer(), load_detector())


@dataclass(frozen=True)
class ViewFigures:
    """One view of an avatar beside the truth.

    ``psnr`` is in dB on the pixels that the person or the avatar covers; ``distance`` is 1 - cosine of the scorer's
    ``person_features``; ``delta_e`` is CIEDE2000 between the median colours on each part's true pixels, and ``kept``
    whether both have the same nearest colour name and are within ``KEPT_WITHIN``. ``face`` is the face's contrast as a
    share of the true one, None where none is seen.
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


def compare(pictures: Pictures, truth: Portrait, scorer: Scorer) -> list[ViewFigures]:
    """The figures of each view of the truth; ``pictures`` show the same views."""
    found, true = pictures.on_grey(), truth.pictures.on_grey()
    distances = 1 - (features(found, scorer) * features(true, scorer)).sum(-1)
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
                psnr=psnr(found[view], true[view], _figure(pictures, view) | _figure(truth.pictures, view)),
                distance=float(distances[view]),
                delta_e={part: delta_e(*pair) for part, pair in medians.items()},
                kept={part: is_kept(*pair, part) for part, pair in medians.items()},
                face=face_contrast(found[view], true[view], truth.maps[view]) if facing else None,
            )
        )
    return every


def _figure(pictures: Pictures, view: int) -> Bool[np.ndarray, "S S"]:
    return pictures.alpha[view] >= SOLID


def psnr(found: Float[np.ndarray, "S S 3"], true: Float[np.ndarray, "S S 3"], mask: Bool[np.ndarray, "S S"]) -> float:
    """Peak signal-to-noise ratio in dB of colours in [0, 1] on the pixels of ``mask``; 99 if they are the same."""
    error = float(np.square(found[mask] - true[mask]).mean())
    return 99.0 if error < 1e-9 else float(-10 * np.log10(error))


def delta_e(found: Float[np.ndarray, "3"], true: Float[np.ndarray, "3"]) -> float:
    """CIEDE2000 between two colours in [0, 1]."""
    return float(deltaE_ciede2000(to_lab(found), to_lab(true)))


def is_kept(found: Float[np.ndarray, "3"], true: Float[np.ndarray, "3"], part: str) -> bool:
    """Whether a part still has its colour."""
    return colour_name(found, part) == colour_name(true, part) and delta_e(found, true) <= KEPT_WITHIN


def colour_name(rgb: Float[np.ndarray, "3"], part: str) -> str:
    """The nearest of the colour names that a part (skin too) can have, with the mean shading divided out."""
    names = SKIN if part == "skin" else table(part)
    distance = np.linalg.norm(to_lab(np.array(list(names.values())) / 255) - to_lab(albedo(rgb)), axis=-1)
    return list(names)[int(distance.argmin())]


def face_contrast(
    found: Float[np.ndarray, "S S 3"], true: Float[np.ndarray, "S S 3"], part_map: pic.PartMap
) -> float | None:
    """How much eyes, brows and mouth stand out from the skin, as a share of how much they do in truth; None where
    hardly any of them are seen."""
    features_mask = np.any([part_masks(part_map, part) > 0.6 for part in FACE], 0)
    skin = part_masks(part_map, pic.SKIN) > SOLID
    if min(features_mask.sum(), skin.sum()) < LEAST_PIXELS:
        return None

    def contrast(picture: Float[np.ndarray, "S S 3"]) -> float:
        return float(np.abs(picture[features_mask] - np.median(picture[skin], 0)).mean())

    return contrast(found) / max(contrast(true), 1e-6)


@torch.no_grad()
def features(pictures: Float[np.ndarray, "V S S 3"], scorer: Scorer) -> Float[np.ndarray, "V d"]:
    """Of whom pictures in [0, 1] are, to the scorer, at unit length."""
    return scorer.person_features(torch.from_numpy(np.asarray(pictures, np.float32))).float().cpu().numpy()


@dataclass(frozen=True)
class Layout:
    """Where a figure has which colour: mean CIELAB of the figure in each of ``GRID``² cells, and the share of the cell
    that it covers."""

    lab: Float[np.ndarray, "V G G 3"]
    cover: Float[np.ndarray, "V G G"]


def layout(pictures: Pictures) -> Layout:
    """The colour layout of each picture."""
    views, size = pictures.alpha.shape[:2]
    cell = size // GRID
    cover = pictures.alpha.reshape(views, GRID, cell, GRID, cell).mean((2, 4))
    rgb = pictures.rgb.reshape(views, GRID, cell, GRID, cell, 3).mean((2, 4))
    return Layout(to_lab(np.clip(rgb / np.maximum(cover, 1e-3)[..., None], 0, 1)), cover)


def layout_distance(first: Layout, second: Layout) -> float:
    """The mean CIELAB distance over the cells that both figures cover, where only one does ``MISSED``; each cell counts
    by the larger coverage, each picture alike."""
    larger, smaller = np.maximum(first.cover, second.cover), np.minimum(first.cover, second.cover)
    difference = np.linalg.norm(first.lab - second.lab, axis=-1)
    total = (smaller * difference + (larger - smaller) * MISSED).sum((1, 2))
    return float((total / np.maximum(larger.sum((1, 2)), 1e-6)).mean())


class Gallery:
    """A crowd of people as they look from the front, among whom an avatar's person is to be found."""

    def __init__(self, fronts: Sequence[Pictures], scorer: Scorer) -> None:
        self._scorer = scorer
        self._layouts = [layout(pictures) for pictures in fronts]
        self._features = np.stack([features(pictures.on_grey(), scorer) for pictures in fronts])

    def distances(self, fronts: Pictures) -> dict[str, list[float]]:
        """The distance to each of the crowd by colour layout and by the scorer's features, in the crowd's order."""
        seen, own = layout(fronts), features(fronts.on_grey(), self._scorer)
        return {
            "colour layout": [layout_distance(seen, other) for other in self._layouts],
            "scorer": (1 - (self._features * own).sum(-1).mean(-1)).tolist(),
        }


def combined(distances: dict[str, list[float]]) -> list[float]:
    """The measures' sum, each divided by its mean over the crowd."""
    return np.sum([np.array(values) / max(float(np.mean(values)), 1e-9) for values in distances.values()], 0).tolist()
