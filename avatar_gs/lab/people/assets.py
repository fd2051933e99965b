"""The asset pack of clothes, hair, skins and lights, in a folder given by the user; it is not part of this project.

It consists of MakeHuman's CC0 system assets and Poly Haven's CC0 lights:

- ``catalogue.json``: every item with its ``kind``, textures and sex;
- ``meshes.npz``: by item, triangles and the attachment of each vertex to MakeHuman's mesh (`Garment`);
- ``env_sh.npz``: by place, nine coefficients of spherical harmonics, the colour and the direction of the key light;
- ``tex/``: textures.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, UnidentifiedImageError

from avatar_gs.core.errors import UserError

CHECKSUMS = Path(__file__).with_name("assets.json")
"""SHA-256 of each file of the pack."""
TINT_LEVEL = 180
"""Median brightness (0..255, sRGB) of textures for tinting."""


@dataclass(frozen=True)
class Garment:
    """A mesh attached to MakeHuman's, as MakeHuman fits clothes: vertex = sum of w_i v(ref_i) + off * scale."""

    name: str
    ref: Int[np.ndarray, "N 3"]
    w: Float[np.ndarray, "N 3"]
    off: Float[np.ndarray, "N 3"]
    """Decimetres of MakeHuman's base mesh."""
    scales: tuple[tuple[int, int, float], ...]
    """By axis: two vertices and their distance along it (decimetres) on MakeHuman's base mesh; 0: no scaling."""
    faces: Int[np.ndarray, "F 3"]
    uv_faces: Int[np.ndarray, "F 3"]
    uv: Float[np.ndarray, "T 2"]
    hides: Int[np.ndarray, " H"]
    """Skin vertices of MakeHuman that are covered."""
    part: UInt8[np.ndarray, " F"] | None = None
    """By triangle. Suits: 0 for the top, 1 for the bottoms; shoes: 0 for the shoe, 1 and more for the sock."""
    hides_top: Int[np.ndarray, " A"] | None = None
    hides_bottoms: Int[np.ndarray, " B"] | None = None

    def fit(self, vertices: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "N 3"]:
        """The garment's vertices on a person's rest shape ``vertices`` (metres)."""
        scale = [0.1] * 3
        for axis, (first, second, distance) in enumerate(self.scales):
            if distance:
                scale[axis] = abs(float(vertices[first, axis] - vertices[second, axis])) / distance
        return (vertices[self.ref] * self.w[..., None]).sum(1) + self.off * np.array(scale, np.float32)

    def skinning(self, weights: Float[np.ndarray, "V 55"]) -> Float[np.ndarray, "N 55"]:
        """Skinning weights of the garment from those of MakeHuman's vertices."""
        blended = (weights[self.ref] * self.w.clip(0)[..., None]).sum(1)
        return (blended / blended.sum(1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Texture:
    """A mip pyramid of an sRGB texture with alpha, flattened for kernels."""

    texels: UInt8[np.ndarray, " n"]
    starts: Int[np.ndarray, " levels"]
    sizes: Int[np.ndarray, "levels 2"]


class Assets:
    """A complete pack; textures are read at their first use."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError if the folder or a file is missing or has the wrong checksum."""
        self.folder = folder
        _check(folder)
        self.catalogue: dict[str, dict[str, Any]] = json.loads((folder / "catalogue.json").read_text(encoding="utf-8"))
        with np.load(folder / "meshes.npz", allow_pickle=False) as meshes:
            self._meshes = {name: meshes[name] for name in meshes.files}
        with np.load(folder / "env_sh.npz", allow_pickle=False) as lights:
            self.lights: dict[str, Float[np.ndarray, "11 3"]] = {name: lights[name] for name in lights.files}
        self._garments: dict[str, Garment] = {}
        self._textures: dict[Any, Texture] = {}

    def names(self, kind: str, **wanted: Any) -> list[str]:
        """Items of a ``kind`` with the given entries (``sex="f"``), in the catalogue's order."""
        return [
            name
            for name, entry in self.catalogue.items()
            if entry["kind"] == kind and all(entry.get(key) == value for key, value in wanted.items())
        ]

    def garment(self, name: str) -> Garment:
        """The mesh of an item."""
        if name not in self._garments:
            mesh = {key.split("/")[1]: value for key, value in self._meshes.items() if key.startswith(f"{name}/")}
            self._garments[name] = Garment(
                name=name,
                ref=mesh["ref"].astype(np.int64),
                w=mesh["w"].astype(np.float32),
                off=mesh["off"].astype(np.float32),
                scales=tuple((int(a), int(b), float(d)) for a, b, d in mesh["sc"]),
                faces=mesh["F"].astype(np.int32),
                uv_faces=mesh["T"].astype(np.int32),
                uv=_dequantised(mesh["vt"], mesh["vtr"]),
                hides=mesh["dele"].astype(np.int64),
                part=mesh.get("part"),
                hides_top=mesh["dtop"].astype(np.int64) if "dtop" in mesh else None,
                hides_bottoms=mesh["dbot"].astype(np.int64) if "dbot" in mesh else None,
            )
        return self._garments[name]

    @cached_property
    def skin_faces(self) -> tuple[Int[np.ndarray, "F 3"], Int[np.ndarray, "F 3"], Float[np.ndarray, "T 2"]]:
        """Triangles of MakeHuman's skin, the same as texture vertices, and the texture vertices."""
        body = {key: self._meshes[f"body/{key}"] for key in ("F", "T", "vt", "vtr")}
        return body["F"].astype(np.int32), body["T"].astype(np.int32), _dequantised(body["vt"], body["vtr"])

    def helper_faces(self, name: str) -> Int[np.ndarray, "F 3"]:
        """Triangles of MakeHuman's helper geometry ``tights`` or ``skirt``."""
        return self._meshes[f"body/helper-{name}"].astype(np.int32)

    def texture(
        self, name: str, which: str = "", change: Callable[[UInt8[np.ndarray, "H W 4"]], Any] | None = None
    ) -> Texture:
        """The texture of an item.

        Args:
            which: ``colour`` or ``tint``, for items with both.
            change: applied to the pixels before the mip pyramid is built; a top-level function.
        """
        key = (name, which, change)
        if key not in self._textures:
            file = self.catalogue[name]["tex"]
            pixels = np.array(_opened(self.folder / (file[which] if which else file)).convert("RGBA"))
            self._textures[key] = mip_pyramid(pixels if change is None else change(pixels))
        return self._textures[key]

    def has_colour(self, name: str) -> bool:
        """Whether a suit has a texture of its original colours."""
        return "colour" in self.catalogue[name]["tex"]


def alpha_only(pixels: UInt8[np.ndarray, "H W 4"]) -> UInt8[np.ndarray, "H W 4"]:
    """For brows and lashes, whose textures are grey images of their coverage: a plain texture with this alpha."""
    changed = np.full_like(pixels, TINT_LEVEL)
    changed[..., 3] = pixels[..., 0]
    return changed


def luminance_only(pixels: UInt8[np.ndarray, "H W 4"]) -> UInt8[np.ndarray, "H W 4"]:
    """A coloured texture converted for tinting: its brightness, with a median of ``TINT_LEVEL``."""
    grey = pixels[..., :3].astype(np.float32) @ np.array([0.3, 0.59, 0.11], np.float32)
    shown = grey[(pixels[..., 3] > 128) & (grey > 8)]
    relative = grey / max(float(np.median(shown)) if shown.size else 1.0, 1.0)
    changed = pixels.copy()
    changed[..., :3] = np.clip(np.clip(1 + 0.9 * (relative - 1), 0.2, 1.4) * TINT_LEVEL, 0, 255)[..., None]
    return changed


def mip_pyramid(pixels: UInt8[np.ndarray, "H W 4"]) -> Texture:
    """Levels of half the size each, averaged with alpha as weight, so that transparent colours do not bleed in."""
    levels, current = [np.ascontiguousarray(pixels)], pixels.astype(np.float32)
    while min(current.shape[:2]) > 4:
        height, width = current.shape[0] // 2 * 2, current.shape[1] // 2 * 2
        blocks = current[:height, :width].reshape(height // 2, 2, width // 2, 2, 4)
        alpha = blocks[..., 3:] + 1e-3
        colour = (blocks[..., :3] * alpha).mean((1, 3)) / alpha.mean((1, 3))
        current = np.concatenate([colour, np.clip(alpha.mean((1, 3)) - 1e-3, 0, 255)], -1)
        levels.append(np.clip(current + 0.5, 0, 255).astype(np.uint8))
    starts = np.cumsum([0, *(level.size for level in levels[:-1])]).astype(np.int64)
    sizes = np.array([level.shape[:2] for level in levels], np.int32)
    return Texture(np.concatenate([level.ravel() for level in levels]), starts, sizes)


def _dequantised(values: np.ndarray, bounds: np.ndarray) -> Float[np.ndarray, "T 2"]:
    return (values.astype(np.float32) / 65535 * (bounds[1] - bounds[0]) + bounds[0]).astype(np.float32)


def _opened(file: Path) -> Image.Image:
    try:
        with Image.open(file) as image:
            image.load()
            return image
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"people.assets: {file} cannot be read as an image ({error}); copy the pack again") from error


def _check(folder: Path) -> None:
    """Raises UserError unless every file of the pack is there with the right checksum."""
    if not folder.is_dir():
        raise UserError(f"people.assets={folder}: no such folder; expected the asset pack (docs: the world of people)")
    for name, wanted in json.loads(CHECKSUMS.read_text(encoding="utf-8")).items():
        file = folder / name
        if not file.is_file():
            raise UserError(f"people.assets={folder}: {name} is missing; copy the asset pack again")
        if hashlib.sha256(file.read_bytes()).hexdigest() != wanted:
            raise UserError(f"people.assets={folder}: {name} is not the file of the asset pack (its checksum differs)")


def checksums(folder: Path) -> dict[str, str]:
    """The content of ``assets.json`` for a pack."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".json", ".npz", ".webp"))
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
