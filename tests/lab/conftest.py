"""Drawn truth, avatars of known worth, and networks of random weights."""

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from avatar_gs.lab.metrics.avatar import ViewImages
from avatar_gs.lab.metrics.truth import Truth, cases, render_truth
from avatar_gs.lab.metrics.views import Viewpoints, standard_viewpoints
from avatar_gs.lab.scorer.model import TOKENIZER, Scorer, build_model, frozen
from avatar_gs.lab.world.dataset import part_masks
from avatar_gs.lab.world.rendering import BACKGROUND
from avatar_gs.prior.config import PriorConfig
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior, load_prior
from avatar_gs.types import Gaussians
from tests.tiny import save_prior

EVERY = 4
"""Every so manieth pixel of every view is one of the person's splats."""


@pytest.fixture(scope="session")
def viewpoints() -> Viewpoints:
    return standard_viewpoints()


@pytest.fixture(scope="session")
def truths(viewpoints) -> list[Truth]:
    """Long hair and trousers; a skirt; long hair and a hat."""
    return [render_truth(case, viewpoints) for case in cases(3)]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def prior(tmp_path_factory) -> StableDiffusionPrior:
    """Small networks of random weights."""
    return load_prior(PriorConfig(name="custom", path=str(save_prior(tmp_path_factory.mktemp("prior")))))


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    """The packaged scorer's layout with random weights."""
    tokenizer = CLIPTokenizer.from_pretrained(str(TOKENIZER))
    return frozen(build_model(tokenizer), tokenizer)


def true_images(truth: Truth) -> ViewImages:
    """The images of an avatar that is the person."""
    alpha = np.stack([1 - part_masks(part_map, BACKGROUND) for part_map in truth.maps])
    rgb = np.stack([truth.image(view) for view in range(len(truth.maps))])
    background = (1 - alpha)[..., None] * 191 / 255
    return ViewImages((rgb - background).clip(0).astype(np.float32), alpha.astype(np.float32))


def true_splats(truth: Truth) -> Gaussians:
    """Splats of 4 mm at surface points that the viewpoints's cameras see, each in the colour of the part there."""
    means, colors = [], []
    size = len(truth.maps[0].parts)
    cameras = truth.viewpoints.views.cameras.resized(size, size)
    for view in range(len(cameras)):
        drawn = truth.maps[view]
        rows, columns = np.nonzero(np.isfinite(drawn.depth[::EVERY, ::EVERY]))
        rows, columns = rows * EVERY, columns * EVERY
        z = drawn.depth[rows, columns]
        K, T = cameras.K[view].numpy(), cameras.T_camera_world[view].numpy()
        x = (columns + 0.5 - K[0, 2]) / K[0, 0] * z
        y = (rows + 0.5 - K[1, 2]) / K[1, 1] * z
        means.append((np.stack([x, y, z], -1) - T[:3, 3]) @ T[:3, :3])
        shade = drawn.shade[rows, columns, None] / 255
        colors.append(truth.colours[drawn.parts[rows, columns]] / 255 * shade)
    count = sum(map(len, means))
    return Gaussians(
        means=torch.tensor(np.concatenate(means), dtype=torch.float32),
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        scales=torch.full((count, 3), 0.004),
        opacities=torch.full((count,), 0.95),
        colors=torch.tensor(np.concatenate(colors), dtype=torch.float32),
    )
