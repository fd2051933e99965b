"""Garments cut from MakeHuman's helper meshes (a body suit, a skirt) by masks in the front view of its base mesh.

Coordinates of masks are decimetres of the base mesh: x to its left, y up, 0 at the middle of the body.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree

from avatar_gs.lab.people.assets import TINT_LEVEL, Assets, Texture, mip_pyramid
from avatar_gs.lab.people.shape import SKIN_VERTICES, ShapeBasis

SIZE = 768
"""Side of masks and cloth textures in pixels."""
LEFT, WIDTH, TOP, HEIGHT = -5.0, 10.0, 9.0, 18.0
"""Rectangle of the front view covered by a mask."""
HEM = 0.93
"""Where the blurred mask exceeds this, cloth hides the skin; nearer to a hem the skin may be visible."""

HEM_Y = -0.2
"""Lower end of tops: below the waistband of all trousers of the pack, at the back too."""

Mask = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _neck(x: np.ndarray, y: np.ndarray, half_width: float, depth: float) -> np.ndarray:
    return (x / half_width) ** 2 + ((y - 6.05) / depth) ** 2 < 1


def _v_neck(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (y > 5.9 - 1.3 * (1 - np.abs(x) / 0.75)) & (np.abs(x) < 0.75)


def _sleeved(reach: float, neck: Mask) -> Mask:
    """A top with sleeves that end at ``reach`` from the middle."""
    return lambda x, y: (y > HEM_Y) & (np.abs(x) < reach) & ~neck(x, y)


def _legs(low: float) -> Mask:
    return lambda x, y: (y < 1.05) & (y > low) & (np.abs(x) < 3.2)


def _skirt(low: float) -> Mask:
    return lambda x, y: (y < 1.7) & (y > low)


CUTS: dict[str, tuple[str, Mask]] = {
    "long-sleeved shirt": ("tights", _sleeved(4.4, lambda x, y: _neck(x, y, 0.75, 0.55))),
    "T-shirt": ("tights", _sleeved(2.3, lambda x, y: _neck(x, y, 0.8, 0.65))),
    "V-neck T-shirt": ("tights", _sleeved(2.5, lambda x, y: _v_neck(x, y) | _neck(x, y, 0.75, 0.4))),
    "tank top": (
        "tights",
        lambda x, y: (
            (y > HEM_Y) & (np.abs(x) < 1.5 - 0.12 * np.clip(y - 3.5, 0, 3) + 1.2 * (y < 2)) & ~_neck(x, y, 0.85, 1.15)
        ),
    ),
    "turtleneck": ("tights", lambda x, y: (y > HEM_Y) & (y < 6.4) & (np.abs(x) < 4.4)),
    "leggings": ("tights", _legs(-7.3)),
    "shorts": ("tights", _legs(-2.4)),
    "short skirt": ("skirt", _skirt(-2.0)),
    "skirt": ("skirt", _skirt(-4.0)),
    "long skirt": ("skirt", _skirt(-6.9)),
}
"""By name: the helper mesh that it is cut from, and the mask."""


@dataclass(frozen=True)
class Cut:
    """A cut garment: vertices of MakeHuman's mesh, their triangles, and the skin that it hides."""

    vertices: Int[np.ndarray, " N"]
    """Indices into MakeHuman's mesh."""
    faces: Int[np.ndarray, "F 3"]
    uv: Float[np.ndarray, "N 2"]
    hides: Int[np.ndarray, " H"]
    mask: Bool[np.ndarray, "768 768"]


def cut(name: str, assets: Assets, basis: ShapeBasis) -> Cut:
    """The garment ``name`` of ``CUTS``."""
    helper, shape = CUTS[name]
    x, y = _grid()
    mask = shape(x, y)
    faces = assets.helper_faces(helper)
    vertices, compact = np.unique(faces, return_inverse=True)
    front = 10 * basis.template
    uv = np.stack([(front[vertices, 0] - LEFT) / WIDTH, (front[vertices, 1] - TOP + HEIGHT) / HEIGHT], 1)
    inside = mask[_pixels(front[vertices])]
    kept = compact.reshape(faces.shape)[inside[compact.reshape(faces.shape)].any(1)]
    core = gaussian_filter(mask.astype(np.float32), 9) > HEM
    covering = core[_pixels(front[vertices])]
    skin = front[:SKIN_VERTICES]
    distance = np.full(len(skin), np.inf)
    if covering.any():
        distance, _ = KDTree(front[vertices][covering]).query(skin)
    reach = 0.45 if helper == "tights" else 0.75
    hides = np.flatnonzero((distance < reach) & core[_pixels(skin)])
    return Cut(vertices, kept.astype(np.int32), uv.astype(np.float32), hides, mask)


@lru_cache(maxsize=64)
def _cloth_detail(seed: int) -> Float[np.ndarray, "768 768"]:
    """Brightness of plain cloth, around 1: faint coarse and fine grain."""
    rng = np.random.default_rng(seed)
    large = gaussian_filter(rng.normal(size=(SIZE, SIZE)).astype(np.float32), 14, mode="wrap")
    return 1 + 0.025 * large / large.std() + 0.02 * rng.normal(size=(SIZE, SIZE))


def cloth(mask: Bool[np.ndarray, "768 768"], stripe: float) -> Texture:
    """A two-tone texture of a cut: red is brightness, green is 255 in stripes, alpha is the mask, soft at hems.

    Args:
        stripe: the period of horizontal stripes in decimetres; 0 for none.
    """
    _, y = _grid()
    pixels = np.zeros((SIZE, SIZE, 4), np.uint8)
    pixels[..., 0] = np.clip(_cloth_detail(0) * TINT_LEVEL, 0, 255)
    if stripe:
        pixels[..., 1] = 255 * (np.sin(2 * np.pi * y / stripe) < 0)
    pixels[..., 3] = np.clip(gaussian_filter(mask.astype(np.float32), 0.7) * 255, 0, 255)
    return mip_pyramid(pixels)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    centres = (np.arange(SIZE) + 0.5) / SIZE
    x, y = np.meshgrid(LEFT + WIDTH * centres, TOP - HEIGHT * centres)
    return x, y


def _pixels(points: Float[np.ndarray, "N 3"]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of points (decimetres) in a mask."""
    row = np.clip((TOP - points[:, 1]) / HEIGHT * SIZE, 0, SIZE - 1).astype(int)
    return row, np.clip((points[:, 0] - LEFT) / WIDTH * SIZE, 0, SIZE - 1).astype(int)
