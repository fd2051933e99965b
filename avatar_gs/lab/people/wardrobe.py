"""Textured meshes of a person: the rest shape with fitted clothes, skinned to a pose."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from avatar_gs.body.pose import JOINT, Pose
from avatar_gs.lab.people import kernels
from avatar_gs.lab.people.assets import TINT_LEVEL, Assets, Garment, Texture, alpha_only, luminance_only, mip_pyramid
from avatar_gs.lab.people.cuts import Cut, cloth, cut
from avatar_gs.lab.people.person import Garb, Person
from avatar_gs.lab.people.rendering import Layer, Part, to_linear
from avatar_gs.lab.people.shape import SKIN_VERTICES, Figure, PosedFigure, ShapeBasis, load_basis

TINTED = 1 / kernels.SRGB_TO_LINEAR[TINT_LEVEL]
"""Factor that brings the median of a texture for tinting to 1."""
LONG_TROUSERS = -0.6
"""Trousers that hide skin below this height of the base mesh (metres) also hide socks."""
OVER_HAIR = 0.01
"""Distance of a hat from the fitted mesh, in metres, so that hair stays under it."""
OVER_BOTTOMS, OVER_SKIRT, SKIRT_OFF = 0.007, 0.002, 0.012
"""Offsets along normals (metres): a top over trousers, a top over a skirt, a skirt over skin."""
LOOSE_HEM, LOOSE_FROM, LOOSE_TO = 0.016, 0.16, 0.04
"""Additional offset (metres) of a cut top's hem over thick trousers, and the heights of the base mesh between which it
grows."""
GLASSES_SEGMENTS = 28


@dataclass
class Wardrobe:
    """Assets and shapes; cut garments and cloth textures are made at their first use."""

    assets: Assets
    basis: ShapeBasis
    _cuts: dict[str, Cut] = field(default_factory=dict)
    _cloth: dict[tuple[str, float], Texture] = field(default_factory=dict)
    _skinning: dict[str, Float[np.ndarray, "N 55"]] = field(default_factory=dict)
    plain: Texture = field(default_factory=lambda: mip_pyramid(np.full((8, 8, 4), 255, np.uint8)))
    """A white texture."""

    def cut(self, name: str) -> Cut:
        """A garment cut from the helper meshes."""
        if name not in self._cuts:
            self._cuts[name] = cut(name, self.assets, self.basis)
        return self._cuts[name]

    def cloth(self, name: str, stripe: float) -> Texture:
        """The texture of a cut garment; ``stripe``: period in decimetres."""
        if (name, stripe) not in self._cloth:
            self._cloth[name, stripe] = cloth(self.cut(name).mask, stripe)
        return self._cloth[name, stripe]

    def skinning(self, garment: Garment) -> Float[np.ndarray, "N 55"]:
        """Skinning weights of a fitted garment."""
        if garment.name not in self._skinning:
            self._skinning[garment.name] = garment.skinning(self.basis.weights)
        return self._skinning[garment.name]


def load_wardrobe(assets: Path, cache: Path | None = None) -> Wardrobe:
    """The wardrobe of an asset pack. Raises UserError as ``Assets`` and ``load_basis`` do."""
    return Wardrobe(Assets(assets), load_basis(cache))


@dataclass(frozen=True)
class Dressed:
    """A posed, dressed person."""

    figure: Figure
    posed: PosedFigure
    layers: tuple[Layer, ...]


def dress(wardrobe: Wardrobe, person: Person, pose: Pose) -> Dressed:
    """A person in their clothes, in a pose."""
    figure = wardrobe.basis.figure(person.phenotypes, person.changes)
    posed = wardrobe.basis.pose(figure, pose)
    return Dressed(figure, posed, tuple(_Fitting(wardrobe, person, figure, posed).layers()))


class _Fitting:
    """Dresses one person; garments hide the skin under them, so that clothes come before skin."""

    def __init__(self, wardrobe: Wardrobe, person: Person, figure: Figure, posed: PosedFigure) -> None:
        self.wardrobe, self.person, self.figure, self.posed = wardrobe, person, figure, posed
        self.assets, self.basis = wardrobe.assets, wardrobe.basis
        self.vertices = posed.skin(figure.vertices, self.basis.weights)
        self.hidden: Bool[np.ndarray, " V"] = np.zeros(len(self.vertices), bool)
        helpers = np.concatenate([self.assets.helper_faces(name) for name in ("tights", "skirt")])
        self.helper_normals = kernels.vertex_normals(self.vertices, helpers)

    def layers(self) -> Iterator[Layer]:
        """All meshes of the person."""
        person = self.person
        clothes = [*self._clothes()]
        yield from clothes
        yield self._skin()
        yield self._fitted("eyes", Part.EYES, kernels.EYE, self.assets.texture(person.eyes), tint=np.full(3, 0.72))
        hair = to_linear(person.hair_rgb) * TINTED
        brows = np.minimum(to_linear(person.brow_rgb), 0.3) * TINTED
        for name, part, tint, tolerance in (
            (person.brows, Part.BROWS, brows, 4e-3),
            (person.lashes, Part.LASHES, np.full(3, 0.02), 1e-3),
        ):
            texture = self.assets.texture(name, change=alpha_only)
            yield self._fitted(
                name, part, kernels.CLOTH, texture, tint=tint, solid=False, blended=True, tolerance=tolerance
            )
        if person.hair:
            texture = self.assets.texture(person.hair)
            yield self._fitted(person.hair, Part.HAIR, kernels.HAIR, texture, tint=hair, blended=True)
        if person.outfit.hat:
            # the pack's texture of the hat is a relief, not a colour
            felt, tint = self.wardrobe.plain, to_linear(person.outfit.hat_rgb)
            yield self._fitted("fedora", Part.HAT, kernels.CLOTH, felt, tint=tint, push=OVER_HAIR)
        if person.outfit.glasses:
            yield self._glasses()

    def _clothes(self) -> Iterator[Layer]:
        outfit = self.person.outfit
        skirt = outfit.bottoms.item.endswith("skirt")
        yield self._garb(outfit.bottoms, Part.DRESS if outfit.is_dress else Part.BOTTOMS, SKIRT_OFF if skirt else 0.0)
        over = OVER_SKIRT if skirt and not outfit.top.is_suit else OVER_BOTTOMS
        yield self._garb(outfit.top, Part.DRESS if outfit.is_dress else Part.TOP, over)
        shoes, covered = self.assets.garment(outfit.shoes), self._covers_ankles()
        tinted = bool(outfit.shoes_colour)
        texture = self.assets.texture(outfit.shoes, change=luminance_only if tinted else None)
        tint = to_linear(outfit.shoes_rgb) * TINTED if tinted else np.ones(3)
        self.hidden[shoes.hides[shoes.hides < SKIN_VERTICES]] = True
        yield self._fitted(outfit.shoes, Part.SHOES, kernels.CLOTH, texture, tint=tint, keep=(0,))
        if not covered and shoes.part is not None and shoes.part.max() > 0:
            socks = tuple(range(1, int(shoes.part.max()) + 1))
            yield self._fitted(
                outfit.shoes, Part.SOCKS, kernels.CLOTH, texture, tint=np.full(3, 0.8) if tinted else tint, keep=socks
            )

    def _covers_ankles(self) -> bool:
        bottoms = self.person.outfit.bottoms
        if not bottoms.is_suit:
            return bottoms.item in ("leggings", "long skirt")
        hides = self.assets.garment(bottoms.item).hides_bottoms
        return hides is not None and len(hides) > 0 and float(self.basis.template[hides, 1].min()) < LONG_TROUSERS

    def _garb(self, garb: Garb, part: Part, push: float) -> Layer:
        tint = to_linear(garb.rgb) * TINTED
        if not garb.is_suit:
            piece = self.wardrobe.cut(garb.item)
            height = self.basis.template[piece.vertices, 1]
            loose = np.clip((LOOSE_FROM - height) / (LOOSE_FROM - LOOSE_TO), 0, 1)
            off = push + LOOSE_HEM * loose if part is Part.TOP and self.person.outfit.bottoms.is_suit else push
            normals = self.helper_normals[piece.vertices]
            vertices = (self.vertices[piece.vertices] + np.reshape(off, (-1, 1)) * normals).astype(np.float32)
            self.hidden[piece.hides] = True
            stripe = to_linear(garb.stripe_rgb) * TINTED if garb.stripe else np.zeros(3)
            return Layer(
                part, kernels.CLOTH, vertices, kernels.vertex_normals(vertices, piece.faces), piece.faces, piece.faces,
                piece.uv, self.wardrobe.cloth(garb.item, garb.stripe), tint.astype(np.float32),
                stripe.astype(np.float32), blended=True,
            )  # fmt: skip
        garment, lower = self.assets.garment(garb.item), part is Part.BOTTOMS
        original = not garb.colour
        hides = garment.hides_bottoms if lower else garment.hides_top
        self.hidden[garment.hides if hides is None else hides] = True
        texture = self.assets.texture(garb.item, "colour" if original else "tint")
        return self._fitted(
            garb.item,
            part,
            kernels.CLOTH,
            texture,
            tint=np.ones(3) if original else tint,
            keep=(int(lower),),
            push=push,
        )

    def _skin(self) -> Layer:
        faces, uv_faces, uv = self.assets.skin_faces
        seen = ~self.hidden[faces].all(1)
        person = self.person
        return Layer(
            Part.SKIN, kernels.SKIN, self.vertices, kernels.vertex_normals(self.vertices, faces), faces[seen],
            uv_faces[seen], uv, self.assets.texture(person.skin), person.skin_gain.astype(np.float32),
            second=self.assets.texture(person.second_skin), mix=person.skin_mix,
        )  # fmt: skip

    def _fitted(
        self,
        name: str,
        part: Part,
        material: int,
        texture: Texture,
        *,
        tint: np.ndarray,
        keep: tuple[int, ...] = (),
        push: float = 0.0,
        **how: bool | float,
    ) -> Layer:
        """A garment of the pack.

        Args:
            keep: parts of its triangles to keep (see ``Garment.part``); empty: all.
            push: offset along normals in metres.
            how: further fields of the layer.
        """
        garment = self.assets.garment(name)
        vertices = self.posed.skin(garment.fit(self.figure.vertices), self.wardrobe.skinning(garment))
        faces, uv_faces = garment.faces, garment.uv_faces
        if keep and garment.part is not None:
            chosen = np.isin(garment.part, keep)
            faces, uv_faces = faces[chosen], uv_faces[chosen]
        normals = kernels.vertex_normals(vertices, faces)
        if push:
            vertices = (vertices + push * normals).astype(np.float32)
        return Layer(
            part, material, vertices, normals, faces, uv_faces, garment.uv, texture, tint.astype(np.float32), **how  # pyright: ignore[reportArgumentType]
        )  # fmt: skip

    def _glasses(self) -> Layer:
        """Two rims, a bridge and temples."""
        left, right = (self.figure.joints[JOINT[f"{side}_eye"]] for side in ("left", "right"))
        half, wide = abs(float(left[0] - right[0])) / 2, self.person.outfit.glasses_round
        front = float(left[2]) + 0.033
        pieces = []
        angles = np.linspace(0, 2 * np.pi, GLASSES_SEGMENTS + 1)
        for side, eye in ((1.0, left), (-1.0, right)):
            centre = np.array([eye[0] + side * 0.001, eye[1] - 0.004, front])
            corner = 2.0 + 3.0 * (1 - wide)  # a superellipse: round at 2, nearly a rectangle at 5
            c, s = np.cos(angles), np.sin(angles)
            radius = (np.abs(c) ** corner + np.abs(s) ** corner) ** (-1 / corner)
            line = centre + np.stack([0.026 * radius * c, (0.019 + 0.005 * wide) * radius * s, -0.004 * np.abs(c)], 1)
            pieces.append(_tube(line, 0.0013))
            x, y = eye[0], eye[1]
            temple = [
                (x + side * 0.026, y + 0.004, front - 0.003),
                (x + side * 0.042, y + 0.006, front - 0.03),
                (x + side * 0.044, y + 0.004, front - 0.11),
            ]
            pieces.append(_tube(np.array(temple), 0.0013))
        middle, inner, y = left[0] - half, half - 0.024, left[1] + 0.002
        bridge = [(middle - inner, y, front), (middle, y + 0.002, front + 0.003), (middle + inner, y, front)]
        pieces.append(_tube(np.array(bridge), 0.0012))
        starts = np.cumsum([0, *(len(points) for points, _ in pieces[:-1])])
        points = np.concatenate([points for points, _ in pieces])
        faces = np.concatenate([faces + start for (_, faces), start in zip(pieces, starts, strict=True)])
        weights = np.zeros((len(points), len(self.figure.joints)), np.float32)
        weights[:, JOINT["head"]] = 1
        vertices = self.posed.skin(points.astype(np.float32), weights)
        faces = faces.astype(np.int32)
        tint = to_linear(self.person.outfit.glasses_rgb)
        return Layer(
            Part.GLASSES, kernels.EYE, vertices, kernels.vertex_normals(vertices, faces), faces, faces,
            np.zeros((len(points), 2), np.float32), self.wardrobe.plain, tint,
        )  # fmt: skip


def _tube(line: Float[np.ndarray, "n 3"], radius: float) -> tuple[Float[np.ndarray, "m 3"], Int[np.ndarray, "f 3"]]:
    """A four-sided tube along a line of points (metres)."""
    ahead = np.gradient(line, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    side = np.cross(ahead, np.array([0.1, 0.2, 1.0]))
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(side, ahead)
    rings = np.stack([line + radius * (a * side + b * up) for a, b in ((1, 0), (0, 1), (-1, 0), (0, -1))], 1)
    index = np.arange(4 * len(line)).reshape(len(line), 4)
    a, b = index[:-1], index[1:]
    c, d = np.roll(a, -1, 1), np.roll(b, -1, 1)
    faces = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])
    return rings.reshape(-1, 3), faces
