"""Face landmarks of the free body: the 68 points of OpenPose's face (iBUG 300-W), projected onto its triangles.

Positions are measured on the free body in a frontal view, relative to the midpoint of the eyes, in units of their
distance: x to the avatar's left, y up. Only the left half is listed; the right half mirrors it.
"""

import numpy as np
from jaxtyping import Float, Int

# Left half of the jaw line from the chin to the ear, without the chin.
_CHIN = (0.0, -1.71)
_JAW = [(0.26, -1.69), (0.50, -1.60), (0.70, -1.46), (0.86, -1.27)]
_JAW += [(0.97, -1.03), (1.05, -0.72), (1.09, -0.40), (1.12, -0.08)]
_BROW = [(0.22, 0.20), (0.39, 0.27), (0.57, 0.29), (0.74, 0.25), (0.90, 0.15)]  # from the middle outwards
_BRIDGE = [(0.0, 0.02), (0.0, -0.20), (0.0, -0.41), (0.0, -0.62)]
_NOSTRIL = [(0.13, -0.765), (0.255, -0.75)]
_SEPTUM = (0.0, -0.79)
# From the inner corner over the upper lid to the outer corner and back under.
_EYE = [(0.33, -0.05), (0.45, 0.055), (0.60, 0.055), (0.735, -0.02), (0.62, -0.105), (0.44, -0.105)]
_LIP_TOP, _UPPER_LIP = (0.0, -1.04), [(0.10, -1.02), (0.24, -1.06), (0.385, -1.165)]
_LIP_BOTTOM, _LOWER_LIP = (0.0, -1.355), [(0.11, -1.34), (0.24, -1.28)]
_MOUTH_TOP, _MOUTH_UPPER = (0.0, -1.13), [(0.15, -1.125), (0.33, -1.15)]
_MOUTH_BOTTOM, _MOUTH_LOWER = (0.0, -1.17), [(0.15, -1.165)]

Points = list[tuple[float, float]]


def _right(points: Points) -> Points:
    return [(-x, y) for x, y in points]


def _inner_targets() -> Points:
    """The 51 inner points in SMPL-X's and iBUG's order."""
    brows = _right(_BROW)[::-1] + _BROW
    nose = [*_BRIDGE, *_right(_NOSTRIL)[::-1], _SEPTUM, *_NOSTRIL]
    outer_corner_first = [3, 2, 1, 0, 5, 4]
    eyes = [_right(_EYE)[k] for k in outer_corner_first] + _EYE
    lips = [*_right(_UPPER_LIP)[::-1], _LIP_TOP, *_UPPER_LIP]
    lips += [*_LOWER_LIP[::-1], _LIP_BOTTOM, *_right(_LOWER_LIP)]
    mouth = [*_right(_MOUTH_UPPER)[::-1], _MOUTH_TOP, *_MOUTH_UPPER]
    mouth += [*_MOUTH_LOWER[::-1], _MOUTH_BOTTOM, *_right(_MOUTH_LOWER)]
    return brows + nose + eyes + lips + mouth


def face_landmarks(
    vertices: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
    right_eye: Float[np.ndarray, "3"],
    left_eye: Float[np.ndarray, "3"],
) -> tuple[Int[np.ndarray, " 68"], Float[np.ndarray, "68 3"]]:
    """Find the landmarks on the skin.

    Args:
        vertices: of a body that faces +z, metres.
        faces: of the skin, without eyeballs.
        right_eye, left_eye: centres of the eyeballs.

    Returns:
        Triangles and barycentric coordinates of the 51 inner landmarks and of the jaw line from the right ear.
    """
    targets = np.array(_inner_targets() + _right(_JAW)[::-1] + [_CHIN] + _JAW)
    centre, unit = (right_eye + left_eye) / 2, np.linalg.norm(left_eye - right_eye)
    hits = [_frontmost(vertices, faces, centre[:2] + unit * target) for target in targets]
    return np.array([face for face, _ in hits]), np.array([coordinates for _, coordinates in hits])


def _frontmost(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], point: Float[np.ndarray, "2"]
) -> tuple[int, Float[np.ndarray, "3"]]:
    """The first triangle on a ray along -z through ``point`` (x, y), and the barycentric coordinates of the hit."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    u, v, w = (b - a)[:, :2], (c - a)[:, :2], point - a[:, :2]
    area = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        second = (w[:, 0] * v[:, 1] - w[:, 1] * v[:, 0]) / area
        third = (u[:, 0] * w[:, 1] - u[:, 1] * w[:, 0]) / area
        coordinates = np.stack([1 - second - third, second, third], 1)
        depth = np.einsum("fi,fi->f", coordinates, np.stack([a[:, 2], b[:, 2], c[:, 2]], 1))
        hit = (coordinates >= 0).all(1) & np.isfinite(depth)
    face = int(np.where(hit, depth, -np.inf).argmax())
    return face, coordinates[face]
