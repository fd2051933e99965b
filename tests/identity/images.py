"""Images for the tests of photos, and helpers to load them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avatar_gs.core.errors import UserError
from avatar_gs.identity import pixels
from avatar_gs.identity.photos import load_photos

SIZE = 32
GREY = pixels.GREY / 255


def scene(width: int = 96, height: int = 80, seed: int = 0) -> Image.Image:
    """A smooth image with red at the left, green at the top and, by ``seed``, some blue."""
    x, y = np.meshgrid(np.linspace(1, 0, width), np.linspace(0, 1, height))
    values = np.stack([x, 1 - y, np.full_like(x, (seed * 37 % 100) / 100)], -1)
    return Image.fromarray((values * 255).round().astype(np.uint8))


def read_one(path: Path, size: int = SIZE, **options) -> np.ndarray:
    photos = load_photos(str(path), size, **options)
    assert photos.skipped == ()
    assert photos.images.shape == (1, size, size, 3)
    return photos.images[0].numpy()


def expected(image: Image.Image, size: int = SIZE) -> np.ndarray:
    return np.asarray(pixels.square(image, size)) / 255


def refuses(source: str, *words: str, **options) -> None:
    with pytest.raises(UserError) as caught:
        load_photos(source, SIZE, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in ("photos", *words):
        assert word in message, message
