"""How far an avatar after an edit is from the one before it, part by part."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool
from skimage.color import deltaE_ciede2000

from avatar_gs.lab.metrics.avatar import Pictures
from avatar_gs.lab.metrics.colours import SOLID
from avatar_gs.lab.metrics.truth import CLOSE_UP, DIRECTIONS, Truth
from avatar_gs.lab.world import rendering as pic
from avatar_gs.lab.world.measure import LEAST_PIXELS
from avatar_gs.lab.world.vocabulary import to_lab
from avatar_gs.types import Framing

BARE = {
    "face": (Framing.HEAD, (pic.SKIN, pic.EYE, pic.EYE_WHITE, pic.BROW, pic.MOUTH)),
    "skin": (Framing.BODY, (pic.SKIN,)),
}
"""What has no name of a colour and must stay all the same: the framing that it is seen in, and its part ids."""


def differences(before: Pictures, after: Pictures, was: Truth, becomes: Truth) -> dict[str, list[float]]:
    """By part, the mean CIEDE2000 between the two avatars (on grey) in every view that shows it. Only pixels count that
    are this part before the edit and after it."""
    first, second = to_lab(before.on_grey()), to_lab(after.on_grey())
    found: dict[str, list[float]] = {}
    for part, view, mask in _shown(was, becomes):
        found.setdefault(part, []).append(float(deltaE_ciede2000(first[view][mask], second[view][mask]).mean()))
    return found


def _shown(was: Truth, becomes: Truth) -> Iterator[tuple[str, int, Bool[np.ndarray, "S S"]]]:
    """Every part, view and mask of the pixels that show the part before and after, if there are enough of them."""
    for part in [part for part in CLOSE_UP if part in was.case.asked and part in becomes.case.asked]:
        for framing in (Framing.BODY, CLOSE_UP[part]):
            for direction in DIRECTIONS:
                view = was.stage.index(framing, direction)
                mask = was.mask(view, part) & becomes.mask(view, part)
                if mask.sum() >= LEAST_PIXELS:
                    yield part, view, mask
    for part, (framing, ids) in BARE.items():
        for direction in DIRECTIONS:
            view = was.stage.index(framing, direction)
            mask = was.covered(view, ids) & becomes.covered(view, ids)
            if mask.sum() >= LEAST_PIXELS:
                yield part, view, mask


def silhouette_overlap(before: Pictures, after: Pictures, truth: Truth) -> float:
    """Intersection over union of the two avatars' solid pixels, in the mean over the full-body views."""
    shares = []
    for direction in DIRECTIONS:
        view = truth.stage.index(Framing.BODY, direction)
        one, other = before.alpha[view] >= SOLID, after.alpha[view] >= SOLID
        shares.append(float((one & other).sum() / max((one | other).sum(), 1)))
    return float(np.mean(shares))
