"""A figure of which every side differs, for tests of files and viewers."""

import numpy as np
import torch

from avatar_gs.types import Gaussians


def _box(
    low: tuple[float, ...], high: tuple[float, ...], color: tuple[float, ...], step: float = 0.03
) -> list[np.ndarray]:
    axes = [np.arange(a, b + 1e-6, step) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    return [points, np.broadcast_to(np.array(color), points.shape)]


def figure() -> Gaussians:
    """A stiff figure of blocks whose every side differs, in the world frame: yellow face in front of a brown head, red
    left arm (+x), green right arm, blue front and magenta back of the trunk, black legs; and over the head one long
    cyan splat that leans towards the avatar's left."""
    parts = [
        _box((-0.1, 1.45, -0.09), (0.1, 1.70, 0.03), (0.4, 0.2, 0.1)),
        _box((-0.08, 1.48, 0.09), (0.08, 1.65, 0.09), (1.0, 0.9, 0.2)),
        _box((0.24, 0.8, -0.05), (0.36, 1.4, 0.05), (0.9, 0.1, 0.1)),
        _box((-0.36, 0.8, -0.05), (-0.24, 1.4, 0.05), (0.1, 0.7, 0.1)),
        _box((-0.18, 0.8, 0.06), (0.18, 1.4, 0.10), (0.1, 0.2, 0.9)),
        _box((-0.18, 0.8, -0.10), (0.18, 1.4, -0.03), (0.9, 0.1, 0.8)),
        _box((-0.16, 0.0, -0.06), (0.16, 0.77, 0.06), (0.05, 0.05, 0.05)),
    ]
    means = torch.tensor(np.concatenate([points for points, _ in parts]), dtype=torch.float32)
    colors = torch.tensor(np.concatenate([color for _, color in parts]), dtype=torch.float32)
    count = len(means)
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(count, 1)
    scales = torch.full((count, 3), 0.016)
    opacities = torch.full((count,), 0.95)
    # Long in its own x, turned by 60 degrees about z: from lower left (-x) to upper right (+x) as seen from the front.
    half = np.deg2rad(30)
    long_quat = torch.tensor([[np.cos(half), 0, 0, np.sin(half)]], dtype=torch.float32)
    return Gaussians(
        means=torch.cat([means, torch.tensor([[0.0, 2.0, 0.0]])]),
        quats=torch.cat([quats, long_quat]),
        scales=torch.cat([scales, torch.tensor([[0.08, 0.01, 0.01]])]),
        opacities=torch.cat([opacities, torch.tensor([0.99])]),
        colors=torch.cat([colors, torch.tensor([[0.0, 0.8, 0.8]])]),
    )
