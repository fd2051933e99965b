"""Metrics on features: retrieval, consistency of views, diversity of seeds, and distances of distributions.

Features need not be normalised, since cosines are used. Text features are those of a pool of captions; ``truth`` is the
index of each image's caption in the pool.
"""

import numpy as np
from jaxtyping import Float, Int


def r_precision(
    image_features: Float[np.ndarray, "N d"], text_features: Float[np.ndarray, "P d"], truth: Int[np.ndarray, " N"]
) -> float:
    """CLIP R-Precision (Park et al. 2021): fraction of images nearer to their caption than to any other of the pool.

    A tie is a miss, so that uninformative features score 0; captions must be distinct.

    Raises:
        ValueError: without images.
    """
    if len(image_features) == 0:
        raise ValueError("r_precision: no images")
    cosines = unit(image_features) @ unit(text_features).T
    own = cosines[np.arange(len(truth)), truth]
    others = cosines.copy()
    others[np.arange(len(truth)), truth] = -np.inf
    return float((own > others.max(1)).mean())


def similarities(
    image_features: Float[np.ndarray, "N d"], text_features: Float[np.ndarray, "P d"], truth: Int[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """Cosine similarity of each image and its caption."""
    return (unit(image_features) * unit(text_features)[truth]).sum(-1)


def mean_similarity(
    image_features: Float[np.ndarray, "N d"], text_features: Float[np.ndarray, "P d"], truth: Int[np.ndarray, " N"]
) -> float:
    """Mean cosine similarity of images and their captions: CLIP score without its factor."""
    return float(similarities(image_features, text_features, truth).mean())


def view_consistency(features: Float[np.ndarray, "A V d"]) -> Float[np.ndarray, " A"]:
    """Mean cosine distance of each avatar's neighbouring views in a closed orbit; 0 if all views have equal features.

    Raises:
        ValueError: with fewer than two views.
    """
    if features.shape[1] < 2:
        raise ValueError(f"view_consistency: {features.shape[1]} views, expected at least 2")
    at_unit = unit(features)
    return (1 - (at_unit * np.roll(at_unit, -1, axis=1)).sum(-1)).mean(1)


def diversity(features: Float[np.ndarray, "S V d"]) -> float:
    """Mean cosine distance between seeds in the same view, over all pairs of seeds.

    Raises:
        ValueError: with fewer than two seeds.
    """
    if len(features) < 2:
        raise ValueError(f"diversity: {len(features)} seeds, expected at least 2")
    first, second = np.triu_indices(len(features), 1)
    at_unit = unit(features)
    return float((1 - (at_unit[first] * at_unit[second]).sum(-1)).mean())


def frechet_distance(first: Float[np.ndarray, "N d"], second: Float[np.ndarray, "M d"]) -> float:
    """Squared 2-Wasserstein distance of Gaussians fitted to two sets of features (Dowson and Landau 1982), as in FID.

    Covariances are shrunk towards a multiple of the identity (Ledoit and Wolf 2004) for stability with fewer samples
    than dimensions. The distance is biased upwards for small sets: compare sets of equal size only, and with the
    distance between two sets of the reference; ``kernel_distance`` is unbiased.

    Raises:
        ValueError: for a set of fewer than two.
    """
    _at_least_two("frechet_distance", len(first), len(second))
    (mean_a, cov_a), (mean_b, cov_b) = moments(first), moments(second)
    root = _root(cov_a)
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov_b @ root), 0, None)).sum()
    trace = np.trace(cov_a) + np.trace(cov_b) - 2 * cross
    return float(np.square(mean_a - mean_b).sum() + max(trace, 0.0))


def moments(features: Float[np.ndarray, "N d"]) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """Mean and Ledoit-Wolf covariance."""
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
    """Unbiased squared maximum mean discrepancy of normalised features with the kernel (cosine + 1)^3, as in KID
    (Binkowski et al. 2018). Its mean is 0 for two samples of one distribution, so it can be negative.

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
    """Features normalised to unit norm, in double precision; zero vectors stay zero."""
    values = np.asarray(features, np.float64)
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)


def _root(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    """Symmetric square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T


def _at_least_two(name: str, *counts: int) -> None:
    if min(counts) < 2:
        raise ValueError(f"{name}: a set of {min(counts)}, expected at least 2")
