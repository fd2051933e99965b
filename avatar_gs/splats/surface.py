"""The body's surface at rest: points on it, the splats that an avatar starts from, and their distance to it."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from avatar_gs.geometry import matrix_to_quat
from avatar_gs.splats.config import SplatsConfig
from avatar_gs.splats.model import GaussianModel, rgb_to_sh
from avatar_gs.splats.neighbours import Points
from avatar_gs.types import PosedBody

GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
# SMPL-X joints: head, jaw and eyes; wrists and fingers; ankles and feet
HEAD_JOINTS = (15, 22, 23, 24)
HAND_JOINTS = (20, 21, *range(25, 55))
FOOT_JOINTS = (7, 8, 10, 11)
CANDIDATES = 12
"""Random candidates per sampled point."""
ROUNDS = 5
"""Rounds of k-means."""


def areas_and_normals(corners: Float[Tensor, "F 3 3"]) -> tuple[Float[Tensor, " F"], Float[Tensor, "F 3"]]:
    """Areas (square metres) and unit normals of triangles."""
    cross = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return 0.5 * cross.norm(dim=-1), torch.nn.functional.normalize(cross, dim=-1)


def vertex_normals(vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "V 3"]:
    """Area-weighted unit normals."""
    corners = vertices[faces]
    cross = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = torch.zeros_like(vertices)
    for corner in range(3):
        total.index_add_(0, faces[:, corner], cross)
    return torch.nn.functional.normalize(total, dim=-1)


def random_points(
    weights: Float[Tensor, " F"], count: int, generator: torch.Generator
) -> tuple[Int[Tensor, " N"], Float[Tensor, "N 3"]]:
    """Random points of a mesh: triangles by weight, and uniformly distributed barycentric coordinates."""
    faces = torch.multinomial(weights.double(), count, replacement=True, generator=generator)
    return faces, random_barycentric(count, generator)


def interpolated(
    values: Float[Tensor, "V C"], corners: Int[Tensor, "N 3"], barycentric: Float[Tensor, "N 3"]
) -> Float[Tensor, "N C"]:
    """Per-vertex values at points, from the vertices of each point's triangle and its barycentric coordinates."""
    return (barycentric[..., None] * values[corners]).sum(1)


def random_barycentric(count: int, generator: torch.Generator) -> Float[Tensor, "N 3"]:
    """Barycentric coordinates of points uniformly distributed in a triangle."""
    u, v = torch.rand(2, count, generator=generator)
    root = u.sqrt()
    return torch.stack([1 - root, root * (1 - v), root * v], -1)


def exposed_faces(
    corners: Float[Tensor, "F 3 3"], *, directions: int = 64, cell: float = 0.01, slack: float = 0.012
) -> Bool[Tensor, " F"]:
    """A mask of the triangles that are visible from outside: not the mouth's cavity, tongue or back of the eyeballs.

    Args:
        directions: number of view directions, evenly distributed over the sphere.
        cell: cell size in metres of the grid that centroids are sorted into, across each direction.
        slack: a triangle is visible if it faces the direction, and its centroid is within ``slack`` metres of the
            foremost one in its cell.
    """
    _, normals = areas_and_normals(corners)
    centroids = corners.mean(1)
    seen = torch.zeros(len(corners), dtype=torch.bool)
    for k in range(directions):
        y = 1 - (2 * k + 1) / directions
        ring, angle = math.sqrt(1 - y * y), k * GOLDEN_ANGLE
        towards = torch.tensor([ring * math.cos(angle), y, ring * math.sin(angle)])
        grid = (centroids @ _plane(towards) / cell).floor().long()
        grid -= grid.amin(0)
        index = grid[:, 0] * (int(grid[:, 1].max()) + 1) + grid[:, 1]
        height = centroids @ towards
        foremost = torch.full((int(index.max()) + 1,), -math.inf).scatter_reduce(0, index, height, "amax")
        seen |= (height >= foremost[index] - slack) & (normals @ towards > 0.1)
    return seen


