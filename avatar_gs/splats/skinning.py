"""Linear blend skinning of splats: means move by the blended transform, orientations by its rotation."""

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.geometry import matrix_to_quat, quat_multiply


def blend_transforms(weights: Float[Tensor, "N 55"], T_posed_rest: Float[Tensor, "55 4 4"]) -> Float[Tensor, "N 4 4"]:
    """The transform of each splat: its joints' transforms averaged by its skinning weights (which sum to 1)."""
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
    """Means (metres) and unit quaternions (wxyz) of splats at rest, carried to a pose.

    A splat keeps its shape: its covariance becomes R S R^T, where R is the rotation nearest to the blend.
    """
    transforms = blend_transforms(weights, T_posed_rest)
    posed_means = (transforms[:, :3, :3] @ means[..., None])[..., 0] + transforms[:, :3, 3]
    rotation = matrix_to_quat(nearest_rotation(transforms[:, :3, :3]))
    return posed_means, quat_multiply(rotation, torch.nn.functional.normalize(quats, dim=-1))
