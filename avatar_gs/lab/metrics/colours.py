"""Measures on pixels and counts: right colours, colour differences, overlap, and how sure a share is."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from skimage.color import deltaE_ciede2000

from avatar_gs.lab.world.vocabulary import SHADING, nearest_names, table, to_lab

RIGHT_SHARE = 0.8
"""A part is right in a view when this share of its pixels has the named colour as the nearest."""
SOLID = 0.5
"""Pixels of at least this alpha belong to the avatar."""
LEAST_CHROMA = 15.0
"""Colours of less CIELAB chroma count as grey: their chroma ratio says nothing."""
NOTHING = "nothing"
"""The name of a pixel that the avatar leaves empty."""

Picture = Float[np.ndarray, "H W 3"]
Mask = Bool[np.ndarray, "H W"]


@dataclass(frozen=True)
class PartView:
    """One part of an avatar in one view: how many of its true pixels have which name, and their median colour.

    ``median`` is sRGB in [0, 1], None where the avatar leaves all of the part's pixels empty.
    """

    framing: str
    direction: str
    pixels: int
    names: dict[str, int]
    median: list[float] | None

    @property
    def view(self) -> str:
        return f"{self.framing}/{self.direction}"

    def share(self, name: str) -> float:
        """The share of the part's true pixels whose nearest named colour is ``name``."""
        return self.names.get(name, 0) / self.pixels

    def right(self, name: str) -> bool:
        return self.share(name) >= RIGHT_SHARE


def name_pixels(
    rgb: Picture, alpha: Float[np.ndarray, "H W"], mask: Mask, part: str, framing: str, direction: str
) -> PartView:
    """What the pixels of ``mask`` look like. ``rgb`` is drawn on black (premultiplied); ``mask`` must not be empty."""
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
    """CIEDE2000 (Sharma et al. 2005) between a colour in [0, 1] and the palette's, shaded as pictures are."""
    return float(deltaE_ciede2000(to_lab(np.array(rgb)), to_lab(_shaded(name, part))))


def chroma_ratio(rgb: list[float], name: str, part: str) -> float | None:
    """CIELAB chroma of a colour as a share of the shaded palette's; None where the palette's is grey."""
    wanted = _chroma(_shaded(name, part))
    return None if wanted < LEAST_CHROMA else _chroma(np.array(rgb)) / wanted


def _shaded(name: str, part: str) -> Float[np.ndarray, "3"]:
    return np.array(table(part)[name]) / 255 * SHADING


def _chroma(rgb: Float[np.ndarray, "3"]) -> float:
    return float(np.hypot(*to_lab(rgb)[1:]))


def overlap(found: Mask, true: Mask, domain: Mask) -> tuple[int, int]:
    """Pixels of the intersection and of the union of two masks within ``domain``."""
    return int((found & true & domain).sum()), int(((found | true) & domain).sum())


def stray_alpha(alpha: Float[np.ndarray, "H W"], silhouette: Mask, margin: float) -> float:
    """Alpha farther than ``margin`` pixels from the silhouette, summed, as a share of the silhouette's pixels."""
    far = np.asarray(distance_transform_edt(~silhouette)) > margin
    return float(alpha[far].sum() / silhouette.sum())


def wilson_lower_bound(hits: int, cases: int, z: float = 1.959964) -> float:
    """The lower end of Wilson's score interval of a share (95 % by default); 0 without cases."""
    if cases == 0:
        return 0.0
    share = hits / cases
    centre = share + z**2 / (2 * cases)
    spread = z * math.sqrt(share * (1 - share) / cases + z**2 / (4 * cases**2))
    return max(0.0, (centre - spread) / (1 + z**2 / cases))
