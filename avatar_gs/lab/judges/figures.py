"""Figures from what the judges find: fractions, landmarks near true joints, silhouettes, identities, faces kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from jaxtyping import Bool, Float

from avatar_gs.body.keypoints import BODY_POINTS
from avatar_gs.lab.judges.process import BodyLandmarks, Face, Images, Judges
from avatar_gs.lab.metrics.colours import wilson_interval

CLEAR_FACE = 0.7
"""Least score of a clear face. At MediaPipe's default of 0.5 the detector also takes hair seen from behind for one."""
SAME_PERSON = 0.6
"""Largest distance of two images of one person, as the recogniser's authors chose it."""
LIMBS = {
    "left_shoulder": 11, "right_shoulder": 12, "left_elbow": 13, "right_elbow": 14, "left_wrist": 15,
    "right_wrist": 16, "left_hip": 23, "right_hip": 24, "left_knee": 25, "right_knee": 26, "left_ankle": 27,
    "right_ankle": 28,
}  # fmt: skip
"""The joints that both skeletons have, with their indices in MediaPipe's landmarks."""
_OURS = [BODY_POINTS.index(name) for name in LIMBS]
_MEDIAPIPE = list(LIMBS.values())


@dataclass(frozen=True)
class Fraction:
    """A fraction of cases with its 95 % Wilson interval.

    Args:
        hits, cases: counts.
    """

    hits: int
    cases: int

    @property
    def value(self) -> float | None:
        """None without cases."""
        return self.hits / self.cases if self.cases else None

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound."""
        return wilson_interval(self.hits, self.cases)

    @classmethod
    def of(cls, outcomes: Sequence[bool]) -> "Fraction":
        """The fraction of true outcomes."""
        return cls(sum(outcomes), len(outcomes))


def is_clear(face: Face | None) -> bool:
    """Whether there is a face with a score of at least ``CLEAR_FACE``."""
    return face is not None and face.score >= CLEAR_FACE


def correct_joints(
    found: BodyLandmarks | None, joints: Float[np.ndarray, "18 2"], head_size: float, size: int
) -> tuple[int, int]:
    """Joints that landmarks are near to (PCKh at 0.5, Andriluka et al. 2014; here with the head's longer side).

    Occluded joints count, and the sides must not be exchanged.

    Args:
        found: None: all joints are missed.
        joints: OpenPose's 18 body points in pixels.
        head_size: longer side of the head in pixels.
        size: side of the image in pixels; joints outside are left out.

    Returns:
        Joints within half the head's size, and all joints inside the image.
    """
    true = joints[_OURS]
    inside = ((true >= 0) & (true < size)).all(1)
    if found is None:
        return 0, int(inside.sum())
    near = np.linalg.norm(found.points[_MEDIAPIPE] - true, axis=1) <= head_size / 2
    return int((near & inside).sum()), int(inside.sum())


def overlap(found: Bool[np.ndarray, "H W"], true: Bool[np.ndarray, "H W"]) -> float:
    """Intersection over union of two masks; 1 if both are empty."""
    union = int((found | true).sum())
    return int((found & true).sum()) / union if union else 1.0


def distance(first: Float[np.ndarray, "128"], second: Float[np.ndarray, "128"]) -> float:
    """The recogniser's distance of two faces: at most ``SAME_PERSON`` for one person."""
    return float(np.linalg.norm(first - second))


@dataclass(frozen=True)
class FacesKept:
    """Faces of images that an autoencoder's reconstructions keep.

    Args:
        kept: of the clear faces of the originals, those that are clear in the reconstructions.
        score: mean score in the originals with a clear face; None without any.
        kept_score: mean score in their reconstructions, where 0 is no face.
    """

    kept: Fraction
    score: float | None
    kept_score: float | None


def count_kept(originals: Sequence[Face | None], reconstructions: Sequence[Face | None]) -> FacesKept:
    """Compare the faces of the same images before and after reconstruction."""
    pairs = [
        (before, after)
        for before, after in zip(originals, reconstructions, strict=True)
        if before is not None and is_clear(before)
    ]
    if not pairs:
        return FacesKept(Fraction(0, 0), None, None)
    return FacesKept(
        Fraction.of([is_clear(after) for _, after in pairs]),
        fmean(before.score for before, _ in pairs),
        fmean(0.0 if after is None else after.score for _, after in pairs),
    )


def faces_kept(judges: Judges, originals: Images, reconstructions: Images) -> FacesKept:
    """How many faces survive an autoencoder: a prior can hardly paint what its decoder cannot.

    Args:
        judges: find the faces.
        originals: images, most of them of heads from the front.
        reconstructions: the same images encoded and decoded.
    """
    return count_kept(judges.faces(originals), judges.faces(reconstructions))
