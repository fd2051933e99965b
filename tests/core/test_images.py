"""Labelled grids of images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from avatar_gs.core.images import contact_sheet, to_uint8, write_png

RED, GREEN, BLUE = ([200, 0, 0], [0, 200, 0], [0, 0, 200])


def plain(color: list[int], height: int = 10, width: int = 10) -> np.ndarray:
    return np.broadcast_to(np.array(color, np.uint8), (height, width, 3)).copy()


def test_every_image_lies_in_its_cell() -> None:
    grid = contact_sheet([[plain(RED), plain(GREEN)], [plain(BLUE), None]], size=64)
    gap = 6
    for (row, column), color in {(0, 0): RED, (0, 1): GREEN, (1, 0): BLUE, (1, 1): [236, 236, 238]}.items():
        y, x = gap + row * (64 + gap), gap + column * (64 + gap)
        assert (grid[y : y + 64, x : x + 64] == color).all()
        assert (grid[y - 1] == 255).all()
    assert grid.shape == (gap + 2 * (64 + gap), gap + 2 * (64 + gap), 3)


def test_images_keep_their_shape() -> None:
    grid = contact_sheet([[plain(RED, 32, 64), plain(GREEN, 64, 32)]], size=64)
    red, green = (grid == RED).all(-1), (grid == GREEN).all(-1)
    assert [np.ptp(axis) + 1 for axis in np.nonzero(red)] == [64, 128]
    assert [np.ptp(axis) + 1 for axis in np.nonzero(green)] == [64, 32]


def test_labels_are_drawn_outside_the_images() -> None:
    bare = contact_sheet([[plain(RED)], [plain(BLUE)]], size=64)
    labelled = contact_sheet(
        [[plain(RED)], [plain(BLUE)]], size=64, row_labels=["front", "b" * 500], column_labels=["rgb"], title="ein Mann"
    )
    assert labelled.shape[0] > bare.shape[0]
    assert bare.shape[1] < labelled.shape[1] < 4 * 64
    assert (labelled == RED).all(-1).sum() == (labelled == BLUE).all(-1).sum() == 64 * 64
    left = labelled[:, : labelled.shape[1] - 64 - 12]
    assert (left < 128).all(-1).any()


def test_an_empty_sheet_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one cell"):
        contact_sheet([[]])


def test_bytes_of_images_round_and_clamp() -> None:
    grey = torch.tensor([[[0.0], [0.5], [2.0], [-1.0]]])
    assert to_uint8(grey)[0].tolist() == [[0] * 3, [128] * 3, [255] * 3, [0] * 3]


def test_png_holds_the_image(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    write_png(tmp_path / "deep" / "p.png", image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "deep" / "p.png")), image)
