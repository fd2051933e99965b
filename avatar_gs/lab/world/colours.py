"""Which named colour a picture shows: nearest in CIELAB, after dividing out the mini world's shading."""

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2lab

from avatar_gs.lab.world.picture import AMBIENT
from avatar_gs.lab.world.vocabulary import CLOTHES, HAIR, RGB

SHADING = (1 + AMBIENT) / 2
"""The mean shading of a lit surface: pictures are this share of their albedo."""


def to_lab(rgb: NDArray[np.floating]) -> NDArray[np.float64]:
    """CIELAB (D65) of sRGB colours ``[..., 3]`` in [0, 1]."""
    return rgb2lab(np.asarray(rgb, np.float64)[..., None, :])[..., 0, :]


def albedo(rgb: NDArray[np.floating]) -> NDArray[np.float64]:
    """Colours in [0, 1] with the mean shading divided out."""
    return np.clip(np.asarray(rgb, np.float64) / SHADING, 0, 1)


def paint_of(name: str) -> tuple[float, float, float]:
    """The palette's colour of a name, in 0..255."""
    red, green, blue = (CLOTHES | HAIR)[name]
    return float(red), float(green), float(blue)


def table(part: str) -> dict[str, RGB]:
    """The colour names that a part can have."""
    return HAIR if part == "hair" else CLOTHES


def nearest_names(rgb: NDArray[np.floating], part: str) -> NDArray:
    """The nearest colour name of each pixel ``[..., 3]`` in [0, 1], of the names that ``part`` can have."""
    names = np.array(list(table(part)))
    reference = to_lab(np.array([table(part)[name] for name in names]) / 255)
    distance = np.linalg.norm(to_lab(albedo(rgb))[..., None, :] - reference, axis=-1)
    return np.asarray(names[distance.argmin(-1)])
