"""Renders dressed people: textures, mostly ambient light, and exact labels and depth from the same pass."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from avatar_gs.lab.people import kernels
from avatar_gs.lab.people.assets import Texture
from avatar_gs.types import Cameras

SUPERSAMPLE = 2
"""Resolution of the buffers relative to the image, which is averaged down."""
OPAQUE_ALPHA = 0.85
"""Texels of hair and cut cloth with at least this alpha are solid; the others are blended over them."""
NO_STRIPE = np.array([-1.0, 0.0, 0.0], np.float32)
_TURNS = ((0.2, 0.35), (0.8, 0.8), (1.3, 0.5), (1.9, 1.0), (2.5, 0.65), (2.9, 0.9))
_DIRECTIONS = np.array([(np.cos(angle) * r, np.sin(angle) * r) for angle, r in _TURNS], np.float32)
OCCLUSION_REACH = 0.09
"""Radius of ambient occlusion in metres."""


class Part(IntEnum):
    """The part that a pixel shows."""

    BACKGROUND = 0
    SKIN = 1
    HAIR = 2
    TOP = 3
    BOTTOMS = 4
    DRESS = 5
    SHOES = 6
    SOCKS = 7
    EYES = 8
    BROWS = 9
    LASHES = 10
    HAT = 11
    GLASSES = 12


@dataclass(frozen=True)
class Layer:
    """One textured mesh of a dressed person, in the world (metres)."""

    part: Part
    material: int
    vertices: Float[np.ndarray, "N 3"]
    normals: Float[np.ndarray, "N 3"]
    faces: Int[np.ndarray, "F 3"]
    uv_faces: Int[np.ndarray, "F 3"]
    uv: Float[np.ndarray, "T 2"]
    texture: Texture
    tint: Float[np.ndarray, "3"] = field(default_factory=lambda: np.ones(3, np.float32))
    """Linear RGB factor on the texture."""
    stripe: Float[np.ndarray, "3"] = field(default_factory=lambda: NO_STRIPE)
    """Linear RGB of the stripes of a two-tone texture; negative first entry: no stripes."""
    second: Texture | None = None
    mix: float = 0.0
    """Fraction of the second texture, 0 to 1."""
    solid: bool = True
    """Whether texels with at least ``OPAQUE_ALPHA`` are rendered into the z-buffer."""
    blended: bool = False
    """Whether the other texels are blended over the image."""
    tolerance: float = 0.0
    """See ``kernels.blend``."""


@dataclass(frozen=True)
class Light:
    """Ambient light (irradiance as spherical harmonics) and a key light, linear RGB; white on average."""

    harmonics: Float[np.ndarray, "9 3"]
    key_direction: Float[np.ndarray, "3"]
    """Unit vector towards the light, world."""
    key_colour: Float[np.ndarray, "3"]


@dataclass(frozen=True)
class Drawn:
    """One image with labels and depth, which have ``SUPERSAMPLE`` times its resolution."""

    image: UInt8[np.ndarray, "S S 3"]
    parts: UInt8[np.ndarray, "R R"]
    """``Part`` of each pixel."""
    depth: Float[np.ndarray, "R R"]
    """Metres along the camera's axis; inf without a solid surface."""
    alpha: Float[np.ndarray, "S S"]


