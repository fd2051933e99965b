"""The body under an avatar as a rigged mesh, whose texture has the colours of the splats around it.

For programs that know no splats: games, animation, print. What stands off the body (a skirt, long hair) is seen as a
colour on it.
"""

import importlib.util
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from avatar_gs.core.errors import UserError
from avatar_gs.core.images import to_uint8
from avatar_gs.export.glb import write_mesh_glb
from avatar_gs.geometry import quat_to_matrix
from avatar_gs.splats.neighbours import Points
from avatar_gs.splats.posing import Triangles
from avatar_gs.splats.surface import vertex_normals
from avatar_gs.types import Gaussians
from avatar_gs.viewer.rig import Rig

NEIGHBOURS = 24
"""Splats that a point of the surface is coloured by: the nearest ones."""
BEHIND, IN_FRONT = -0.03, 0.10
"""Metres along the surface's normal within which splats count."""
PADDING = 4
"""Texels around each chart that are coloured as its rim is."""
CHUNK = 16_384
"""Texels coloured at a time, to bound the memory."""


@dataclass(frozen=True)
class Skin:
    """The surface of a body under an avatar, and the avatar's splats at rest."""

    rest: Float[Tensor, "V 3"]
    posed: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]
    weights: Float[Tensor, "V J"]
    """Skinning weights."""
    splats: Gaussians
    """Finite, around ``rest``."""


@dataclass(frozen=True)
class Unwrapped:
    """A mesh cut open along seams: U vertices, which repeat those of the mesh."""

    origins: Int[np.ndarray, " U"]
    """The mesh's vertex that each is."""
    faces: Int[np.ndarray, "F 3"]
    uv: Float[np.ndarray, "U 2"]
    """In [0, 1], (0, 0) at the texture's upper left."""


def require_mesh() -> None:
    """Raise UserError unless the package that unwraps surfaces is installed."""
    if importlib.util.find_spec("xatlas") is None:
        raise UserError("export.formats: mesh needs the package xatlas: pip install 'avatar-gs[mesh]'")


def write_mesh(path: str | Path, skin: Skin, rig: Rig, texture_size: int = 1024) -> None:
    """Write the mesh as a binary glTF file, in the pose of ``rig``, with the world's axes.

    Args:
        path: the file.
        skin: the surface, and the splats that colour it.
        rig: the skeleton in the pose of ``skin.posed``.
        texture_size: side of the texture in pixels.

    Raises:
        UserError: if xatlas is not installed.
        OSError: if the file cannot be written.
    """
    open_mesh = unwrap(skin.rest, skin.faces, texture_size)
    texture = bake(skin, open_mesh, texture_size)
    png = io.BytesIO()
    Image.fromarray(texture).save(png, format="PNG", optimize=True)
    origins = torch.from_numpy(open_mesh.origins)
    write_mesh_glb(
        path,
        skin.posed.detach().cpu()[origins].numpy(),
        open_mesh.faces,
        open_mesh.uv,
        png.getvalue(),
        replace(rig, weights=skin.weights.detach().cpu()[origins]),
    )


def unwrap(vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], texture_size: int) -> Unwrapped:
    """Texture coordinates by xatlas: charts of little distortion that do not overlap. Takes seconds."""
    require_mesh()
    import xatlas

    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices.detach().cpu().numpy(), faces.cpu().numpy().astype(np.uint32))
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding = texture_size, 2 * PADDING
    atlas.generate(pack_options=packing)
    origins, indices, uv = atlas[0]
    return Unwrapped(origins.astype(np.int64), indices.astype(np.int64), uv)


@torch.no_grad()
def bake(skin: Skin, open_mesh: Unwrapped, texture_size: int) -> UInt8[np.ndarray, "S S 3"]:
    """The texture: each texel has the colour that the splats show along the surface's normal there."""
    origins, faces = torch.from_numpy(open_mesh.origins), torch.from_numpy(open_mesh.faces)
    rest = skin.rest.cpu().float()
    flat = torch.nn.functional.pad(torch.from_numpy(open_mesh.uv).float(), (0, 1))
    # Outside of all charts, the nearest point of a rim.
    centres = (torch.arange(texture_size) + 0.5) / texture_size
    texels = torch.cartesian_prod(centres, centres).flip(1)
    place = Triangles(flat, faces).attach(torch.nn.functional.pad(texels, (0, 1)))
    used = (place.interpolate(flat)[:, :2] - texels).abs().amax(1) * texture_size <= PADDING
    normals = vertex_normals(rest, skin.faces.cpu())
    texture = torch.zeros(texture_size**2, 3)
    texture[used] = shown_colors(
        place.interpolate(rest[origins])[used],
        torch.nn.functional.normalize(place.interpolate(normals[origins])[used], dim=-1),
        skin.splats,
    )
    # All else has the nearest texel's colour, so that smaller levels of the texture show no seam.
    nearest = distance_transform_edt(
        ~used.reshape(texture_size, texture_size).numpy(), return_distances=False, return_indices=True
    )
    return to_uint8(texture.reshape(texture_size, texture_size, 3))[tuple(np.asarray(nearest))]


@torch.no_grad()
def shown_colors(
    points: Float[Tensor, "P 3"], normals: Float[Tensor, "P 3"], splats: Gaussians
) -> Float[Tensor, "P 3"]:
    """The colours that a viewer sees who looks at surface points against their normals.

    Along the line through a point, each of the nearest splats has its largest density at one place; they are blended
    there from the outside inwards, and what remains transparent has the colour of the nearest splat.
    """
    axes = quat_to_matrix(splats.quats.detach().cpu()) / splats.scales.detach().cpu()[:, None]
    means, colors, opacities = (part.detach().cpu() for part in (splats.means, splats.colors, splats.opacities))
    near = Points(means).nearest(points, min(NEIGHBOURS, len(means)))[1]
    parts = []
    for point, normal, index in zip(points.split(CHUNK), normals.split(CHUNK), near.split(CHUNK), strict=True):
        # In each splat's own frame, in standard deviations.
        offset = ((means[index] - point[:, None])[..., None, :] @ axes[index])[..., 0, :]
        along = (normal[:, None, None, :] @ axes[index])[..., 0, :]
        height = (offset * along).sum(-1) / along.square().sum(-1)
        distance = (offset - height[..., None] * along).square().sum(-1)
        alpha = opacities[index] * torch.exp(-0.5 * distance) * ((height > BEHIND) & (height < IN_FRONT))
        order = height.argsort(dim=1, descending=True)
        alpha, color = alpha.gather(1, order), colors[index].gather(1, order[..., None].expand(-1, -1, 3))
        left = torch.cumprod(1 - alpha, 1)
        weight = alpha * torch.cat([torch.ones_like(left[:, :1]), left[:, :-1]], 1)
        parts.append((weight[..., None] * color).sum(1) + left[:, -1:] * colors[index[:, 0]])
    return torch.cat(parts)
