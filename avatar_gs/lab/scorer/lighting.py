"""Lit people, white or in their colours, as evaluation shows avatars in addition to their plain colours.

The light is that of DreamFusion's shading (``avatar_gs.render.shading``), or soft light from the camera like that of
the training set's renders. Normals come from the depth map, so that one geometry can be lit in many ways.
"""

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from avatar_gs.lab.world import rendering as r
from avatar_gs.lab.world.dataset import OVERSAMPLING, SIZE, paint, random_background
from avatar_gs.lab.world.people import Person
from avatar_gs.lab.world.rendering import PartMap
from avatar_gs.render.config import ShadingConfig
from avatar_gs.render.shading import Shade

LIGHT = ShadingConfig()
MOST_AMBIENT = 0.4
"""Strong light has an ambient fraction from ``LIGHT``'s to this."""
GENTLE_FRACTION = 0.5
"""Fraction of the white images lit softly from the camera."""
SHEET_FRACTION, SHEET_GREY = 0.5, (0.65, 0.85)
"""Fraction of the white images on a grey like that of contact sheets; the others have a random background."""
SOFTNESS = 0.003
"""Blur of the normals in metres, since the mesh is coarser than splats."""


def paint_lit(
    person: Person, part_map: PartMap, focal: float, shade: Shade, rng: np.random.Generator
) -> UInt8[np.ndarray, "128 128 3"]:
    """The image of a part map under one shade.

    Args:
        focal: focal length in pixels of the part map.
    """
    if shade is Shade.ALBEDO:
        return paint(person, part_map, rng)
    white = shade is Shade.TEXTURELESS
    lit = PartMap(part_map.parts, random_light(part_map.depth, focal, rng, gentle=white), part_map.depth)
    if not white:
        return paint(person, lit, rng)
    colours = np.full((len(r.PARTS), 3), 255.0, np.float32)
    sheet = rng.random() < SHEET_FRACTION
    colours[r.BACKGROUND] = 255 * rng.uniform(*SHEET_GREY) if sheet else random_background(rng)
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    r.colour_image(lit.parts, lit.shade, colours, out, OVERSAMPLING)
    return out


def random_light(
    depth: Float[np.ndarray, "S S"], focal: float, rng: np.random.Generator, *, gentle: bool
) -> UInt8[np.ndarray, "S S"]:
    """Shading of each pixel (255 = full albedo) by a lamp placed as in ``render.shading``.

    Args:
        gentle: in some cases (``GENTLE_FRACTION``), the soft light of the training set's renders, from the camera.
    """
    if gentle and rng.random() < GENTLE_FRACTION:
        return lambert_of_depth(depth, focal, np.zeros(3), r.AMBIENT)
    away = _distance(depth)
    towards = np.array([0.0, 0.0, -1.0]) + LIGHT.spread * rng.normal(size=3)
    reach = away * rng.uniform(LIGHT.distance_min, LIGHT.distance_max)
    lamp = np.array([0.0, 0.0, away]) + reach * towards / np.linalg.norm(towards)
    return lambert_of_depth(depth, focal, lamp, float(rng.uniform(LIGHT.ambient, MOST_AMBIENT)))


def lambert_of_depth(
    depth: Float[np.ndarray, "S S"], focal: float, lamp: NDArray[np.floating], ambient: float
) -> UInt8[np.ndarray, "S S"]:
    """ambient + (1 - ambient) max(0, n . l) of each pixel, 0..255; 0 for the background (infinite depth).

    Args:
        lamp: position of the point light in camera axes (right, down, forward), metres.
    """
    points, shown = points_of_depth(depth, focal), np.isfinite(depth)
    rays = lamp - points
    normals = normals_of_points(points, shown, SOFTNESS * focal / _distance(depth))
    cosine = (normals * rays).sum(-1) / np.maximum(np.linalg.norm(rays, axis=-1), 1e-6)
    light = ambient + (1 - ambient) * cosine.clip(0, 1)
    return np.where(shown, np.rint(255 * light), 0).astype(np.uint8)


def _distance(depth: Float[np.ndarray, "S S"]) -> float:
    """Median depth of the foreground in metres; 1 for an empty image."""
    shown = depth[np.isfinite(depth)]
    return float(np.median(shown)) if shown.size else 1.0


def points_of_depth(depth: Float[np.ndarray, "S S"], focal: float) -> Float[np.ndarray, "S S 3"]:
    """The point at each pixel in camera axes, metres, for a principal point at the image's centre; 0 for background."""
    middle = (np.arange(len(depth)) + 0.5 - len(depth) / 2) / focal
    z = np.where(np.isfinite(depth), depth, 0).astype(np.float64)
    return np.stack([middle[None, :] * z, middle[:, None] * z, z], -1)


def normals_of_points(
    points: Float[np.ndarray, "S S 3"], shown: NDArray[np.bool_], blur: float
) -> Float[np.ndarray, "S S 3"]:
    """Unit normals towards the camera, blurred by ``blur`` pixels; 0 for the background and isolated pixels."""
    normals = np.cross(_step(points, shown, 1), _step(points, shown, 0))
    normals *= -np.sign((normals * points).sum(-1, keepdims=True))
    smooth = cv2.GaussianBlur(_unit(normals), (0, 0), max(blur, 0.3))
    return _unit(np.where(shown[..., None], smooth, 0))


def _step(points: Float[np.ndarray, "S S 3"], shown: NDArray[np.bool_], axis: int) -> Float[np.ndarray, "S S 3"]:
    """Vector to the neighbour along an axis, on the side where depth changes less, so that edges stay sharp."""
    ahead = np.roll(points, -1, axis) - points
    known = shown & np.roll(shown, -1, axis)
    known[(slice(None), -1) if axis else -1] = False
    far = np.where(known, np.abs(ahead[..., 2]), np.inf)
    behind, before = np.roll(ahead, 1, axis), np.roll(far, 1, axis)
    nearest = np.where((far <= before)[..., None], ahead, behind)
    return np.where(np.isfinite(np.minimum(far, before))[..., None], nearest, 0)


def _unit(vectors: Float[np.ndarray, "S S 3"]) -> Float[np.ndarray, "S S 3"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
