"""Dressed people: the free body pushed out under cloth and hair, with meshes of long hair, hats, glasses and skirts.

Everything is placed relative to joints of the rest (zero) pose, in metres: +y up, facing +z. Added meshes follow
the shape (betas) of the nearest body vertex and are skinned like the part that they hang on.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]  # compiled, without a stub

from avatar_gs.body.config import BodyConfig
from avatar_gs.body.files import FREE_BODY
from avatar_gs.body.model import Body, load_body
from avatar_gs.lab.world.people import Person

Array = NDArray[np.float32]

# Regions of the mesh, which decide how its triangles are painted.
TORSO, ARM, HAND, LEG, FOOT, NECK, HEAD, EYEBALL, HAIR_VOLUME, SKIRT, HAT, GLASSES = range(12)
_REGION_OF_JOINT = (
    [TORSO, LEG, LEG, TORSO, LEG, LEG, TORSO, FOOT, FOOT, TORSO, FOOT, FOOT, NECK, TORSO, TORSO, HEAD]
    + [ARM] * 4
    + [HAND] * 2
    + [HEAD, EYEBALL, EYEBALL]
    + [HAND] * 30
)
HEAD_JOINT, NECK_JOINT, PELVIS, LEFT_HIP, RIGHT_HIP = 15, 12, 0, 1, 2


def kernel(function: Callable) -> Any:
    """Compile with numba, without the GIL, under run-time type checkers too (which wrap functions)."""
    return njit(cache=True, nogil=True)(inspect.unwrap(function))


@dataclass(frozen=True)
class Wardrobe:
    """The free body in the rest pose, prepared for dressing. ``regions`` is per vertex."""

    body: Body
    vertices: Array
    normals: Array
    faces: NDArray[np.int64]
    weights: Array
    regions: NDArray[np.uint8]
    joints: Array
    tree: cKDTree


@dataclass(frozen=True)
class DressedMesh:
    """A dressed person in the rest pose, before shape and pose.

    ``anchors`` holds, for each vertex, the body vertex whose shape displacement it follows; ``regions`` is per vertex.
    """

    vertices: Array
    faces: NDArray[np.int64]
    regions: NDArray[np.uint8]
    weights: Array
    anchors: NDArray[np.int64]


@lru_cache(maxsize=1)
def load_wardrobe() -> Wardrobe:
    """The wardrobe of the packaged free body, even if other body files are installed."""
    body = load_body(BodyConfig(path=str(FREE_BODY)))
    rest = body.rest()
    vertices = rest.vertices.numpy().astype(np.float32)
    faces = body.faces.numpy().astype(np.int64)
    weights = body.weights.numpy().astype(np.float32)
    regions = np.array(_REGION_OF_JOINT, np.uint8)[weights.argmax(1)]
    return Wardrobe(
        body, vertices, vertex_normals(vertices, faces), faces, weights, regions, rest.joints.numpy(), cKDTree(vertices)
    )


def vertex_normals(vertices: Array, faces: NDArray[np.int64]) -> Array:
    """Area-weighted unit normals ``[V, 3]``."""
    corners = vertices[faces]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    summed = np.zeros_like(vertices)
    for axis in range(3):
        for corner in range(3):
            summed[:, axis] += np.bincount(faces[:, corner], flat[:, axis], len(vertices))
    return summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-12)


def dress(wardrobe: Wardrobe, person: Person) -> DressedMesh:
    """The rest-pose mesh of a person: the body pushed out under cloth and hair, plus the added meshes."""
    vertices = cast(Array, wardrobe.vertices + wardrobe.normals * _thickness(wardrobe, person)[:, None])
    pieces = [(vertices, wardrobe.faces, wardrobe.regions, wardrobe.weights, np.arange(len(vertices)))]
    for piece, region, weigh in _volumes(wardrobe, person):
        points, triangles = piece
        anchors = wardrobe.tree.query(points)[1]
        pieces.append((points, triangles, np.full(len(points), region, np.uint8), weigh(points), anchors))
    return _concatenate(pieces)


def _concatenate(pieces: list) -> DressedMesh:
    starts = np.cumsum([0] + [len(piece[0]) for piece in pieces[:-1]])
    return DressedMesh(
        vertices=np.concatenate([piece[0] for piece in pieces]).astype(np.float32),
        faces=np.concatenate([piece[1] + start for piece, start in zip(pieces, starts, strict=True)]),
        regions=np.concatenate([piece[2] for piece in pieces]),
        weights=np.concatenate([piece[3] for piece in pieces]).astype(np.float32),
        anchors=np.concatenate([piece[4] for piece in pieces]),
    )


@dataclass(frozen=True)
class Cut:
    """Where a person's clothes and hair end, in rest-pose metres (see ``cut_of``)."""

    sleeve_x: float
    hem_y: float
    neck_y: float
    leg_y: float
    shoe_y: float
    hairline_y: float
    hair_side_z: float
    hair_low_y: float


