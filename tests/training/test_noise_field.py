"""Noise on the surface: white, of unit variance, shared by views as far as they show the same skin."""

import math
from dataclasses import replace

import pytest
import torch

from avatar_gs.core.runs import RunFolder
from avatar_gs.guidance.noise import NoiseConfig, NoiseKind
from avatar_gs.prior.config import PriorConfig
from avatar_gs.prior.prompts import bucket_prompts
from avatar_gs.prior.stable_diffusion import load_prior
from avatar_gs.render.cameras import fixed_views
from avatar_gs.training.config import OptimizeConfig, TrainingConfig
from avatar_gs.training.loop import optimize
from avatar_gs.training.noise_field import NoiseField, _projection
from avatar_gs.training.scene import Scenes
from avatar_gs.types import Framing
from tests.tiny import save_prior
from tests.training.conftest import small_settings

SIZE, CHANNELS = 8, 4
SURFACE = NoiseConfig(kind=NoiseKind.surface, points=4000)
CONFIG = TrainingConfig(seed=1, optimize=OptimizeConfig(steps=5, batch=2))


def field(body, seed=0, config=SURFACE):
    return NoiseField(config, body.rest(), seed, channels=CHANNELS, size=SIZE)


def noise_at(drawn, scene, step):
    return drawn.at(step, scene.posed, scene.views.cameras, scene.depth)


def skin_cells(body, scene, view):
    """The points on the skin, and the cell in which each is visible."""
    drawn = field(body)
    skin, _ = drawn.points(scene.posed)
    return skin, drawn.cells(skin, _projection(scene.views.cameras[view]), scene.depth[view], on_background=False)


@pytest.fixture(scope="module")
def scene(body):
    """Two views of the body that are ten degrees apart."""
    scenes = Scenes(body, CONFIG, 64)
    views = fixed_views(scenes.standing, (Framing.BODY, Framing.BODY), (0.0, 10.0), 64)
    return scenes._scene(scenes.standing, views, torch.zeros(2, 3))


@pytest.fixture(scope="module")
def draws(body, scene):
    """The noise of many seeds."""
    drawn = field(body)
    noise = []
    for seed in range(400):
        drawn.seed = seed
        drawn._times.clear()
        noise.append(noise_at(drawn, scene, 0))
    return torch.stack(noise)


def covered(body, scene, view):
    """The points of each cell that shows skin."""
    _, cells = skin_cells(body, scene, view)
    return {cell: set((cells == cell).nonzero().flatten().tolist()) for cell in set(cells.tolist()) - {-1}}


def test_cells_have_mean_zero_and_variance_one(draws):
    count = len(draws)
    assert float(draws.mean(0).abs().max()) < 5 / count**0.5
    assert float((draws.var(0) - 1).abs().max()) < 5.5 * (2 / count) ** 0.5


def test_a_view_is_white(draws):
    samples = draws[:, 0].flatten(1)
    correlation = torch.corrcoef(samples.T)
    correlation.fill_diagonal_(0)
    assert float(correlation.abs().max()) < 6 / len(draws) ** 0.5


def test_two_views_correlate_by_the_skin_that_they_share(body, scene, draws):
    first, second = (covered(body, scene, view) for view in (0, 1))
    assert len(first) > 8
    expected = torch.zeros(SIZE * SIZE, SIZE * SIZE)
    for cell, points in first.items():
        for other, others in second.items():
            expected[cell, other] = len(points & others) / math.sqrt(len(points) * len(others))
    assert expected.max() > 0.5
    products = torch.einsum("ncp,ncq->pq", draws[:, 0].flatten(2), draws[:, 1].flatten(2)) / len(draws) / CHANNELS
    skin = torch.tensor(sorted(first))[:, None], torch.tensor(sorted(second))[None]
    error = 5.5 / (len(draws) * CHANNELS) ** 0.5
    assert float((products[skin] - expected[skin]).abs().max()) < error


