"""Similarity of real faces by OpenCV's face recognition, with weights from the user.

The two networks are from the OpenCV Zoo: YuNet detects faces (MIT) and SFace recognises them (Apache-2.0; its training
data are not documented there). Nothing is downloaded.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from avatar_gs.core.errors import UserError, first_line

ZOO = "https://github.com/opencv/opencv_zoo (models/face_detection_yunet and models/face_recognition_sface)"
DETECTOR, RECOGNISER = "face_detection_yunet", "face_recognition_sface"
SAME_PERSON = 0.363
"""Minimum cosine similarity of one person (OpenCV's documentation of FaceRecognizerSF, from tests on LFW)."""
LEAST_SCORE = 0.6
"""YuNet's score threshold: below its default of 0.9, since renders are softer than photos."""


@dataclass(frozen=True)
class Faces:
    """Features of the most certain face of an image."""

    detector: Any
    recogniser: Any

    def embedding(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, " d"] | None:
        """Normalised features of the face; None if there is none. The dot product is the cosine similarity."""
        bgr = np.ascontiguousarray(image[..., ::-1])
        self.detector.setInputSize((bgr.shape[1], bgr.shape[0]))
        _, found = self.detector.detect(bgr)
        if found is None or len(found) == 0:
            return None
        best = found[int(np.asarray(found)[:, -1].argmax())]
        features = np.asarray(self.recogniser.feature(self.recogniser.alignCrop(bgr, best)), np.float64).ravel()
        return features / max(float(np.linalg.norm(features)), 1e-12)


def load_faces(folder: str) -> Faces | None:
    """Load the two networks from ``folder``; None if it is "".

    Raises:
        UserError: if one is missing or damaged, or this OpenCV has no face recognition.
    """
    if not folder:
        return None
    files = [_find(Path(folder).expanduser(), name) for name in (DETECTOR, RECOGNISER)]
    if not hasattr(cv2, "FaceDetectorYN") or not hasattr(cv2, "FaceRecognizerSF"):
        raise UserError(
            f"evaluate.faces={folder}: OpenCV {cv2.__version__} has no face recognition: install 4.8 or later"
        )
    try:
        detector = cv2.FaceDetectorYN.create(str(files[0]), "", (320, 320), LEAST_SCORE)
        return Faces(detector, cv2.FaceRecognizerSF.create(str(files[1]), ""))
    except cv2.error as error:
        reason = first_line(error)
        raise UserError(
            f"evaluate.faces={folder}: OpenCV cannot read the networks there ({reason}): fetch them again from {ZOO}"
        ) from error


def _find(folder: Path, name: str) -> Path:
    found = sorted(folder.glob(f"{name}*.onnx"))
    if not found:
        raise UserError(f"evaluate.faces={folder}: no {name}*.onnx there; fetch it from {ZOO}")
    return found[0]
