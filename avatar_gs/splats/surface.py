"""The body's surface at rest: random points on it, the part of it that can be seen, and the way back to it."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from avatar_gs.splats.model import GaussianModel
from avatar_gs.splats.neighbours import Points
from avatar_gs.types import PosedBody

GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


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


def random_barycentric(count: int, generator: torch.Generator) -> Float[Tensor, "N 3"]:
    """Coordinates of points that are uniform in a triangle."""
    u, v = torch.rand(2, count, generator=generator)
    root = u.sqrt()
    return torch.stack([1 - root, root * (1 - v), root * v], -1)


def exposed_faces(
    corners: Float[Tensor, "F 3 3"], *, directions: int = 64, cell: float = 0.01, slack: float = 0.012
) -> Bool[Tensor, " F"]:
    """Which triangles can be seen from outside: not the mouth's cavity, the tongue, or the back of the eyeballs.

    Centroids are sorted into the cells (metres) of a grid across each of ``directions`` spread over the sphere; one
    is seen if it faces that way and lies within ``slack`` (metres) of the foremost in its cell.
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
    """The body's surface at rest as dense points, to find how far splats have left it."""

    def __init__(self, rest: PosedBody, count: int = 50_000) -> None:
        corners = rest.vertices.cpu()[rest.faces.cpu()]
        areas, normals = areas_and_normals(corners)
        areas = areas * exposed_faces(corners)
        generator = torch.Generator().manual_seed(0)
        faces = torch.multinomial(areas.double(), count, replacement=True, generator=generator)
        points = (random_barycentric(count, generator)[..., None] * corners[faces]).sum(1)
        self.points = Points(points.to(rest.vertices.device))
        self.normals = normals[faces].to(rest.vertices.device)

    def distances(self, places: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        """Metres from each place to the nearest point."""
        return self.points.nearest(places, 1)[0][:, 0]

    @torch.no_grad()
    def refresh(self, model: GaussianModel) -> None:
        """Renew the splats' ``anchors`` and ``normals``; worth it every few tens of steps (a few ms)."""
        index = self.points.nearest(model.params["means"], 1)[1][:, 0]
        model.params["anchors"].copy_(self.points.points[index])
        model.params["normals"].copy_(self.normals[index])


def _plane(direction: Tensor) -> Float[Tensor, "3 2"]:
    """Two unit vectors across a direction and each other."""
    axis = torch.eye(3)[direction.abs().argmin()]
    u = torch.nn.functional.normalize(torch.linalg.cross(axis, direction), dim=0)
    return torch.stack([u, torch.linalg.cross(direction, u)], -1)
