"""Rotations, camera frames and projection; for the conventions see ``avatar_gs.types``."""

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.types import Cameras


def axis_angle_to_matrix(axis_angle: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation matrices of axis-angle vectors in radians (Rodrigues' formula, smooth at zero)."""
    angle = axis_angle.square().sum(-1).add(1e-24).sqrt()[..., None, None]
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return (
        identity + torch.sinc(angle / torch.pi) * cross + 0.5 * torch.sinc(angle / (2 * torch.pi)) ** 2 * cross @ cross
    )


def quat_to_matrix(quats: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation matrices of wxyz quaternions of any non-zero norm."""
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def matrix_to_quat(matrices: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 4"]:
    """Unit quaternions (wxyz) of rotation matrices, with the largest component positive.

    Shepperd's method: of four equivalent forms, the best-conditioned one is used.
    """
    m = matrices
    m00, m11, m22 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    squares = torch.stack([1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22], -1)
    a = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    s = m[..., 2, 1] + m[..., 1, 2], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 0] + m[..., 0, 1]
    candidates = torch.stack(
        [
            torch.stack([squares[..., 0], *a], -1),
            torch.stack([a[0], squares[..., 1], s[2], s[1]], -1),
            torch.stack([a[1], s[2], squares[..., 2], s[0]], -1),
            torch.stack([a[2], s[1], s[0], squares[..., 3]], -1),
        ],
        -2,
    )
    best = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    return torch.nn.functional.normalize(candidates.gather(-2, best).squeeze(-2), dim=-1)


def quat_multiply(a: Float[Tensor, "*b 4"], b: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """Hamilton product of wxyz quaternions: the rotation ``b``, then ``a``."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        -1,
    )


def look_at(eye: Float[Tensor, "*b 3"], target: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4 4"]:
    """Poses of upright cameras (world +y up).

    Args:
        eye: camera positions in world metres.
        target: look-at points in world metres, not straight above or below.

    Returns:
        ``T_camera_world``.
    """
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    up = torch.tensor([0.0, 1.0, 0.0], dtype=eye.dtype, device=eye.device).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward], -2)
    T_camera_world = torch.eye(4, dtype=eye.dtype, device=eye.device).repeat(*eye.shape[:-1], 1, 1)
    T_camera_world[..., :3, :3] = rotation
    T_camera_world[..., :3, 3] = -(rotation @ eye[..., None])[..., 0]
    return T_camera_world


def project(points: Float[Tensor, "P 3"], cameras: Cameras) -> tuple[Float[Tensor, "B P 2"], Float[Tensor, "B P"]]:
    """Project world points into each camera: positions in pixels (half-pixel centres) and depths in metres."""
    R, t = cameras.T_camera_world[:, :3, :3], cameras.T_camera_world[:, :3, 3]
    in_camera = points @ R.transpose(-1, -2) + t[:, None]
    homogeneous = in_camera @ cameras.K.transpose(-1, -2)
    depth = in_camera[..., 2]
    return homogeneous[..., :2] / depth[..., None].clamp_min(1e-6), depth
