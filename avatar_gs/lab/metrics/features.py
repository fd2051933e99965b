"""Measures on features and colours: which caption is nearest, how alike views and seeds are, how far two sets are.

Pure functions of arrays. Features need not be of unit length (cosines are taken). Rows of captions are a pool:
``truth`` says which of them each picture was made for.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import wasserstein_distance

from avatar_gs.lab.world.vocabulary import to_lab


def r_precision(
    image_features: Float[np.ndarray, "N d"], text_features: Float[np.ndarray, "P d"], truth: Int[np.ndarray, " N"]
) -> float:
    """The share of pictures that are nearer to their own caption than to any other of the pool (Park et al. 2021; CLIP
    R-Precision). A tie is a miss, so features that say nothing score 0 and a caption must not stand in the pool twice.

    Raises:
        ValueError: without pictures.
    """
    if len(image_features) == 0:
        raise ValueError("r_precision: no pictures")
    cosines = unit(image_features) @ unit(text_features).T
    own = cosines[np.arange(len(truth)), truth]
    others = cosines.copy()
    others[np.arange(len(truth)), truth] = -np.inf
    return float((own > others.max(1)).mean())


def similarities(
    image_features: Float[np.ndarray, "N d"], text_features: Float[np.ndarray, "P d"], truth: Int[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """The cosine of each picture and its own caption."""
    return (unit(image_features) * unit(text_features)[truth]).sum(-1)


def mean_similarity(
    image_features: Float[np.ndarray, "N d"], text_features: Float[np.ndarray, "P d"], truth: Int[np.ndarray, " N"]
) -> float:
    """CLIP score without its factor: the mean cosine of pictures and their own captions."""
    return float(similarities(image_features, text_features, truth).mean())


def view_consistency(features: Float[np.ndarray, "A V d"]) -> Float[np.ndarray, " A"]:
    """Of each avatar the mean cosine distance between neighbouring views of a closed orbit (the last one is the first
    one's neighbour): 0 where all views have the same features.

    Raises:
        ValueError: with fewer than two views.
    """
    if features.shape[1] < 2:
        raise ValueError(f"view_consistency: {features.shape[1]} views, expected at least 2")
    at_unit = unit(features)
    return (1 - (at_unit * np.roll(at_unit, -1, axis=1)).sum(-1)).mean(1)


def diversity(features: Float[np.ndarray, "S V d"]) -> float:
    """The mean cosine distance between two seeds' features of the same view, over all pairs of seeds.

    Raises:
        ValueError: with fewer than two seeds.
    """
    if len(features) < 2:
        raise ValueError(f"diversity: {len(features)} seeds, expected at least 2")
    first, second = np.triu_indices(len(features), 1)
    at_unit = unit(features)
    return float((1 - (at_unit[first] * at_unit[second]).sum(-1)).mean())


@dataclass(frozen=True)
class SaturationError:
    """How the CIELAB chroma of two sets of pixels differs: the difference of means (positive: over-saturated) and the
    1-Wasserstein distance of the distributions (never below the former's size). Both in units of CIELAB."""

    difference: float
    wasserstein: float


def saturation_error(found: Float[np.ndarray, "N 3"], reference: Float[np.ndarray, "M 3"]) -> SaturationError:
    """The chroma of an avatar's pixels beside that of the prior's own samples; sRGB in [0, 1].

    Raises:
        ValueError: if one of them has no pixels.
    """
    if min(len(found), len(reference)) == 0:
        raise ValueError("saturation_error: no pixels")
    ours, theirs = chroma(found), chroma(reference)
    return SaturationError(float(ours.mean() - theirs.mean()), float(wasserstein_distance(ours, theirs)))


def chroma(rgb: Float[np.ndarray, "*pixels 3"]) -> Float[np.ndarray, "*pixels"]:
    """CIELAB chroma of sRGB colours in [0, 1]."""
    lab = to_lab(rgb)
    return np.hypot(lab[..., 1], lab[..., 2])


def frechet_distance(first: Float[np.ndarray, "N d"], second: Float[np.ndarray, "M d"]) -> float:
    """The squared 2-Wasserstein distance of the Gaussians fitted to two sets of features (Dowson and Landau 1982; FID
    with other features than Inception's), in double precision.

    The covariances are shrunk towards a multiple of the identity (Ledoit and Wolf 2004), which keeps their trace, so
    that sets smaller than d give a finite, stable figure. It stays biased: two samples of one distribution are apart,
    the more so the fewer they are (a full covariance needs more than d of each). Compare figures of equally large sets
    only, and with that of two sets of the reference; ``kernel_distance`` has no such bias.

    Raises:
        ValueError: for a set of fewer than two.
    """
    _at_least_two("frechet_distance", len(first), len(second))
    (mean_a, cov_a), (mean_b, cov_b) = moments(first), moments(second)
    root = _root(cov_a)
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov_b @ root), 0, None)).sum()
    spread = np.trace(cov_a) + np.trace(cov_b) - 2 * cross
    return float(np.square(mean_a - mean_b).sum() + max(spread, 0.0))


def moments(features: Float[np.ndarray, "N d"]) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """Mean and Ledoit-Wolf covariance, in double precision."""
    values = np.asarray(features, np.float64)
    mean = values.mean(0)
    centred = values - mean
    count, width = centred.shape
    sample = centred.T @ centred / count
    target = np.trace(sample) / width * np.eye(width)
    dispersion = np.square(sample - target).sum()
    error = (np.square(np.square(centred).sum(1)).sum() / count - np.square(sample).sum()) / count
    weight = 0.0 if dispersion == 0 else min(max(error, 0.0) / dispersion, 1.0)
    return mean, (1 - weight) * sample + weight * target


def kernel_distance(first: Float[np.ndarray, "N d"], second: Float[np.ndarray, "M d"]) -> float:
    """The unbiased squared maximum mean discrepancy with the kernel (cosine + 1)^3 (Binkowski et al. 2018; KID's, of
    features at one length): 0 on average for two samples of one distribution, however few, so it can be negative.

    Raises:
        ValueError: for a set of fewer than two.
    """
    _at_least_two("kernel_distance", len(first), len(second))
    a, b = unit(first), unit(second)

    def within(x: Float[np.ndarray, "N d"]) -> float:
        values = (x @ x.T + 1) ** 3
        return float((values.sum() - np.trace(values)) / (len(x) * (len(x) - 1)))

    return within(a) + within(b) - 2 * float(((a @ b.T + 1) ** 3).mean())


def unit(features: Float[np.ndarray, "*batch d"]) -> Float[np.ndarray, "*batch d"]:
    """Features at unit length, in double precision; rows of zeros stay so."""
    values = np.asarray(features, np.float64)
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)


def _root(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    """The symmetric square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T


def _at_least_two(name: str, *counts: int) -> None:
    if min(counts) < 2:
        raise ValueError(f"{name}: a set of {min(counts)}, expected at least 2")