def render(layers: Sequence[Layer], cameras: Cameras, index: int, light: Light, background: np.ndarray) -> Drawn:
    """Render a person with one camera of a batch.

    Args:
        cameras: a batch of square cameras at the image's resolution.
        index: of the camera.
        background: linear RGB [3].
    """
    size = cameras.width * SUPERSAMPLE
    large = cameras[index].resized(size, size)
    T, K = large.T_camera_world[0].numpy().astype(np.float32), large.K[0].numpy().astype(np.float32)
    rays, rotation = np.array([K[0, 2], K[1, 2], K[0, 0], K[1, 1]], np.float32), np.ascontiguousarray(T[:3, :3])
    screens = [project(layer.vertices, T, K) for layer in layers]
    inverse_depth, parts = np.zeros((size, size), np.float32), np.zeros((size, size), np.uint8)
    albedo, normal_map = np.zeros((size, size, 3), np.float32), np.zeros((size, size, 3), np.float32)
    materials = np.zeros((size, size), np.uint8)
    for layer, screen in zip(layers, screens, strict=True):
        if layer.solid:
            second = layer.texture if layer.second is None else layer.second
            kernels.draw_opaque(
                screen, layer.normals, layer.faces, layer.uv_faces, layer.uv, _arrays(layer.texture), _arrays(second),
                layer.mix, kernels.SRGB_TO_LINEAR, layer.tint, layer.stripe, int(layer.part), layer.material,
                OPAQUE_ALPHA if layer.blended else -1.0, inverse_depth, albedo, normal_map, parts, materials,
            )  # fmt: skip
    openness = kernels.ambient_occlusion(inverse_depth, float(rays[2] * OCCLUSION_REACH), _DIRECTIONS)
    openness = cv2.blur(openness, (7, 7))
    image = np.broadcast_to(background.astype(np.float32), (size, size, 3)).copy()
    lit = (
        light.harmonics.astype(np.float32),
        light.key_direction.astype(np.float32),
        light.key_colour.astype(np.float32),
    )
    kernels.shade(inverse_depth, albedo, normal_map, materials, openness, rays, rotation, *lit, image)
    cover = (materials > 0).astype(np.float32)
    for layer, screen in zip(layers, screens, strict=True):
        if layer.blended:
            order = np.argsort(screen[:, 2][layer.faces].mean(1))
            kernels.blend(
                order, screen, layer.normals, layer.faces, layer.uv_faces, layer.uv, _arrays(layer.texture),
                kernels.SRGB_TO_LINEAR, layer.tint, layer.stripe, int(layer.part), layer.material, layer.tolerance,
                inverse_depth, rays, rotation, *lit, image, cover, parts,
            )  # fmt: skip
    depth = np.where(inverse_depth > 0, 1 / np.maximum(inverse_depth, 1e-9), np.inf).astype(np.float32)
    return Drawn(to_srgb(_averaged(image)), parts, depth, _averaged(cover))


def project(vertices: Float[np.ndarray, "N 3"], T: np.ndarray, K: np.ndarray) -> Float[np.ndarray, "N 3"]:
    """Pixels and inverse depth of world points; an inverse depth of 0 means behind the camera."""
    points = (vertices @ T[:3, :3].T + T[:3, 3]).astype(np.float32)
    z = points[:, 2]
    safe = np.maximum(z, 1e-3)
    pixels = points[:, :2] / safe[:, None] * K[[0, 1], [0, 1]] + K[:2, 2]
    return np.concatenate([pixels, np.where(z > 1e-3, 1 / safe, 0)[:, None]], 1).astype(np.float32)


def to_srgb(linear: Float[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """sRGB bytes; highlights above 1 are rolled off."""
    rolled = np.maximum(linear, 0) / (1 + np.maximum(linear, 0) ** 8 * 0.25) ** 0.125
    encoded = np.where(rolled <= 0.0031308, 12.92 * rolled, 1.055 * np.maximum(rolled, 1e-6) ** (1 / 2.4) - 0.055)
    return (np.clip(encoded, 0, 1) * 255 + 0.5).astype(np.uint8)


def to_linear(rgb: Sequence[float]) -> Float[np.ndarray, "3"]:
    """Linear RGB of an sRGB colour, 0..255."""
    return np.array([kernels.SRGB_TO_LINEAR[int(np.clip(round(float(value)), 0, 255))] for value in rgb], np.float32)


def _averaged(values: np.ndarray) -> np.ndarray:
    size = len(values) // SUPERSAMPLE
    return cv2.resize(values, (size, size), interpolation=cv2.INTER_AREA)


def _arrays(texture: Texture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return texture.texels, texture.starts, texture.sizes
