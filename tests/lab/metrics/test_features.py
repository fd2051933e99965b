"""The measures against closed forms."""

import numpy as np
import pytest

from avatar_gs.lab.metrics.colours import chroma, saturation_error
from avatar_gs.lab.metrics.features import (
    diversity,
    frechet_distance,
    kernel_distance,
    mean_similarity,
    moments,
    r_precision,
    view_consistency,
)


def directions(*degrees: float) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], -1)


def test_r_precision_counts_images_nearest_to_their_own_caption():
    texts = directions(0, 90, 180)
    images = 3.0 * directions(10, 100, 80)  # of lengths that must not matter
    assert r_precision(images, texts, np.array([0, 1, 2])) == pytest.approx(2 / 3)
    assert r_precision(images, texts, np.array([0, 1, 1])) == 1.0


def test_features_that_say_nothing_find_no_caption():
    same = np.ones((4, 3))
    assert r_precision(same, same, np.arange(4)) == 0.0


def test_mean_similarity_is_the_cosine():
    texts = directions(0, 90)
    found = mean_similarity(2 * directions(60, 90, 0), texts, np.array([0, 1, 1]))
    assert found == pytest.approx((0.5 + 1 + 0) / 3)


def test_view_consistency_is_a_closed_orbit():
    features = np.stack([directions(0, 60, 120), directions(7, 7, 7)])
    found = view_consistency(features)
    assert found == pytest.approx([1 - (0.5 + 0.5 - 0.5) / 3, 0.0])
    with pytest.raises(ValueError, match="2"):
        view_consistency(features[:, :1])


def test_diversity_compares_seeds_in_the_same_view_only():
    alike = np.stack([directions(0, 90)] * 3)
    assert diversity(alike) == pytest.approx(0.0)
    apart = np.stack([directions(0, 90), directions(60, 150), directions(120, 90)])
    pairs = [0.5, 0.5, 1.5, 0.0, 0.5, 0.5]
    assert diversity(apart) == pytest.approx(np.mean(pairs))
    with pytest.raises(ValueError, match="2"):
        diversity(alike[:1])


def test_saturation_error_has_a_sign_and_sees_a_standard_deviation():
    grey, red = np.array([[0.5, 0.5, 0.5]]), np.array([[1.0, 0.0, 0.0]])
    strong = float(chroma(red)[0])
    assert strong == pytest.approx(104.55, abs=0.05)  # sRGB's red in CIELAB (D65)
    over, under = saturation_error(red, grey), saturation_error(grey, red)
    assert over.difference == pytest.approx(strong, abs=0.1)
    assert under.difference == pytest.approx(-over.difference)
    mixed = saturation_error(np.concatenate([grey, red]), np.concatenate([grey, grey, red, red]))
    assert (mixed.difference, mixed.wasserstein) == pytest.approx((0, 0))
    middle = np.array([[0.8, 0.35, 0.35]])
    mixed = saturation_error(np.concatenate([grey, red]), middle)
    assert mixed.wasserstein > abs(mixed.difference)


def test_frechet_distance_of_a_shift_and_of_a_scale():
    rng = np.random.default_rng(0)
    for count in (5, 400):  # fewer and more than the features' width
        features = rng.normal(size=(count, 12)) * np.arange(1, 13)
        shift = rng.normal(size=12)
        assert frechet_distance(features, features) == pytest.approx(0, abs=1e-5)
        assert frechet_distance(features, features + shift) == pytest.approx(np.square(shift).sum())
        centred = features - features.mean(0)
        scaled = frechet_distance(centred, 3 * centred)
        assert scaled == pytest.approx(4 * centred.var(0).sum())  # (3 - 1)^2 tr(C), which shrinkage keeps


def test_frechet_distance_is_symmetric_and_finite_for_few():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(3, 40)), rng.normal(size=(4, 40)) + 1
    found = frechet_distance(first, second)
    assert found == pytest.approx(frechet_distance(second, first))
    assert found > np.square(first.mean(0) - second.mean(0)).sum() - 1e-9
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(first[:1], second)


def test_shrinkage_is_strong_for_few_and_fades_for_many():
    rng = np.random.default_rng(2)
    true = np.diag([1.0, 4.0, 9.0, 16.0])

    def error(count: int) -> tuple[float, float]:
        values = rng.normal(size=(count, 4)) @ np.sqrt(true)
        sample = np.cov(values.T, bias=True)
        return float(np.linalg.norm(moments(values)[1] - sample)), float(np.linalg.norm(moments(values)[1] - true))

    few, many = error(6), error(20_000)
    assert few[0] > 20 * many[0]
    assert many[1] < 0.5


def test_kernel_distance_is_unbiased_where_the_frechet_distance_is_not():
    rng = np.random.default_rng(3)
    same = [kernel_distance(rng.normal(size=(8, 20)), rng.normal(size=(8, 20))) for _ in range(300)]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(len(same))
    assert np.mean([frechet_distance(rng.normal(size=(8, 20)), rng.normal(size=(8, 20))) for _ in range(50)]) > 1
    apart = kernel_distance(rng.normal(size=(8, 20)), rng.normal(size=(8, 20)) + 1)
    assert apart > max(same)
