"""Lit people, white or in their colours: how evaluation shows avatars beside their plain colours.

The light is that of DreamFusion's shading (``avatar_gs.render.shading``), or the gentle one that people are drawn in
but from the camera. Normals come from a picture's depth, so a geometry that is drawn once can be lit in many ways.
"""

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from avatar_gs.lab.world import picture as pic
from avatar_gs.lab.world.dataset import OVERSAMPLING, SIZE, paint, random_background
from avatar_gs.lab.world.people import Person
from avatar_gs.lab.world.picture import PartMap
from avatar_gs.render.config import ShadingConfig
from avatar_gs.render.shading import Shade

LIGHT = ShadingConfig()
MOST_AMBIENT = 0.4
"""Strong light has an ambient share between ``LIGHT``'s and this one."""
GENTLE_SHARE = 0.5
"""Share of the white pictures that are lit gently, from the camera."""
SHEET_SHARE, SHEET_GREY = 0.5, (0.65, 0.85)
"""Share of the white pictures before a grey like that of picture sheets; the others have any background."""
SOFTNESS = 0.003
"""Blur of the normals in metres: the mesh is coarser than splats are."""


def paint_lit(
    person: Person, part_map: PartMap, focal: float, shade: Shade, rng: np.random.Generator
) -> UInt8[np.ndarray, "128 128 3"]:
    """The picture of a part map in one of the looks; ``focal`` is its camera's focal length in the map's pixels."""
    if shade is Shade.ALBEDO:
        return paint(person, part_map, rng)
    white = shade is Shade.TEXTURELESS
    lit = PartMap(part_map.parts, random_light(part_map.depth, focal, rng, gentle=white), part_map.depth)
    if not white:
        return paint(person, lit, rng)
    colours = np.full((len(pic.PARTS), 3), 255.0, np.float32)
    sheet = rng.random() < SHEET_SHARE
    colours[pic.BACKGROUND] = 255 * rng.uniform(*SHEET_GREY) if sheet else random_background(rng)
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    pic.colour_picture(lit.parts, lit.shade, colours, out, OVERSAMPLING)
    return out


def random_light(
    depth: Float[np.ndarray, "S S"], focal: float, rng: np.random.Generator, *, gentle: bool
) -> UInt8[np.ndarray, "S S"]:
    """The light on every pixel (255 = full albedo) of a lamp placed as in ``render.shading``;
    with ``gentle`` in some cases (``GENTLE_SHARE``) that of drawn people, from the camera."""
    if gentle and rng.random() < GENTLE_SHARE:
        return lambert_of_depth(depth, focal, np.zeros(3), pic.AMBIENT)
    away = _distance(depth)
    towards = np.array([0.0, 0.0, -1.0]) + LIGHT.spread * rng.normal(size=3)
    reach = away * rng.uniform(LIGHT.distance_min, LIGHT.distance_max)
    lamp = np.array([0.0, 0.0, away]) + reach * towards / np.linalg.norm(towards)
    return lambert_of_depth(depth, focal, lamp, float(rng.uniform(LIGHT.ambient, MOST_AMBIENT)))


def lambert_of_depth(
    depth: Float[np.ndarray, "S S"], focal: float, lamp: NDArray[np.floating], ambient: float
) -> UInt8[np.ndarray, "S S"]:
    """ambient + (1 - ambient) max(0, n . l) of every pixel, as 0..255, for a point light at ``lamp`` (metres, in camera
    axes: right, down, forward); 0 where nothing is (an infinite depth)."""
    points, shown = points_of_depth(depth, focal), np.isfinite(depth)
    rays = lamp - points
    normals = normals_of_points(points, shown, SOFTNESS * focal / _distance(depth))
    cosine = (normals * rays).sum(-1) / np.maximum(np.linalg.norm(rays, axis=-1), 1e-6)
    light = ambient + (1 - ambient) * cosine.clip(0, 1)
    return np.where(shown, np.rint(255 * light), 0).astype(np.uint8)


def _distance(depth: Float[np.ndarray, "S S"]) -> float:
    """The median depth of what is shown, in metres; 1 for an empty picture."""
    shown = depth[np.isfinite(depth)]
    return float(np.median(shown)) if shown.size else 1.0


def points_of_depth(depth: Float[np.ndarray, "S S"], focal: float) -> Float[np.ndarray, "S S 3"]:
    """What each pixel shows, in metres in camera axes (the picture's centre is the camera's); 0 where nothing is."""
    middle = (np.arange(len(depth)) + 0.5 - len(depth) / 2) / focal
    z = np.where(np.isfinite(depth), depth, 0).astype(np.float64)
    return np.stack([middle[None, :] * z, middle[:, None] * z, z], -1)


def normals_of_points(
    points: Float[np.ndarray, "S S 3"], shown: NDArray[np.bool_], blur: float
) -> Float[np.ndarray, "S S 3"]:
    """Unit normals towards the camera, smoothed by ``blur`` pixels; 0 where nothing is shown, or nothing near."""
    normals = np.cross(_step(points, shown, 1), _step(points, shown, 0))
    normals *= -np.sign((normals * points).sum(-1, keepdims=True))
    smooth = cv2.GaussianBlur(_unit(normals), (0, 0), max(blur, 0.3))
    return _unit(np.where(shown[..., None], smooth, 0))


def _step(points: Float[np.ndarray, "S S 3"], shown: NDArray[np.bool_], axis: int) -> Float[np.ndarray, "S S 3"]:
    """The way to the neighbour along an axis, on the side where depth changes less: edges stay sharp."""
    ahead = np.roll(points, -1, axis) - points
    known = shown & np.roll(shown, -1, axis)
    known[(slice(None), -1) if axis else -1] = False
    far = np.where(known, np.abs(ahead[..., 2]), np.inf)
    behind, before = np.roll(ahead, 1, axis), np.roll(far, 1, axis)
    nearest = np.where((far <= before)[..., None], ahead, behind)
    return np.where(np.isfinite(np.minimum(far, before))[..., None], nearest, 0)


def _unit(vectors: Float[np.ndarray, "S S 3"]) -> Float[np.ndarray, "S S 3"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