def test_hidden_skin_has_no_noise_in_a_cell(body, scene):
    """From the front, no point of the back is visible."""
    skin, cells = skin_cells(body, scene, 0)
    torso = (skin[:, 1] - scene.posed.joints[0, 1]).abs() < 0.1
    back = torso & (skin[:, 2] < scene.posed.joints[0, 2] - 0.05) & (skin[:, 0].abs() < 0.08)
    assert back.sum() > 10 and (cells[back] == -1).all()


def test_noise_is_a_function_of_seed_and_step(body, scene):
    assert torch.equal(noise_at(field(body), scene, 0), noise_at(field(body), scene, 9))
    assert not torch.equal(noise_at(field(body, seed=1), scene, 0), noise_at(field(body), scene, 0))
    refreshed = replace(SURFACE, gamma=0.1)
    late = field(body, config=refreshed)
    noise_at(late, scene, 3)
    assert torch.equal(noise_at(late, scene, 25), noise_at(field(body, config=refreshed), scene, 25))


def test_gamma_replaces_noise_gradually(body, scene):
    kept = field(body, config=NoiseConfig(kind=NoiseKind.fixed, gamma=0.1))
    first, near, far = (noise_at(kept, scene, step)[0].flatten() for step in (0, 1, 10))
    size = len(first)
    cosine = float(first @ near / first.norm() / near.norm())
    assert cosine == pytest.approx(math.cos(0.1 * math.pi / 2), abs=3 / size**0.5)
    assert abs(float(first @ far / first.norm() / far.norm())) < 4 / size**0.5
    assert float(near.var()) == pytest.approx(1, abs=5 * (2 / size) ** 0.5)


def test_fixed_noise_is_the_same_in_all_views(body, scene):
    noise = noise_at(field(body, config=NoiseConfig(kind=NoiseKind.fixed)), scene, 4)
    assert torch.equal(noise[0], noise[1])


def test_a_run_with_surface_noise_resumes_exactly(body, tmp_path):
    prior = load_prior(PriorConfig(name="custom", path=str(save_prior(tmp_path / "prior"))))
    settings = small_settings(checkpoint_every=4)
    settings.guidance.noise = NoiseConfig(kind=NoiseKind.surface, points=500, beta=0.9, gamma=0.3)
    prompts = bucket_prompts("a man in red", "", settings.prior.prompts)
    whole = optimize(settings.training, body, prior, prompts, RunFolder(tmp_path / "whole"))
    plain = small_settings(checkpoint_every=4)
    other = optimize(plain.training, body, prior, prompts, RunFolder(tmp_path / "plain"))

    def kill(state, report):
        if state.step == 6:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        optimize(settings.training, body, prior, prompts, RunFolder(tmp_path / "halves"), on_step=kill)
    resumed = optimize(settings.training, body, prior, prompts, RunFolder(tmp_path / "halves"))
    assert all(torch.equal(value, resumed.model.params[name]) for name, value in whole.model.params.items())
    assert not torch.equal(whole.model.params["sh0"], other.model.params["sh0"])


@pytest.mark.parametrize("on_background", [False, True])
def test_the_kernel_sums_as_torch_does(body, scene, on_background):
    drawn = field(body)
    skin, _ = drawn.points(scene.posed)
    camera, depth = scene.views.cameras[1], scene.depth[1]
    values = torch.randn(len(skin), CHANNELS, generator=torch.Generator().manual_seed(0))
    total, count = drawn.sums(skin, values, camera, depth, on_background=on_background)
    cells = drawn.cells(skin, _projection(camera), depth, on_background=on_background)
    inside = cells >= 0
    assert inside.sum() > 500
    expected = torch.zeros(SIZE * SIZE, CHANNELS).index_add_(0, cells[inside], values[inside])
    torch.testing.assert_close(total, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(count, torch.bincount(cells[inside], minlength=SIZE * SIZE).float())
