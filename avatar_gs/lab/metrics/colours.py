"""Metrics on pixels: named colours of parts, colour differences, saturation, overlap; and a confidence bound."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from scipy.stats import wasserstein_distance
from skimage.color import deltaE_ciede2000

from avatar_gs.lab.world.vocabulary import SHADING, SKIN, albedo, nearest_names, table, to_lab

RIGHT_SHARE = 0.8
"""A part is right in a view if its named colour is the nearest for at least this fraction of its pixels."""
SOLID = 0.5
"""Minimum alpha of a pixel of the avatar."""
LEAST_CHROMA = 15.0
"""Colours with less CIELAB chroma are grey and have no chroma ratio."""
NOTHING = "nothing"
"""Name of a pixel that the avatar does not cover."""

Image = Float[np.ndarray, "H W 3"]
Mask = Bool[np.ndarray, "H W"]


@dataclass(frozen=True)
class PartView:
    """The colours of an avatar on the true pixels of one part in one view.

    Args:
        pixels: number of true pixels.
        names: number of pixels by nearest colour name.
        median: sRGB in [0, 1]; None if the avatar covers none of the pixels.
    """

    framing: str
    direction: str
    pixels: int
    names: dict[str, int]
    median: list[float] | None

    @property
    def view(self) -> str:
        return f"{self.framing}/{self.direction}"

    def fraction(self, name: str) -> float:
        """Fraction of the true pixels whose nearest named colour is ``name``."""
        return self.names.get(name, 0) / self.pixels

    def right(self, name: str) -> bool:
        return self.fraction(name) >= RIGHT_SHARE


def name_pixels(
    rgb: Image, alpha: Float[np.ndarray, "H W"], mask: Mask, part: str, framing: str, direction: str
) -> PartView:
    """The colour names of the pixels of a non-empty ``mask``; ``rgb`` is rendered on black (premultiplied)."""
    solid = mask & (alpha >= SOLID)
    colours = np.clip(rgb[solid] / alpha[solid][:, None], 0, 1)
    names, counts = np.unique(nearest_names(colours, part), return_counts=True) if len(colours) else ([], [])
    found = {str(name): int(count) for name, count in zip(names, counts, strict=True)}
    missing = int(mask.sum()) - len(colours)
    if missing:
        found[NOTHING] = missing
    median = np.median(colours, 0).tolist() if len(colours) else None
    return PartView(framing, direction, int(mask.sum()), found, median)


def colour_difference(rgb: list[float], name: str, part: str) -> float:
    """CIEDE2000 (Sharma et al. 2005) between a colour in [0, 1] and a palette colour with the images' mean shading."""
    return delta_e(np.array(rgb), _shaded(name, part))


def chroma_ratio(rgb: list[float], name: str, part: str) -> float | None:
    """CIELAB chroma of a colour relative to the shaded palette colour; None if that is grey."""
    wanted = float(chroma(_shaded(name, part)))
    return None if wanted < LEAST_CHROMA else float(chroma(np.array(rgb))) / wanted


def delta_e(found: Float[np.ndarray, "3"], true: Float[np.ndarray, "3"]) -> float:
    """CIEDE2000 between two colours in [0, 1]."""
    return float(deltaE_ciede2000(to_lab(found), to_lab(true)))


def colour_name(rgb: Float[np.ndarray, "3"], part: str) -> str:
    """The nearest colour name of a part (or "skin"), with the mean shading divided out."""
    names = SKIN if part == "skin" else table(part)
    distance = np.linalg.norm(to_lab(np.array(list(names.values())) / 255) - to_lab(albedo(rgb)), axis=-1)
    return list(names)[int(distance.argmin())]


@dataclass(frozen=True)
class SaturationError:
    """Difference in CIELAB chroma between two sets of pixels: difference of means (positive: over-saturated) and
    1-Wasserstein distance of the distributions, which is at least its magnitude."""

    difference: float
    wasserstein: float


def saturation_error(found: Float[np.ndarray, "N 3"], reference: Float[np.ndarray, "M 3"]) -> SaturationError:
    """The chroma of an avatar's pixels compared with that of the prior's samples; sRGB in [0, 1].

    Raises:
        ValueError: if one set is empty.
    """
    if min(len(found), len(reference)) == 0:
        raise ValueError("saturation_error: no pixels")
    ours, theirs = chroma(found), chroma(reference)
    return SaturationError(float(ours.mean() - theirs.mean()), float(wasserstein_distance(ours, theirs)))


def chroma(rgb: Float[np.ndarray, "*pixels 3"]) -> Float[np.ndarray, "*pixels"]:
    """CIELAB chroma of sRGB colours in [0, 1]."""
    lab = to_lab(rgb)
    return np.asarray(np.hypot(lab[..., 1], lab[..., 2]))


def _shaded(name: str, part: str) -> Float[np.ndarray, "3"]:
    return np.array(table(part)[name]) / 255 * SHADING


def overlap(found: Mask, true: Mask, domain: Mask) -> tuple[int, int]:
    """Pixels of the intersection and of the union of two masks within ``domain``."""
    return int((found & true & domain).sum()), int(((found | true) & domain).sum())


def stray_alpha(alpha: Float[np.ndarray, "H W"], silhouette: Mask, margin: float) -> float:
    """Sum of alpha more than ``margin`` pixels from the silhouette, relative to the silhouette's area."""
    far = np.asarray(distance_transform_edt(~silhouette)) > margin
    return float(alpha[far].sum() / silhouette.sum())


def wilson_lower_bound(hits: int, cases: int, z: float = 1.959964) -> float:
    """Lower bound of Wilson's score interval of a fraction (95 % by default); 0 without cases."""
    if cases == 0:
        return 0.0
    fraction = hits / cases
    centre = fraction + z**2 / (2 * cases)
    half_width = z * math.sqrt(fraction * (1 - fraction) / cases + z**2 / (4 * cases**2))
    return max(0.0, (centre - half_width) / (1 + z**2 / cases))


def wilson_interval(hits: int, cases: int) -> tuple[float, float]:
    """Bounds of the 95 % Wilson score interval of a fraction; (0, 1) without cases."""
    return wilson_lower_bound(hits, cases), 1 - wilson_lower_bound(cases - hits, cases)
