"""Drawn truth, and avatars of known worth."""

import numpy as np
import pytest
import torch

from avatar_gs.evaluation.avatar import Pictures
from avatar_gs.evaluation.truth import Stage, Truth, cases, draw_truth, set_stage
from avatar_gs.mini.dataset import OVERSAMPLING, part_masks
from avatar_gs.mini.picture import BACKGROUND
from avatar_gs.types import Gaussians


@pytest.fixture(scope="session")
def stage() -> Stage:
    return set_stage()


@pytest.fixture(scope="session")
def truths(stage) -> list[Truth]:
    """Long hair and trousers; a skirt; long hair and a hat."""
    return [draw_truth(case, stage) for case in cases(3)]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def true_pictures(truth: Truth) -> Pictures:
    """The pictures of an avatar that is the person."""
    alpha = np.stack([1 - part_masks(part_map, BACKGROUND) for part_map in truth.maps])
    rgb = np.stack([truth.picture(view) for view in range(len(truth.maps))])
    background = (1 - alpha)[..., None] * 191 / 255
    return Pictures((rgb - background).clip(0).astype(np.float32), alpha.astype(np.float32))


def true_splats(truth: Truth) -> Gaussians:
    """Small opaque splats at every pixel's surface point, in the picture's colours."""
    means, colors, radii = [], [], []
    size = len(truth.maps[0].parts)
    cameras = truth.stage.views.cameras.resized(size, size)
    for view in range(0, len(cameras)):
        depth = truth.maps[view].depth[::OVERSAMPLING, ::OVERSAMPLING]
        rows, columns = np.nonzero(np.isfinite(depth))
        z = depth[rows, columns]
        K, T = cameras.K[view].numpy(), cameras.T_camera_world[view].numpy()
        x = (columns * OVERSAMPLING + 0.5 - K[0, 2]) / K[0, 0] * z
        y = (rows * OVERSAMPLING + 0.5 - K[1, 2]) / K[1, 1] * z
        means.append((np.stack([x, y, z], -1) - T[:3, 3]) @ T[:3, :3])
        colors.append(truth.picture(view)[rows, columns])
        radii.append(0.6 * OVERSAMPLING * z / K[0, 0])
    count = sum(map(len, means))
    return Gaussians(
        means=torch.tensor(np.concatenate(means), dtype=torch.float32),
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        scales=torch.tensor(np.concatenate(radii), dtype=torch.float32)[:, None].repeat(1, 3),
        opacities=torch.full((count,), 0.95),
        colors=torch.tensor(np.concatenate(colors), dtype=torch.float32),
    )
