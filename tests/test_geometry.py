"""Rotations, frames and projection, compared with scipy and known pixels."""

import math
from typing import cast

import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from avatar_gs.geometry import (
    axis_angle_to_matrix,
    look_at,
    matrix_to_quat,
    project,
    quat_multiply,
    quat_to_matrix,
)
from avatar_gs.types import Cameras

vectors = st.lists(st.floats(-4, 4), min_size=3, max_size=3).map(lambda v: torch.tensor(v, dtype=torch.float64))


@given(vectors)
def test_all_rotation_conversions_agree_with_scipy(axis_angle):
    expected = torch.from_numpy(Rotation.from_rotvec(axis_angle.numpy()).as_matrix())
    R = axis_angle_to_matrix(axis_angle)
    assert torch.allclose(R, expected, atol=1e-12)
    quat = matrix_to_quat(R)
    assert torch.allclose(quat_to_matrix(quat), R, atol=1e-12)
    assert torch.allclose(quat_to_matrix(-3 * quat), R, atol=1e-12)


@given(vectors, vectors)
def test_quaternion_products_apply_the_second_rotation_first(first, second):
    a, b = axis_angle_to_matrix(first), axis_angle_to_matrix(second)
    product = quat_multiply(matrix_to_quat(a), matrix_to_quat(b))
    assert torch.allclose(quat_to_matrix(product), a @ b, atol=1e-12)


def test_rodrigues_is_smooth_through_zero():
    zero = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    jacobian = cast(torch.Tensor, torch.autograd.functional.jacobian(axis_angle_to_matrix, zero))
    assert torch.isfinite(jacobian).all()
    assert math.isclose(float(jacobian[2, 1, 0]), 1.0, abs_tol=1e-9)
    assert torch.autograd.gradcheck(axis_angle_to_matrix, torch.randn(3, dtype=torch.float64, requires_grad=True))


def test_a_front_camera_sees_plus_x_on_the_right_and_plus_y_above():
    eye, target = torch.tensor([[0.0, 1.0, 3.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    K = torch.tensor([[[100.0, 0, 50], [0, 100, 50], [0, 0, 1]]])
    cameras = Cameras(look_at(eye, target), K, 100, 100)
    points = torch.tensor([[0.0, 1.0, 0.0], [0.3, 1.0, 0.0], [0.0, 1.3, 0.0]])
    pixels, depth = project(points, cameras)
    assert torch.allclose(pixels[0], torch.tensor([[50.0, 50.0], [60.0, 50.0], [50.0, 40.0]]), atol=1e-4)
    assert torch.allclose(depth, torch.full((1, 3), 3.0), atol=1e-5)
    halved, _ = project(points, cameras.resized(50, 50))
    assert torch.allclose(halved, pixels / 2, atol=1e-4)


def test_look_at_is_a_rotation_not_a_reflection():
    eyes = torch.randn(20, 3, dtype=torch.float64)
    T = look_at(eyes, torch.zeros(20, 3, dtype=torch.float64))
    assert torch.allclose(torch.linalg.det(T[:, :3, :3]), torch.ones(20, dtype=torch.float64))
    ones = torch.ones(20, 1, dtype=torch.float64)
    at_eye = (T @ torch.cat([eyes, ones], -1)[..., None])[..., :3, 0]
    assert at_eye.abs().max() < 1e-12
