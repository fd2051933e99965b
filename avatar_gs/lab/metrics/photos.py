"""Similarity of an avatar's renders and photos of the person, view by view."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from avatar_gs.lab.metrics.avatar import to_bytes
from avatar_gs.lab.metrics.clip import Clip, features_of
from avatar_gs.lab.metrics.faces import Faces
from avatar_gs.lab.metrics.features import unit
from avatar_gs.lab.metrics.perceptual import Perceptual

Pixels = Float[np.ndarray, "_ S S 3"]
Distances = Float[np.ndarray, "_ _"]
"""Of each view and each photo; NaN if undefined."""


@dataclass(frozen=True)
class PhotoMetrics:
    """The models that compare images; None without weights."""

    clip: Clip
    lpips: Perceptual | None
    faces: Faces | None

    def measures(self) -> dict[str, Callable[[Pixels, Pixels], Distances] | None]:
        """By name: the table of each of the first images compared with each of the second."""
        return {
            "similarity": self._similarity,
            "LPIPS": None if self.lpips is None else self._lpips,
            "face": None if self.faces is None else self._face,
        }

    def _similarity(self, first: Pixels, second: Pixels) -> Distances:
        a, b = (unit(features_of(images, self.clip.person_features)) for images in (first, second))
        return a @ b.T

    def _lpips(self, first: Pixels, second: Pixels) -> Distances:
        assert self.lpips is not None
        a, b = (torch.from_numpy(np.ascontiguousarray(images, np.float32)) for images in (first, second))
        rows = [self.lpips.distances(one.expand_as(b), b) for one in a]
        return torch.stack(rows).double().numpy()

    def _face(self, first: Pixels, second: Pixels) -> Distances:
        assert self.faces is not None
        a, b = ([self.faces.embedding(image) for image in to_bytes(images)] for images in (first, second))
        return np.array([[np.nan if x is None or y is None else float(x @ y) for y in b] for x in a])


NEARER_IS_LESS = ("LPIPS",)


def by_view(renders: Pixels, photos: Pixels, names: Sequence[str], metrics: PhotoMetrics) -> dict[str, Any]:
    """By metric (None: without weights): each view's mean over the photos and its nearest photo, the mean over views,
    and for comparison the mean among the photos. Faces are compared if both images show one."""
    figures: dict[str, Any] = {}
    for measure, table_of in metrics.measures().items():
        if table_of is None:
            figures[measure] = None
            continue
        table = table_of(renders, photos)
        views = {name: _of_row(row, measure) for name, row in zip(names, table, strict=True)}
        means = [row["mean"] for row in views.values() if row is not None]
        figures[measure] = {
            "views": views,
            "mean": fmean(means) if means else None,
            "photos": _among_themselves(table_of(photos, photos)),
        }
    return figures


def _of_row(row: Float[np.ndarray, " N"], measure: str) -> dict[str, float] | None:
    seen = row[~np.isnan(row)]
    if not len(seen):
        return None
    nearest = seen.min() if measure in NEARER_IS_LESS else seen.max()
    return {"mean": float(seen.mean()), "nearest": float(nearest), "photos": len(seen)}


def _among_themselves(table: Distances) -> float | None:
    """Mean over pairs of different photos."""
    pairs = table[np.triu_indices(len(table), 1)]
    seen = pairs[~np.isnan(pairs)]
    return float(seen.mean()) if len(seen) else None
