"""The measures against published numbers and closed forms."""

import numpy as np
import pytest

from avatar_gs.lab.metrics import colours as metrics
from avatar_gs.lab.world.vocabulary import CLOTHES, HAIR, SHADING


@pytest.mark.parametrize(
    ("hits", "cases", "bound"),
    [(10, 10, 0.7225), (9, 10, 0.5958), (0, 10, 0.0), (68, 72, 0.8657), (5, 10, 0.2366), (0, 0, 0.0)],
)
def test_wilson_lower_bound(hits, cases, bound):
    assert metrics.wilson_lower_bound(hits, cases) == pytest.approx(bound, abs=5e-4)


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [  # Sharma, Wu and Dalal 2005, table 1, pairs 1, 7, 17, 24, 32 and 34
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((50.0, 2.5, 0.0), (50.0, 3.2592, 0.335), 1.0),
        ((90.9257, -0.5406, -0.9208), (88.6381, -0.8985, -0.7239), 1.5381),
        ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_colour_difference_is_ciede2000(first, second, difference, monkeypatch):
    colours = iter([np.array(first), np.array(second)])
    monkeypatch.setattr(metrics, "to_lab", lambda rgb: next(colours))
    assert metrics.colour_difference([0.0, 0.0, 0.0], "red", "shirt") == pytest.approx(difference, abs=1e-4)


def test_a_shaded_palette_colour_is_exact():
    for part, table in (("shirt", CLOTHES), ("hair", HAIR)):
        for name, rgb in table.items():
            shown = (np.array(rgb) / 255 * SHADING).tolist()
            assert metrics.colour_difference(shown, name, part) == pytest.approx(0, abs=1e-6)
            ratio = metrics.chroma_ratio(shown, name, part)
            assert ratio is None if name in ("black", "white", "grey") else ratio == pytest.approx(1)


def test_half_the_saturation_is_about_half_the_chroma():
    red = np.array(CLOTHES["red"]) / 255 * SHADING
    faded = (0.5 * red + 0.5 * red.mean()).tolist()
    ratio = metrics.chroma_ratio(faded, "red", "shirt")
    assert ratio is not None and 0.35 < ratio < 0.65
    assert metrics.colour_difference(faded, "red", "shirt") > 10


def test_pixels_are_named_and_missing_ones_are_wrong():
    mask = np.zeros((8, 10), bool)
    mask[:, 2:] = True
    rgb, alpha = np.zeros((8, 10, 3)), np.ones((8, 10))
    rgb[:] = np.array(CLOTHES["blue"]) / 255 * SHADING
    rgb[0] = np.array(CLOTHES["red"]) / 255 * SHADING
    alpha[1], rgb[1] = 0.2, rgb[1] * 0.2
    alpha[2], rgb[2] = 0.7, rgb[2] * 0.7  # solid enough, and as blue as the others once alpha is divided out
    view = metrics.name_pixels(rgb, alpha, mask, "shirt", "upper", "back")
    assert view.names == {"blue": 48, "red": 8, metrics.NOTHING: 8} and view.pixels == 64
    assert view.fraction("blue") == 0.75 and not view.right("blue")
    assert view.fraction("green") == 0
    assert view.median == pytest.approx(rgb[-1, -1].tolist())
    nothing = metrics.name_pixels(rgb, np.zeros_like(alpha), mask, "shirt", "upper", "back")
    assert nothing.names == {metrics.NOTHING: 64} and nothing.median is None and nothing.fraction("blue") == 0


def test_four_pixels_of_five_are_enough():
    view = metrics.PartView("body", "front", 10, {"red": 8, "grey": 2}, [0.0, 0.0, 0.0])
    assert view.right("red") and not view.right("grey")


def test_overlap_and_stray_alpha():
    true, found, domain = np.zeros((3, 20, 20), bool)
    true[5:15, 5:15], found[5:15, 10:20], domain[:, :18] = True, True, True
    assert metrics.overlap(found, true, domain) == (50, 130)
    alpha = np.zeros((20, 20))
    alpha[10, 17] = 1.0  # 3 pixels from the silhouette
    alpha[10, 19] = 0.5  # 5 pixels
    assert metrics.stray_alpha(alpha, true, 4.0) == pytest.approx(0.005)
    assert metrics.stray_alpha(alpha, true, 2.0) == pytest.approx(0.015)