class RestSurface:
    """The body's surface at rest as dense points, to measure how far splats are from it."""

    def __init__(self, rest: PosedBody, count: int = 50_000) -> None:
        vertices, triangles = rest.vertices.cpu(), rest.faces.cpu()
        areas, normals = areas_and_normals(vertices[triangles])
        areas = areas * exposed_faces(vertices[triangles])
        faces, barycentric = random_points(areas, count, torch.Generator().manual_seed(0))
        self.points = Points(interpolated(vertices, triangles[faces], barycentric).to(rest.vertices.device))
        self.normals = normals[faces].to(rest.vertices.device)

    def distances(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        """Metres from each point to the surface."""
        return self.points.nearest(points, 1)[0][:, 0]

    @torch.no_grad()
    def refresh(self, model: GaussianModel) -> None:
        """Update the splats' ``anchors`` and ``normals`` (a few ms; needed every few tens of steps)."""
        index = self.points.nearest(model.params["means"], 1)[1][:, 0]
        model.params["anchors"].copy_(self.points.points[index])
        model.params["normals"].copy_(self.normals[index])


@dataclass(frozen=True)
class SurfaceSamples:
    """Points on the body's surface: unit outward normals, skinning weights, mean distance to near points (metres)."""

    points: Float[Tensor, "N 3"]
    normals: Float[Tensor, "N 3"]
    skinning: Float[Tensor, "N 55"]
    spacing: Float[Tensor, " N"]


def sample_surface(
    body: PosedBody,
    weights: Float[Tensor, "V 55"],
    count: int,
    generator: torch.Generator,
    face_density: Float[Tensor, " F"] | None = None,
) -> SurfaceSamples:
    """Evenly spaced points on the visible surface, with a density proportional to area times ``face_density``.

    Candidates are sampled independently, then thinned by a few rounds of k-means with centres that snap to the nearest
    candidate. Normals are part of the distance, so that the two sides of a finger stay separate.
    """
    density = torch.ones(len(body.faces)) if face_density is None else face_density
    vertices, triangles = body.vertices.cpu(), body.faces.cpu()
    areas, _ = areas_and_normals(vertices[triangles])
    areas = areas * exposed_faces(vertices[triangles])
    faces, barycentric = random_points(areas * density, count * CANDIDATES, generator)
    points = interpolated(vertices, triangles[faces], barycentric)
    normals = interpolated(vertex_normals(vertices, triangles), triangles[faces], barycentric)
    normals = torch.nn.functional.normalize(normals, dim=-1)
    expected = (areas * density).sum().div(count).sqrt() / density.sqrt()
    keep = _even(points, normals, float(expected[faces].mean()), count)
    skinning = interpolated(weights.cpu(), triangles[faces[keep]], barycentric[keep])
    spacing = neighbour_distance(points[keep]).clamp(0.3 * expected[faces[keep]], 1.5 * expected[faces[keep]])
    return SurfaceSamples(points[keep], normals[keep], skinning / skinning.sum(-1, keepdim=True), spacing)


def neighbour_distance(points: Float[Tensor, "N 3"], neighbours: int = 4) -> Float[Tensor, " N"]:
    """The mean distance from each point to its nearest others."""
    distances, _ = Points(points).nearest(points, neighbours + 1)
    return torch.from_numpy(distances[:, 1:].numpy().mean(-1)).to(points.dtype)


def part_density(
    config: SplatsConfig, weights: Float[Tensor, "V 55"], faces: Int[Tensor, "F 3"]
) -> Float[Tensor, " F"]:
    """The sampling density of each face, from its skinning weights for head, hands and feet."""
    density = torch.ones(len(weights))
    for joints, factor in (
        (HEAD_JOINTS, config.head_density),
        (HAND_JOINTS, config.hand_density),
        (FOOT_JOINTS, config.foot_density),
    ):
        density += (factor - 1) * weights.cpu()[:, list(joints)].sum(-1)
    return density[faces.cpu()].mean(-1)


def surface_splats(
    config: SplatsConfig, rest: PosedBody, weights: Float[Tensor, "V 55"], generator: torch.Generator
) -> GaussianModel:
    """A grey avatar: flat disks in the surface of the body at rest."""
    samples = sample_surface(rest, weights, config.count, generator, part_density(config, weights, rest.faces))
    radius = (config.disk_radius * samples.spacing).clamp(config.min_scale, config.max_scale)
    thickness = (config.thickness * radius).clamp_min(config.min_scale)
    count = len(samples.points)
    tensors = {
        "means": samples.points,
        "quats": matrix_to_quat(_frames(samples.normals)),
        "scales": torch.stack([radius, radius, thickness], -1).log(),
        "opacities": torch.full((count,), config.opacity).logit(),
        "sh0": rgb_to_sh(torch.full((count, 1, 3), config.color)),
        "skinning": samples.skinning,
        "anchors": samples.points,
        "normals": samples.normals,
    }
    return GaussianModel.from_config(config, tensors)


def _even(points: Tensor, normals: Tensor, spacing: float, count: int) -> Tensor:
    """Indices of ``count`` evenly spaced candidates, out of candidates in random order."""
    features = torch.cat([points / spacing, normals], -1).double().numpy()
    centres, workers = features[:count], torch.get_num_threads()
    for _ in range(ROUNDS):
        _, nearest = KDTree(centres).query(features, workers=workers)
        members = np.bincount(nearest, minlength=count)[:, None]
        sums = np.stack([np.bincount(nearest, column, minlength=count) for column in features.T], -1)
        centres = np.where(members > 0, sums / np.maximum(members, 1), centres)
    _, closest = KDTree(features).query(centres, workers=workers)
    # Several centres may snap to one candidate: fill up with unused ones.
    chosen = np.unique(closest)
    unused = np.setdiff1d(np.arange(len(features)), chosen)
    return torch.from_numpy(np.sort(np.concatenate([chosen, unused[: count - len(chosen)]])))


def _frames(normals: Tensor) -> Tensor:
    """Rotations with the normal as their third column."""
    # The world axis least aligned with the normal gives a well-conditioned tangent.
    axis = torch.eye(3, dtype=normals.dtype)[normals.abs().argmin(-1)]
    tangent = torch.nn.functional.normalize(torch.linalg.cross(axis, normals), dim=-1)
    return torch.stack([tangent, torch.linalg.cross(normals, tangent), normals], -1)


def _plane(direction: Tensor) -> Float[Tensor, "3 2"]:
    """Two unit vectors, orthogonal to a direction and each other."""
    axis = torch.eye(3)[direction.abs().argmin()]
    u = torch.nn.functional.normalize(torch.linalg.cross(axis, direction), dim=0)
    return torch.stack([u, torch.linalg.cross(direction, u)], -1)
