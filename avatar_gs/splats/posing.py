"""How splats follow the body: linear blend skinning, and pose correctives.

Bodies in the SMPL-X layout add offsets to their vertices that depend on the pose (Pavlakos et al. 2019, equation 3); a
splat moves as the surface below it does.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatar_gs.geometry import matrix_to_quat, quat_multiply
from avatar_gs.splats.neighbours import Points

CANDIDATES = 8
"""Nearest spots with triangles that a point is compared with. Of 100,000 random points of the free body, 99.9 % find
themselves, the others a point at most 1.4 mm away."""
SPOTS = ((1 / 3, 1 / 3, 1 / 3), (0.8, 0.1, 0.1), (0.1, 0.8, 0.1), (0.1, 0.1, 0.8))
"""Barycentric coordinates of the spots that represent a triangle in the search."""
CHUNK = 16_384
"""Points processed at a time, to bound the memory of candidates."""


def blend_transforms(weights: Float[Tensor, "N 55"], T_posed_rest: Float[Tensor, "55 4 4"]) -> Float[Tensor, "N 4 4"]:
    """The transform of each splat: joint transforms averaged by its skinning weights, which sum to 1."""
    return (weights @ T_posed_rest.flatten(1)).unflatten(1, (4, 4))


def nearest_rotation(matrices: Float[Tensor, "N 3 3"], iterations: int = 6) -> Float[Tensor, "N 3 3"]:
    """The rotation nearest to each matrix of positive determinant (its polar factor), differentiable.

    Newton's iteration R <- (R + R^-T) / 2 (Higham 1986) converges quadratically; blends of rotations up to 150
    degrees apart need at most six steps in float32. R^-T comes from cross products, not from a solver.
    """
    rotation = matrices
    for _ in range(iterations):
        a, b, c = rotation.unbind(-2)
        cofactor = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -2)
        determinant = (cofactor[:, 0] * a).sum(-1)[:, None, None]
        rotation = 0.5 * (rotation + cofactor / determinant)
    return rotation


def skin(
    means: Float[Tensor, "N 3"],
    quats: Float[Tensor, "N 4"],
    weights: Float[Tensor, "N 55"],
    T_posed_rest: Float[Tensor, "55 4 4"],
) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 4"]]:
    """Posed means (metres) and unit quaternions (wxyz) of splats at rest.

    A splat keeps its shape: its covariance becomes R S R^T, where R is the rotation nearest to the blended transform.
    """
    transforms = blend_transforms(weights, T_posed_rest)
    posed_means = (transforms[:, :3, :3] @ means[..., None])[..., 0] + transforms[:, :3, 3]
    rotation = matrix_to_quat(nearest_rotation(transforms[:, :3, :3]))
    return posed_means, quat_multiply(rotation, torch.nn.functional.normalize(quats, dim=-1))


@dataclass(frozen=True)
class Attachment:
    """Points on a body's surface: the vertices of their triangles, and barycentric coordinates."""

    vertices: Int[Tensor, "N 3"]
    barycentric: Float[Tensor, "N 3"]

    def interpolate(self, values: Float[Tensor, "V d"]) -> Float[Tensor, "N d"]:
        """Vertex values, interpolated at the points."""
        return (self.barycentric[..., None] * values[self.vertices]).sum(1)


class Triangles:
    """A body's surface at rest, to attach points to."""

    def __init__(self, vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]) -> None:
        self.faces, self.corners = faces, vertices[faces]
        spots = torch.einsum("sk,fkd->sfd", self.corners.new_tensor(SPOTS), self.corners)
        self.spots = Points(spots.flatten(0, 1))

    @torch.no_grad()
    def attach(self, points: Float[Tensor, "N 3"]) -> Attachment:
        """Attach each point (metres, on the surface's device) to the nearest point of the surface."""
        candidates = self.spots.nearest(points, CANDIDATES)[1] % len(self.faces)
        parts = [
            _nearest(some, self.corners, triangles)
            for some, triangles in zip(points.split(CHUNK), candidates.split(CHUNK), strict=True)
        ]
        chosen, barycentric = (torch.cat(part) for part in zip(*parts, strict=True))
        return Attachment(self.faces[chosen], barycentric)


def _nearest(
    points: Float[Tensor, "n 3"], corners: Float[Tensor, "F 3 3"], candidates: Int[Tensor, "n K"]
) -> tuple[Int[Tensor, " n"], Float[Tensor, "n 3"]]:
    """The nearest candidate triangle of each point, and the barycentric coordinates of the nearest point in it."""
    triangles = corners[candidates]
    barycentric = closest_barycentric(points[:, None].expand(-1, candidates.shape[1], -1), triangles)
    distance = ((barycentric[..., None] * triangles).sum(-2) - points[:, None]).square().sum(-1)
    best = distance.argmin(1, keepdim=True)
    return candidates.gather(1, best)[:, 0], barycentric.gather(1, best[..., None].expand(-1, -1, 3))[:, 0]


def closest_barycentric(points: Float[Tensor, "*n 3"], corners: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 3"]:
    """Barycentric coordinates of the point of each triangle that is nearest to a point (Ericson, "Real-Time Collision
    Detection" 2005, section 5.1.5)."""
    a, b, c = corners.unbind(-2)
    ab, ac = b - a, c - a

    def along(corner: Tensor) -> tuple[Tensor, Tensor]:
        return (ab * (points - corner)).sum(-1), (ac * (points - corner)).sum(-1)

    (d1, d2), (d3, d4), (d5, d6) = along(a), along(b), along(c)
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    tiny = torch.finfo(points.dtype).tiny
    zero, one = torch.zeros_like(va), torch.ones_like(va)
    total = (va + vb + vc).clamp_min(tiny)
    nearest = torch.stack([va / total, vb / total, vc / total], -1)
    on_bc = ((d4 - d3) / ((d4 - d3) + (d5 - d6)).clamp_min(tiny)).clamp(0, 1)
    on_ac, on_ab = (d2 / (d2 - d6).clamp_min(tiny)).clamp(0, 1), (d1 / (d1 - d3).clamp_min(tiny)).clamp(0, 1)
    # From the inside outwards: later regions override earlier ones.
    for inside, coordinates in (
        ((va <= 0) & (d4 >= d3) & (d5 >= d6), (zero, 1 - on_bc, on_bc)),
        ((vb <= 0) & (d2 >= 0) & (d6 <= 0), (1 - on_ac, zero, on_ac)),
        ((vc <= 0) & (d1 >= 0) & (d3 <= 0), (1 - on_ab, on_ab, zero)),
        ((d6 >= 0) & (d5 <= d6), (zero, zero, one)),
        ((d3 >= 0) & (d4 <= d3), (zero, one, zero)),
        ((d1 <= 0) & (d2 <= 0), (one, zero, zero)),
    ):
        nearest = torch.where(inside[..., None], torch.stack(coordinates, -1), nearest)
    return nearest