def cut_of(person: Person, joints: Array) -> Cut:
    """The edges of a person's clothes and hair on the rest pose's ``joints`` ``[55, 3]``."""
    sleeve, hem, neck, leg, shoe, _, _ = person.cut
    outfit = person.outfit
    elbow, wrist = float(joints[18, 0]), float(joints[20, 0])
    ankle, knee, pelvis = float(joints[7, 1]), float(joints[4, 1]), float(joints[PELVIS, 1])
    neck_joint, head = float(joints[NECK_JOINT, 1]), float(joints[HEAD_JOINT, 1])
    long_leg = ankle + 0.03 * leg
    under_skirt = skirt_hem(person, joints) + 0.07
    leg_y = {"trousers": long_leg, "shorts": knee + 0.02 + 0.12 * leg, "skirt": under_skirt}[outfit.bottoms]
    return Cut(
        sleeve_x=wrist - 0.035 * sleeve if outfit.long_sleeves else elbow - 0.04 - 0.10 * sleeve,
        hem_y=pelvis - 0.06 + 0.06 * hem,
        neck_y=neck_joint - 0.045 + 0.03 * neck,
        leg_y=leg_y,
        shoe_y=ankle - 0.005 + 0.03 * shoe,
        hairline_y=head + 0.088 + 0.022 * person.hairline,
        hair_side_z=0.005 + 0.03 * person.hairline,
        hair_low_y=head - (0.075 if person.long_hair else 0.02),
    )


def skirt_hem(person: Person, joints: Array) -> float:
    """Height of a skirt's hem in metres."""
    return float(joints[4, 1] + 0.02 + 0.12 * person.cut[3])


def hair_mask(vertices: Array, cut: Cut, joints: Array) -> NDArray[np.bool_]:
    """Which rest-pose points of the head are under hair; rendering applies the same rule per pixel."""
    edges = float(joints[HEAD_JOINT, 1]), cut.hairline_y, cut.hair_side_z, cut.hair_low_y
    return np.array([on_scalp(abs(x), y, z, *edges) for x, y, z in vertices], bool)


@kernel
def on_scalp(ax, y, z, head_y, hairline_y, side_z, low_y):
    """Whether a rest-pose point of the head is under hair; ``ax`` is its distance from the plane of symmetry."""
    if abs(ax - 0.083) < 0.012 and abs(y - head_y - 0.029) < 0.033 and -0.01 < z < 0.06:
        return False  # the ear
    crown = y > hairline_y and (z < 0.02 or y > hairline_y + 2.8 * ax * ax)
    return crown or (z < side_z - 1.1 * max(0.0, head_y - y) and y > low_y)


