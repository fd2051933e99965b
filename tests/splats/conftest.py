"""A small body of known geometry: a closed tube along x, bound to joint 0 on one half and to joint 1 on the other."""

import math

import pytest
import torch
from torch import Tensor

from avatar_gs.types import NUM_JOINTS, PosedBody

RADIUS, LENGTH = 0.1, 1.0


@pytest.fixture
def tube() -> PosedBody:
    rings, sides = 41, 24
    x = torch.linspace(-LENGTH / 2, LENGTH / 2, rings).repeat_interleave(sides)
    angle = torch.arange(sides).repeat(rings) * (2 * math.pi / sides)
    vertices = torch.stack([x, RADIUS * angle.cos(), RADIUS * angle.sin()], -1)
    quads = []
    for ring in range(rings - 1):
        for side in range(sides):
            a, b = ring * sides + side, ring * sides + (side + 1) % sides
            quads += [(a, b, b + sides), (a, b + sides, a + sides)]
    faces = torch.tensor(quads)
    corners = vertices[faces]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    outward = corners.mean(1) * torch.tensor([0.0, 1.0, 1.0])
    flip = (normal * outward).sum(-1) < 0
    faces[flip] = faces[flip][:, [0, 2, 1]]
    joints = torch.zeros(NUM_JOINTS, 3)
    return PosedBody(vertices, faces, joints, torch.eye(4).expand(NUM_JOINTS, 4, 4))


@pytest.fixture
def tube_weights(tube: PosedBody) -> Tensor:
    weights = torch.zeros(len(tube.vertices), NUM_JOINTS)
    fraction = (tube.vertices[:, 0] / LENGTH + 0.5).clamp(0, 1)
    weights[:, 0], weights[:, 1] = 1 - fraction, fraction
    return weights


def rotation_about_z(angle: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """A homogeneous rotation about z."""
    T = torch.eye(4, dtype=dtype)
    c, s = math.cos(angle), math.sin(angle)
    T[:2, :2] = torch.tensor([[c, -s], [s, c]], dtype=dtype)
    return T
