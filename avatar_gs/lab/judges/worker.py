"""The judges' own process: networks that were trained on photographs of people, applied to images from stdin.

A script for another interpreter (``requirements.txt``): it must not import this package. MediaPipe (Apache-2.0) carries
its models in its wheel, face_recognition_models carries dlib's recogniser (CC0); nothing is downloaded. The protocol is
in ``process``.
"""

import importlib
import json
import math
import os
from collections.abc import Callable, Iterable
from functools import cache
from importlib.util import find_spec
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np

LEAST_SCORE = 0.5
"""MediaPipe's default score below which nothing is found."""
FULL = 1
"""The pose and hand models that the wheel carries; others would be downloaded."""

Results = list[Any]


def faces(images: np.ndarray) -> tuple[Results, None]:
    """The most certain face of each image: score and box (left, top, width, height in pixels), or None."""
    return [_face(image) for image in images], None


def meshes(images: np.ndarray) -> tuple[Results, None]:
    """The 468 points (x, y in pixels) of the fitted face mesh of each image, or None."""
    solution = _solution("face_mesh", "FaceMesh", static_image_mode=True, max_num_faces=1)
    found = [solution.process(image).multi_face_landmarks for image in images]
    return [_pixels(meshes[0].landmark, images) if meshes else None for meshes in found], None


def bodies(images: np.ndarray) -> tuple[Results, None]:
    """The 33 body landmarks (x, y in pixels, visibility) of each image, or None."""
    solution = _solution("pose", "Pose", static_image_mode=True, model_complexity=FULL)
    results: Results = []
    for image in images:
        found = solution.process(image).pose_landmarks
        if found is None:
            results.append(None)
        else:
            visibility = [float(point.visibility) for point in found.landmark]
            results.append({"points": _pixels(found.landmark, images), "visibility": visibility})
    return results, None


def hands(images: np.ndarray) -> tuple[Results, None]:
    """The hands of each image: side, score, and 21 points (x, y in pixels)."""
    solution = _solution("hands", "Hands", static_image_mode=True, max_num_hands=2, model_complexity=FULL)
    results: Results = []
    for image in images:
        found = solution.process(image)
        pairs = zip(found.multi_handedness or [], found.multi_hand_landmarks or [], strict=True)
        results.append(
            [
                {
                    # MediaPipe names sides as in a mirror
                    "side": {"Left": "right", "Right": "left"}[side.classification[0].label],
                    "score": float(side.classification[0].score),
                    "points": _pixels(points.landmark, images),
                }
                for side, points in pairs
            ]
        )
    return results, None


def silhouettes(images: np.ndarray) -> tuple[Results, np.ndarray]:
    """Probability of a person at each pixel, 0..255."""
    solution = _solution("selfie_segmentation", "SelfieSegmentation", model_selection=0)
    masks = np.zeros(images.shape[:3], np.uint8)
    for index, image in enumerate(images):
        masks[index] = (255 * np.clip(solution.process(image).segmentation_mask, 0, 1)).round()
    return [], masks


def identities(images: np.ndarray) -> tuple[Results, None]:
    """The recogniser's 128 features of the face that ``faces`` finds in each image, or None.

    Its authors find faces with dlib's own detector, which misses one in four renders of lifelike heads; where both find
    a face, the features of the two boxes differ by 0.1 or less.
    """
    corners, recogniser, dlib = _recogniser()
    results: Results = []
    for image in images:
        face = _face(image)
        if face is None:
            results.append(None)
        else:
            left, top, width, height = face["box"]
            box = dlib.rectangle(*(round(edge) for edge in (left, top, left + width, top + height)))
            results.append(list(recogniser.compute_face_descriptor(image, corners(image, box))))
    return results, None


JUDGES: dict[str, Callable[[np.ndarray], tuple[Results, np.ndarray | None]]] = {
    one.__name__: one for one in (faces, meshes, bodies, hands, silhouettes, identities)
}


@cache
def _solution(module: str, name: str, **options: Any) -> Any:
    if name in ("FaceDetection", "FaceMesh", "Pose", "Hands"):
        options["min_detection_confidence"] = LEAST_SCORE
    return getattr(importlib.import_module(f"mediapipe.python.solutions.{module}"), name)(**options)


@cache
def _recogniser() -> tuple[Any, Any, Any]:
    """Alignment by five points, recogniser, and their library. (dlib's 68 points are not free for every use.)"""
    dlib = importlib.import_module("dlib")
    # importing the package itself needs an old setuptools
    spec = find_spec("face_recognition_models")
    folder = Path((spec.submodule_search_locations or [""])[0] if spec else "") / "models"
    return (
        dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat")),
        dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat")),
        dlib,
    )


def _face(image: np.ndarray) -> dict[str, Any] | None:
    height, width = image.shape[:2]
    found = _solution("face_detection", "FaceDetection", model_selection=0).process(image).detections
    best = max(found or [], key=lambda face: face.score[0], default=None)
    if best is None:
        return None
    box = best.location_data.relative_bounding_box
    pixels = [box.xmin * width, box.ymin * height, box.width * width, box.height * height]
    return {"score": float(best.score[0]), "box": pixels}


def _pixels(points: Iterable[Any], images: np.ndarray) -> list[list[float]]:
    height, width = images.shape[1:3]
    return [[float(point.x) * width, float(point.y) * height] for point in points]


def versions() -> dict[str, str]:
    """Versions of the two libraries.

    Raises:
        ImportError: one is missing.
    """
    if find_spec("face_recognition_models") is None:
        raise ImportError("No module named 'face_recognition_models'")
    importlib.import_module("mediapipe.python.solutions")
    return {name: importlib.import_module(name).__version__ for name in ("mediapipe", "dlib")}


def serve(requests: BufferedIOBase, replies: BufferedIOBase) -> None:
    """Answer until the requests end."""

    def reply(message: dict[str, Any], array: np.ndarray | None = None) -> None:
        shape = None if array is None else array.shape
        replies.write(json.dumps(message | {"shape": shape}).encode() + b"\n")
        if array is not None:
            replies.write(array.tobytes())
        replies.flush()

    try:
        reply({"versions": versions()})
    except ImportError as error:
        reply({"missing": str(error)})
        return
    while line := requests.readline():
        request = json.loads(line)
        shape = tuple(request["shape"])
        images = np.frombuffer(requests.read(math.prod(shape)), np.uint8).reshape(shape)
        results, array = JUDGES[request["judge"]](images)
        reply({"results": results}, array)


if __name__ == "__main__":
    # libraries print to stdout: replies have a file of their own
    own = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(os.fdopen(0, "rb"), own)