def _thickness(wardrobe: Wardrobe, person: Person) -> Array:
    """Displacement of each body vertex along its normal, in metres."""
    x, y, _ = wardrobe.vertices.T
    cut = cut_of(person, wardrobe.joints)
    loose = person.cut[5]
    region = wardrobe.regions
    out = np.zeros(len(x), np.float32)
    torso = (region == TORSO) & (y < cut.neck_y + 0.03)
    out[torso] = 0.006 + 0.008 * loose
    sleeve = (region == ARM) & (np.abs(x) < cut.sleeve_x)
    reach = (np.abs(x) - wardrobe.joints[16, 0]) / (cut.sleeve_x - wardrobe.joints[16, 0])
    out[sleeve] = (0.006 + 0.022 * loose * np.clip(reach, 0, 1))[sleeve]
    legs = (region == LEG) & (y > cut.leg_y)
    out[legs] = 0.006 + 0.010 * loose
    if person.outfit.bottoms == "trousers":
        ankles = (region == FOOT) & (y > cut.shoe_y)
        out[ankles] = 0.012
    out[(region == FOOT) & (y < cut.shoe_y)] = 0.010
    if person.hair:
        head = np.nonzero(region == HEAD)[0]
        hair = head[hair_mask(wardrobe.vertices[head], cut, wardrobe.joints)]
        out[hair] = 0.012 + 0.016 * person.hair_volume + (0.004 if person.long_hair else 0.0)
    if person.outfit.hat:
        out[(region == HEAD) & (y > wardrobe.joints[HEAD_JOINT, 1] + 0.09)] = 0.004
    return out


def _volumes(wardrobe: Wardrobe, person: Person):
    """(mesh, region, skinning function) of each added mesh."""
    head = _rigid(HEAD_JOINT)
    if person.long_hair:
        yield _curtain(wardrobe, person), HAIR_VOLUME, head
    if person.outfit.hat:
        yield _hat(wardrobe), HAT, head
    if person.outfit.glasses:
        yield _glasses(wardrobe), GLASSES, head
    if person.outfit.bottoms == "skirt":
        yield _skirt(wardrobe, person), SKIRT, lambda points: _skirt_weights(points, wardrobe)


def _rigid(joint: int):
    def weigh(points: Array) -> Array:
        weights = np.zeros((len(points), 55), np.float32)
        weights[:, joint] = 1.0
        return weights

    return weigh


def _grid(points: NDArray, closed: bool) -> tuple[Array, NDArray[np.int64]]:
    """Triangles over a [rows, columns, 3] grid of points; ``closed`` joins the last column to the first."""
    rows, columns, _ = points.shape
    index = np.arange(rows * columns).reshape(rows, columns)
    if closed:
        index = np.concatenate([index, index[:, :1]], 1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    faces = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])
    return points.reshape(-1, 3).astype(np.float32), faces


def _curtain(wardrobe: Wardrobe, person: Person) -> tuple[Array, NDArray[np.int64]]:
    """Long hair: a sheet around the sides and back of the head, down to the shoulder blades, behind the back."""
    head = wardrobe.joints[HEAD_JOINT]
    levels = np.linspace(head[1] + 0.10, head[1] - 0.17 - 0.10 * person.cut[6], 16)
    angles = np.linspace(-1.75, 1.75, 25)
    radius_x = 0.098 + 0.012 * person.hair_volume
    radius_z = 0.108 + 0.012 * person.hair_volume
    points = np.empty((len(levels), len(angles), 3))
    body = wardrobe.vertices[np.isin(wardrobe.regions, [TORSO, NECK])]
    for row, level in enumerate(levels):
        top = np.sqrt(np.clip(1 - ((level - head[1] - 0.03) / 0.13) ** 2, 0.3, 1)) if level > head[1] + 0.03 else 1.0
        narrow = np.clip((level - (head[1] - 0.12)) / 0.1, 0.75, 1.0)
        x = np.sin(angles) * radius_x * top * narrow
        z = head[2] - 0.012 - np.cos(angles) * radius_z * top
        near = body[np.abs(body[:, 1] - level) < 0.02]
        for column in range(len(angles)):
            behind = near[np.abs(near[:, 0] - x[column]) < 0.03]
            if len(behind):
                z[column] = min(z[column], behind[:, 2].min() - 0.022)
        points[row] = np.stack([x, np.full_like(x, level), z], -1)
    return _grid(points, closed=False)


