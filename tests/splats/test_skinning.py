"""Skinning moves means and orientations rigidly under one joint, blends between joints, and has true gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar_gs.geometry import axis_angle_to_matrix, quat_to_matrix
from avatar_gs.splats.posing import blend_transforms, nearest_rotation, skin
from avatar_gs.types import NUM_JOINTS
from tests.splats.conftest import rotation_about_z


def random_transforms(seed=0, dtype=torch.float64, angle=1.0):
    generator = torch.Generator().manual_seed(seed)
    T = torch.eye(4, dtype=dtype).repeat(NUM_JOINTS, 1, 1)
    axis_angles = torch.randn(NUM_JOINTS, 3, generator=generator, dtype=dtype)
    T[:, :3, :3] = axis_angle_to_matrix(angle * torch.nn.functional.normalize(axis_angles, dim=-1))
    T[:, :3, 3] = torch.randn(NUM_JOINTS, 3, generator=generator, dtype=dtype)
    return T


def random_splats(count=6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(count, 3, generator=generator, dtype=dtype)
    quats = torch.randn(count, 4, generator=generator, dtype=dtype)
    weights = torch.rand(count, NUM_JOINTS, generator=generator, dtype=dtype) ** 8
    return means, quats, weights / weights.sum(-1, keepdim=True)


def test_one_joint_moves_splats_rigidly():
    means, quats, _ = random_splats()
    T = random_transforms()
    weights = torch.zeros(len(means), NUM_JOINTS, dtype=torch.float64)
    weights[:, 7] = 1
    posed_means, posed_quats = skin(means, quats, weights, T)
    torch.testing.assert_close(posed_means, means @ T[7, :3, :3].T + T[7, :3, 3])
    torch.testing.assert_close(quat_to_matrix(posed_quats), T[7, :3, :3] @ quat_to_matrix(quats))


def test_covariance_turns_with_the_splat():
    means, quats, weights = random_splats()
    scales = torch.tensor([0.3, 0.2, 0.01], dtype=torch.float64)
    _, posed_quats = skin(means, quats, weights, random_transforms())
    rest, posed = (quat_to_matrix(q) * scales for q in (quats, posed_quats))
    R = nearest_rotation(blend_transforms(weights, random_transforms())[:, :3, :3])
    torch.testing.assert_close(posed @ posed.mT, R @ rest @ rest.mT @ R.mT)


def test_halfway_between_two_joints_is_half_the_angle():
    T = torch.eye(4).repeat(NUM_JOINTS, 1, 1)
    T[1] = rotation_about_z(math.pi / 2)
    weights = torch.zeros(1, NUM_JOINTS)
    weights[0, :2] = 0.5
    _, quats = skin(torch.zeros(1, 3), torch.tensor([[1.0, 0, 0, 0]]), weights, T)
    torch.testing.assert_close(quat_to_matrix(quats)[0], rotation_about_z(math.pi / 4)[:3, :3])


@given(st.floats(0, 2.6), st.floats(0.05, 0.95), st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_nearest_rotation_is_the_polar_factor(angle, fraction, seed):
    axis = torch.randn(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    R = axis_angle_to_matrix(angle * torch.nn.functional.normalize(axis, dim=0))
    blend = (1 - fraction) * torch.eye(3, dtype=torch.float64) + fraction * R
    U, _, Vh = torch.linalg.svd(blend)
    torch.testing.assert_close(nearest_rotation(blend[None])[0], U @ Vh, atol=1e-5, rtol=0)


@pytest.mark.parametrize("argument", ["means", "quats", "T_posed_rest"])
def test_gradients_equal_finite_differences(argument):
    means, quats, weights = random_splats()
    values = {"means": means, "quats": quats, "T_posed_rest": random_transforms()}
    values[argument] = values[argument].requires_grad_()

    def posed(x):
        given = values | {argument: x}
        return skin(given["means"], given["quats"], weights, given["T_posed_rest"])

    assert torch.autograd.gradcheck(posed, (values[argument],), eps=1e-6, atol=1e-6)
