"""Figures of one picture, and what they are as shares of the prior's own samples."""

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import laplace

from avatar_gs.lab.metrics.features import chroma, unit
from avatar_gs.lab.scorer.model import Scorer
from avatar_gs.lab.suites.claims.recipes import TOY, Recipe
from avatar_gs.lab.suites.claims.records import Record

LUMA = np.array([0.299, 0.587, 0.114])
GREY = 0.5
Picture = Float[np.ndarray, "S S 3"]


def sharpness(picture: Picture) -> float:
    """The variance of the Laplacian of the luma. Noise counts as well as detail does."""
    return float(laplace(picture.astype(np.float64) @ LUMA).var())


def picture_figures(
    pictures: Float[np.ndarray, "B S S 3"], mask: Bool[np.ndarray, "S S"], prompt: str, scorer: Scorer
) -> tuple[dict[str, float], Float[np.ndarray, "B d"]]:
    """The means over pictures in [0, 1] of sharpness, CIELAB chroma on ``mask`` and likeness (the scorer's cosine of
    picture and prompt; ``grey_likeness``: of a grey picture), and the scorer's features."""
    grey = np.full((1, *pictures.shape[1:]), GREY)
    with torch.no_grad():
        shown = torch.from_numpy(np.concatenate([pictures, grey]).astype(np.float32))
        features = scorer.image_features(shown).cpu().numpy()
        text = scorer.text_features([prompt]).cpu().numpy()
    likeness = unit(features) @ unit(text)[0]
    figures = {
        "sharpness": fmean(sharpness(picture) for picture in pictures),
        "chroma": float(chroma(pictures[:, mask]).mean()),
        "likeness": float(likeness[:-1].mean()),
        "grey_likeness": float(likeness[-1]),
    }
    return figures, features[:-1]


class Plays:
    """The records of all recipes, seed by seed, as claims read them."""

    def __init__(self, records: Sequence[Record], known: Mapping[str, Recipe]) -> None:
        self._known = known
        self._records: dict[str, list[Record]] = {}
        for record in records:
            self._records.setdefault(record.recipe, []).append(record)

    def figure(self, name: str, recipe: str) -> tuple[float, ...]:
        """A figure as measured, one a seed."""
        return tuple(record.figures[name] for record in self._records[recipe])

    def toy(self, name: str) -> tuple[float, ...]:
        """A figure of the plane of points."""
        return self.figure(name, TOY)

    def share(self, name: str, recipe: str) -> tuple[float, ...]:
        """A figure as a share of the samples' with the same seed."""
        return ratio(self.figure(name, recipe), self._reference(name, recipe))

    def excess(self, name: str, recipe: str) -> tuple[float, ...]:
        """A figure less the samples'."""
        return difference(self.figure(name, recipe), self._reference(name, recipe))

    def score(self, recipe: str) -> tuple[float, ...]:
        """How much a picture is like its prompt, to the scorer: 0 as a grey picture is, 1 as the samples are; NaN where
        these are not more like it than grey is (a prompt that says nothing)."""
        grey, samples = (self._reference(name, recipe) for name in ("grey_likeness", "likeness"))
        better = [max(value, 0.0) for value in difference(samples, grey)]
        return ratio(difference(self.figure("likeness", recipe), grey), better)

    def apart(self, recipe: str) -> tuple[float, ...]:
        """Each seed's mean cosine distance from the other seeds' pictures, as a share of the samples' among each other
        (other seeds' too)."""
        own, samples = self._distances(recipe), self._distances(self._known[recipe].reference)
        return tuple(value / fmean(samples) for value in own)

    def _distances(self, recipe: str) -> list[float]:
        """Of each seed's pictures from the other seeds'."""
        groups = [unit(np.array(record.features)) for record in self._records[recipe]]
        return [
            float(np.mean([1 - own @ other.T for index, other in enumerate(groups) if index != here]))
            for here, own in enumerate(groups)
        ]

    def _reference(self, name: str, recipe: str) -> tuple[float, ...]:
        return self.figure(name, self._known[recipe].reference)


def ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, ...]:
    """Seed by seed; NaN where nothing is below."""
    return tuple(a / b if b else float("nan") for a, b in zip(above, below, strict=True))


def difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, ...]:
    """Seed by seed."""
    return tuple(a - b for a, b in zip(first, second, strict=True))
