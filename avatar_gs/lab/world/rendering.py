"""Renders of dressed people: a z-buffer of rest-pose positions, painted per pixel.

Painting in rest-pose coordinates keeps seams, stripes and the face sharp on a coarse mesh. The result is a map of part
ids and of shading; colours are applied afterwards, so that one geometry serves many outfits.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avatar_gs.lab.world import wardrobe as w
from avatar_gs.lab.world.people import Person
from avatar_gs.lab.world.vocabulary import AMBIENT
from avatar_gs.lab.world.wardrobe import Cut, DressedMesh, Wardrobe, cut_of, kernel, on_scalp, vertex_normals
from avatar_gs.types import Cameras, Framing, PosedBody

PARTS = (
    "background",
    "skin",
    "hair",
    "shirt",
    "stripe",
    "bottoms",
    "shoes",
    "eye",
    "brow",
    "mouth",
    "eye white",
    "hat",
    "glasses",
)
BACKGROUND, SKIN, HAIR, SHIRT, STRIPE, BOTTOMS, SHOES, EYE, BROW, MOUTH, EYE_WHITE, HAT, GLASSES = range(len(PARTS))
PART_IDS = {"hair": HAIR, "shirt": SHIRT, "bottoms": BOTTOMS, "shoes": SHOES, "hat": HAT, "stripe": STRIPE}
"""Ids of the parts whose colours have names."""
SHOWN_ON = {
    "hair": (Framing.HEAD, Framing.UPPER, Framing.BODY),
    "shirt": (Framing.UPPER, Framing.BODY),
    "bottoms": (Framing.LOWER, Framing.BODY),
    "shoes": (Framing.LOWER, Framing.BODY),
    "hat": (Framing.HEAD, Framing.UPPER, Framing.BODY),
    "stripe": (Framing.UPPER, Framing.BODY),
}
"""Framings in which these parts are expected to be visible."""
TORSO, ARM, HAND, LEG, FOOT, NECK, HEAD = w.TORSO, w.ARM, w.HAND, w.LEG, w.FOOT, w.NECK, w.HEAD
EYEBALL, HAIR_VOLUME, SKIRT, HAT_REGION, GLASSES_REGION = w.EYEBALL, w.HAIR_VOLUME, w.SKIRT, w.HAT, w.GLASSES


@dataclass(frozen=True)
class PartMap:
    """Part ids, shading (255 = full albedo) and depth (metres, inf for background) of one image, each ``[S, S]``."""

    parts: NDArray[np.uint8]
    shade: NDArray[np.uint8]
    depth: NDArray[np.float32]


def render_parts(
    wardrobe: Wardrobe,
    mesh: DressedMesh,
    person: Person,
    posed: PosedBody,
    shape_offset: NDArray[np.float32],
    cameras: Cameras,
    light: NDArray[np.floating],
) -> list[PartMap]:
    """A posed person from each camera.

    Args:
        shape_offset: displacement of the body's vertices by betas ``[V, 3]``, metres.
        light: world direction towards the light; need not be normalised.
    """
    vertices = skin(mesh, posed, shape_offset)
    lit = np.abs(vertex_normals(vertices, mesh.faces) @ (light / np.linalg.norm(light)))
    lit = (AMBIENT + (1 - AMBIENT) * lit).astype(np.float32)
    face_regions = mesh.regions[mesh.faces[:, 0]]
    paint_numbers = paint_parameters(person, cut_of(person, wardrobe.joints), wardrobe.joints)
    maps = []
    for camera in range(len(cameras)):
        buffer, nearest, first, second = _rasterise(_screen(vertices, cameras, camera), mesh.faces, cameras.height)
        parts, shade = _paint_pixels(
            nearest, first, second, mesh.faces, face_regions, mesh.vertices, lit, paint_numbers
        )
        maps.append(PartMap(parts, shade, buffer))
    return maps


def skin(mesh: DressedMesh, posed: PosedBody, shape_offset: NDArray[np.float32]) -> NDArray[np.float32]:
    """Linear blend skinning of the dressed mesh."""
    transforms = posed.T_posed_rest.numpy()
    blended = (mesh.weights @ transforms.reshape(55, 16)).reshape(-1, 4, 4)
    rest = mesh.vertices + shape_offset[mesh.anchors]
    return (np.einsum("vij,vj->vi", blended[:, :3, :3], rest) + blended[:, :3, 3]).astype(np.float32)


def paint_parameters(person: Person, cut: Cut, joints: NDArray[np.float32]) -> NDArray[np.float32]:
    """The parameters of ``_paint``, in its order."""
    return np.array(
        [
            cut.sleeve_x, cut.hem_y, cut.neck_y, cut.leg_y, cut.shoe_y, cut.hairline_y, cut.hair_side_z, cut.hair_low_y,
            float(bool(person.hair)), person.stripe_width, joints[w.HEAD_JOINT, 1], joints[23, 0], joints[23, 1],
            joints[23, 2], 0.0055 + 0.003 * person.brow_width, 0.020 + 0.008 * person.mouth_width,
        ],
        np.float32,
    )  # fmt: skip


@kernel
def _paint(region, x, y, z, p):
    """The part at a rest-pose point, with the parameters ``p`` of ``paint_parameters``."""
    if region == HAIR_VOLUME:
        return HAIR
    if region == HAT_REGION:
        return HAT
    if region == GLASSES_REGION:
        return GLASSES
    if region == SKIRT:
        return BOTTOMS
    if region == HAND:
        return SKIN
    ax = abs(x)
    if region == ARM:
        if ax > p[0]:
            return SKIN
        return STRIPE if int(np.floor(ax / p[9])) % 2 else SHIRT
    if region == NECK or (region == TORSO and y > p[2] - 0.03):
        collar = p[2] - 1.5 * max(0.0, 0.07 - ax) * max(0.0, z) / 0.1
        if y > collar and ax < 0.10:
            return SKIN
    if region in (TORSO, LEG, FOOT, NECK):
        if y > p[1]:
            return STRIPE if int(np.floor((y + 1) / p[9])) % 2 else SHIRT
        if y > p[3]:
            return BOTTOMS
        return SHOES if y < p[4] else SKIN
    if region == EYEBALL:
        radius = np.hypot(ax - p[11], y - p[12])
        return EYE if radius < 0.0075 and z > p[13] else EYE_WHITE
    return _paint_head(ax, y, z, p)


@kernel
def _paint_head(ax, y, z, p):
    head_y, eye_x, eye_y = p[10], p[11], p[12]
    if p[8] > 0 and on_scalp(ax, y, z, head_y, p[5], p[6], p[7]):
        return HAIR
    if z > 0.07:
        arch = 0.024 - 0.35 * (ax - eye_x) * (ax - eye_x) / 0.02
        if abs(ax - eye_x) < 0.021 and abs(y - eye_y - arch) < p[14] * (1.1 - 0.5 * abs(ax - eye_x) / 0.021):
            return BROW
        mx, my = ax / p[15], (y - (head_y - 0.044)) / 0.0095
        if mx * mx + my * my < 1.0:
            return MOUTH
        if (ax - eye_x) ** 2 + (1.5 * (y - eye_y)) ** 2 < 0.0152**2:
            return EYE if (ax - eye_x) ** 2 + (y - eye_y) ** 2 < 0.0078**2 else EYE_WHITE
    return SKIN


@kernel
def _rasterise(screen, faces, size):
    """Z-buffer at pixel centres: depth, nearest face (-1: none) and its first two barycentric coordinates."""
    buffer = np.full((size, size), np.inf, np.float32)
    nearest = np.full((size, size), -1, np.int64)
    first, second = np.zeros((size, size), np.float32), np.zeros((size, size), np.float32)
    for face in range(faces.shape[0]):
        a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
        ax, ay, az = screen[a, 0], screen[a, 1], screen[a, 2]
        bx, by, bz = screen[b, 0], screen[b, 1], screen[b, 2]
        cx, cy, cz = screen[c, 0], screen[c, 1], screen[c, 2]
        if az < 0.05 or bz < 0.05 or cz < 0.05:
            continue
        x0, x1 = max(0, int(np.ceil(min(ax, bx, cx) - 0.5))), min(size - 1, int(np.floor(max(ax, bx, cx) - 0.5)))
        y0, y1 = max(0, int(np.ceil(min(ay, by, cy) - 0.5))), min(size - 1, int(np.floor(max(ay, by, cy) - 0.5)))
        area = (by - cy) * (ax - cx) + (cx - bx) * (ay - cy)
        if x1 < x0 or y1 < y0 or abs(area) < 1e-12:
            continue
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                u = ((by - cy) * (x + 0.5 - cx) + (cx - bx) * (y + 0.5 - cy)) / area
                v = ((cy - ay) * (x + 0.5 - cx) + (ax - cx) * (y + 0.5 - cy)) / area
                if u < -1e-6 or v < -1e-6 or 1 - u - v < -1e-6:
                    continue
                z = u * az + v * bz + (1 - u - v) * cz
                if z < buffer[y, x]:
                    buffer[y, x], nearest[y, x], first[y, x], second[y, x] = z, face, u, v
    return buffer, nearest, first, second


@kernel
def _paint_pixels(nearest, first, second, faces, face_regions, rest, lit, paint):
    """Part and shading of every covered pixel, by its rest-pose position and its interpolated light."""
    size = nearest.shape[0]
    parts, shade = np.zeros((size, size), np.uint8), np.zeros((size, size), np.uint8)
    for y in range(size):
        for x in range(size):
            face = nearest[y, x]
            if face < 0:
                continue
            a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
            u, v = first[y, x], second[y, x]
            t = 1 - u - v
            px = u * rest[a, 0] + v * rest[b, 0] + t * rest[c, 0]
            py = u * rest[a, 1] + v * rest[b, 1] + t * rest[c, 1]
            pz = u * rest[a, 2] + v * rest[b, 2] + t * rest[c, 2]
            parts[y, x] = _paint(face_regions[face], px, py, pz, paint)
            shade[y, x] = min(255, int(255 * (u * lit[a] + v * lit[b] + t * lit[c])))
    return parts, shade


def mesh_depth(vertices: NDArray, faces: NDArray[np.int64], cameras: Cameras) -> NDArray[np.float32]:
    """Depth in metres ``[B, S, S]`` of a mesh (inf for background)."""
    screens = (_screen(vertices, cameras, camera) for camera in range(len(cameras)))
    return np.stack([_rasterise(screen, faces, cameras.height)[0] for screen in screens])


def _screen(vertices: NDArray, cameras: Cameras, camera: int) -> NDArray[np.float32]:
    """Pixel positions and depth ``[V, 3]`` in one camera of the batch."""
    T = cameras.T_camera_world[camera].numpy()
    points = (vertices @ T[:3, :3].T + T[:3, 3]) @ cameras.K[camera].numpy().T
    depth = points[:, 2:]
    return np.concatenate([points[:, :2] / np.maximum(depth, 1e-6), depth], 1).astype(np.float32)


def palette(person: Person, clothes: dict[str, tuple[float, float, float]], background: NDArray) -> NDArray[np.float32]:
    """Colours of the parts ``[13, 3]``, 0..255; ``clothes`` holds those of shirt, stripe, bottoms, shoes and hat."""
    colours = np.zeros((len(PARTS), 3), np.float32)
    colours[BACKGROUND] = background
    colours[SKIN], colours[HAIR] = person.skin_rgb, person.hair_rgb
    for part, name in ((SHIRT, "shirt"), (STRIPE, "stripe"), (BOTTOMS, "bottoms"), (SHOES, "shoes"), (HAT, "hat")):
        colours[part] = clothes[name]
    colours[EYE], colours[BROW], colours[MOUTH] = person.eye_rgb, person.brow_rgb, person.mouth_rgb
    colours[EYE_WHITE], colours[GLASSES] = (235, 235, 235), (25, 25, 30)
    return colours


@kernel
def colour_image(parts, shade, colours, out, ratio):
    """Colour a part map and box-filter it by ``ratio`` into ``out`` ([S/ratio, S/ratio, 3], uint8)."""
    size = parts.shape[0] // ratio
    for y in range(size):
        for x in range(size):
            for channel in range(3):
                total = 0.0
                for i in range(ratio):
                    for j in range(ratio):
                        part = parts[y * ratio + i, x * ratio + j]
                        light = shade[y * ratio + i, x * ratio + j] / 255.0 if part else 1.0
                        total += colours[part, channel] * light
                out[y, x, channel] = np.uint8(total / (ratio * ratio) + 0.5)