def _hat(wardrobe: Wardrobe) -> tuple[Array, NDArray[np.int64]]:
    """A brimmed hat: a dome over the crown and a sloping brim."""
    head = wardrobe.joints[HEAD_JOINT]
    centre = np.array([0.0, head[1] + 0.095, head[2] + 0.004])
    angles = np.linspace(0, 2 * np.pi, 33)[:-1]
    ring = np.stack([np.sin(angles) * 0.102, np.zeros_like(angles), np.cos(angles) * 0.120], -1)
    profile = [(0.02, 0.088), (0.55, 0.084), (0.86, 0.066), (1.0, 0.025), (1.02, 0.0), (1.45, -0.016)]
    return _grid(np.stack([centre + ring * scale + [0, lift, 0] for scale, lift in profile]), closed=True)


def _glasses(wardrobe: Wardrobe) -> tuple[Array, NDArray[np.int64]]:
    """Two round rims, a bridge and temples, as flat bands that face outwards."""
    left_eye = wardrobe.joints[23]
    front = left_eye[2] + 0.048
    angles = np.linspace(0, 2 * np.pi, 21)
    meshes = []
    for side in (-1, 1):
        centre = np.array([side * (left_eye[0] + 0.003), left_eye[1], front])
        ring = np.stack([np.sin(angles), np.cos(angles), np.zeros_like(angles)], -1)
        meshes.append(_grid(np.stack([centre + 0.0240 * ring, centre + 0.0195 * ring]), closed=False))
        temple_start, temple_end = [side * 0.056, left_eye[1] + 0.006, front], [side * 0.090, left_eye[1], 0.02]
        meshes.append(_band(np.array(temple_start), np.array(temple_end), np.array([0, 0.007, 0])))
    inner = left_eye[0] - 0.019
    bridge = np.array([-inner, left_eye[1] + 0.003, front]), np.array([inner, left_eye[1] + 0.003, front])
    meshes.append(_band(*bridge, np.array([0, 0.006, 0])))
    starts = np.cumsum([0] + [len(points) for points, _ in meshes[:-1]])
    faces = np.concatenate([triangles + start for (_, triangles), start in zip(meshes, starts, strict=True)])
    return np.concatenate([points for points, _ in meshes]), faces


def _band(start: NDArray, end: NDArray, width: NDArray) -> tuple[Array, NDArray[np.int64]]:
    line = np.linspace(start, end, 4)
    return _grid(np.stack([line, line + width]), closed=False)


def _skirt(wardrobe: Wardrobe, person: Person) -> tuple[Array, NDArray[np.int64]]:
    """A flared skirt from the waist to around the knees."""
    pelvis = wardrobe.joints[PELVIS]
    levels = np.linspace(pelvis[1] + 0.03, skirt_hem(person, wardrobe.joints), 14)
    angles = np.linspace(0, 2 * np.pi, 41)[:-1]
    flare = 0.07 + 0.06 * person.cut[5]
    body = wardrobe.vertices[np.isin(wardrobe.regions, [TORSO, LEG])]
    rings = []
    for row, level in enumerate(levels):
        down = row / (len(levels) - 1)
        near = body[np.abs(body[:, 1] - max(level, pelvis[1] - 0.12)) < 0.02]
        rx = np.abs(near[:, 0]).max() + 0.014 + flare * down
        middle, rz = (near[:, 2].max() + near[:, 2].min()) / 2, np.ptp(near[:, 2]) / 2 + 0.016 + flare * down
        rings.append(np.stack([rx * np.sin(angles), np.full_like(angles, level), middle + rz * np.cos(angles)], -1))
    return _grid(np.stack(rings), closed=True)


def _skirt_weights(points: Array, wardrobe: Wardrobe) -> Array:
    """Skinned to the pelvis at the waist, increasingly to the nearer thigh towards the hem."""
    pelvis, knee = wardrobe.joints[PELVIS, 1], wardrobe.joints[4, 1]
    down = np.clip((pelvis - points[:, 1]) / (pelvis - knee), 0, 1)
    side = np.clip(0.5 + points[:, 0] / 0.24, 0, 1)
    weights = np.zeros((len(points), 55), np.float32)
    weights[:, PELVIS] = 1 - 0.7 * down
    weights[:, LEFT_HIP], weights[:, RIGHT_HIP] = 0.7 * down * side, 0.7 * down * (1 - side)
    return weights
