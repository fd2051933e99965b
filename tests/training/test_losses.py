"""Each regulariser is zero where nothing is wrong, pushes in the right direction elsewhere, and is weighed against
guidance alike at every size."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from avatar_gs.body.pose import a_pose
from avatar_gs.core.errors import UserError
from avatar_gs.core.seeding import generator
from avatar_gs.guidance.distill import distance
from avatar_gs.render.cameras import fixed_views
from avatar_gs.render.rasterize import rasterize
from avatar_gs.splats.config import SplatsConfig
from avatar_gs.splats.model import GaussianModel
from avatar_gs.splats.surface import surface_splats
from avatar_gs.training.config import GeometryConfig, LossesConfig, OptimizeConfig
from avatar_gs.training.losses import (
    emptiness,
    geometry_losses,
    haze,
    oversize,
    regulariser_scale,
    regularisers,
    sparsity,
    stray,
)
from avatar_gs.training.rendering import render_scene
from avatar_gs.training.scene import Scenes
from avatar_gs.training.step import Trainer
from avatar_gs.types import Framing
from tests.training.conftest import ColorPrior, color_prompts, small_settings


@pytest.fixture
def model(body):
    return surface_splats(SplatsConfig(count=200), body.rest(), body.weights, torch.Generator().manual_seed(0))


def test_an_initial_avatar_has_no_penalty(model):
    unit = model.scales().detach().amax(-1).median()
    assert stray(model, 0.05) == 0
    assert oversize(model, 1.6 * unit) == 0


def test_stray_splats_move_back_and_fade(model):
    with torch.no_grad():
        model.params["means"][5] += 0.1 * model.params["normals"][5]
    stray(model, 0.05).backward()
    gradient = model.params["means"].grad
    assert (gradient[5] * model.params["normals"][5]).sum() > 0 and model.params["opacities"].grad[5] > 0
    assert gradient.count_nonzero() == gradient[5].count_nonzero()


def test_oversized_splats_shrink(model):
    unit = model.scales().detach().amax(-1).median()
    with torch.no_grad():
        model.params["scales"][7, 1] = (10 * unit).log()
    oversize(model, unit).backward()
    assert model.params["scales"].grad[7, 1] > 0
    assert model.params["scales"].grad[7, 0] == 0, "only the longest axis"


def test_alpha_terms():
    alpha = torch.tensor([0.0, 0.25, 0.75, 1.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(haze(alpha.view(1, 2, 2, 1)), alpha)
    assert gradient[1] > 0 > gradient[2], "away from one half"
    (gradient,) = torch.autograd.grad(sparsity(alpha.view(1, 2, 2, 1)), alpha)
    assert (gradient >= 0).all() and gradient[3] > 0.9 / 4, "a quarter of the pixels"


def test_only_weighted_losses_are_computed(model):
    alpha = torch.rand(1, 4, 4, 1)
    unit = torch.tensor(0.01)
    off = LossesConfig(opacity=0.0, haze=0.0, scale=0.0, distance=0.0)
    assert regularisers(off, model, alpha, unit, scale=1) == {}
    losses = regularisers(replace(off, opacity=2.0), model, alpha, unit, scale=16)
    assert losses == {"opacity": 32 * sparsity(alpha)}


@pytest.mark.parametrize("values", [{"steps": 0}, {"batch": 0}, {"supersample": 99}, {"pose_spread": -1.0}])
def test_invalid_settings_are_refused_by_name(values):
    with pytest.raises(UserError, match=f"optimize.{next(iter(values))}="):
        OptimizeConfig(**values)


# ---- means: closed forms and finite differences


def test_losses_of_pixels_are_means():
    alpha = torch.tensor([0.0, 0.3, 0.8, 1.0]).view(1, 2, 2, 1)
    roots = [math.sqrt(a * a + 0.01) for a in (0.0, 0.3, 0.8, 1.0)]
    assert float(sparsity(alpha)) == pytest.approx(sum(roots) / 4)
    assert float(haze(alpha)) == pytest.approx((0.21 + 0.16) / 4)


def test_losses_of_splats_are_means(model):
    unit = model.scales().detach().amax(-1).max()
    with torch.no_grad():
        model.params["scales"][7, 1] = (5 * unit).log()
        model.params["means"][3] = model.params["anchors"][3] + torch.tensor([0.0, 0.2, 0.0])
        model.params["opacities"][3] = 0.0
    assert oversize(model, unit).item() == pytest.approx(3**2 / 200, rel=1e-5)
    assert stray(model, 0.05).item() == pytest.approx(0.5 * 3 / 200, rel=1e-5)


@pytest.mark.parametrize("loss", [sparsity, haze, lambda alpha: emptiness(alpha, 0.9)])
def test_gradients_of_alpha_are_those_of_finite_differences(loss):
    alpha = torch.rand(2, 3, 3, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(loss, alpha.requires_grad_(True))


@pytest.mark.parametrize("name", ["scales", "means", "opacities"])
def test_gradients_of_splats_are_those_of_finite_differences(model, name):
    unit = model.scales().detach().amax(-1).median().double()
    double = GaussianModel({key: value.double() for key, value in model.tensors().items()})
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key in ("scales", "means"):
            double.params[key] += 0.5 * torch.randn(double.params[key].shape, dtype=torch.float64, generator=random)

    def loss():
        return oversize(double, unit) + stray(double, 0.05)

    parameter = double.params[name]
    (gradient,) = torch.autograd.grad(loss(), parameter)
    direction = torch.randn(parameter.shape, dtype=torch.float64, generator=random)
    values, epsilon = [], 1e-6
    with torch.no_grad():
        for sign in (1, -2):
            parameter += sign * epsilon * direction
            values.append(loss())
    expected = (values[0] - values[1]) / (2 * epsilon)
    torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-5, atol=1e-8)
    assert expected.abs() > 1e-3


# ---- a weight means the same at every size


@dataclass(frozen=True)
class Size:
    """A run's numbers: the prior's image size, pixels on the side of a latent pixel, latent channels, …"""

    image: int = 16
    ratio: int = 4
    channels: int = 4
    supersample: int = 1
    batch: int = 1


SIZES = [
    Size(),
    Size(supersample=2),
    Size(batch=4),
    Size(image=32),
    Size(image=32, channels=8, supersample=3, batch=2),
    Size(image=32, ratio=8),
]


def pulls(model: GaussianModel, size: Size) -> dict[str, float]:
    """By loss: its derivative by a factor of all opacities, divided by that of guidance of 1 per latent element.

    The image is a white body whose alpha is .6 in the left half, .3 in the right half, on black.
    """
    prior = ColorPrior()
    prior.latent_size, prior.latent_channels = size.image // size.ratio, size.channels
    pixels = size.image * size.supersample
    alpha = torch.full((size.batch, pixels, pixels, 1), 0.6)
    alpha[:, :, pixels // 2 :] = 0.3
    factor = torch.ones((), requires_grad=True)
    drawn = factor * alpha
    latents = prior.encode_images(drawn.expand(-1, -1, -1, size.channels))
    guidance = distance(latents, latents.detach() + 1.0)
    config, scale = LossesConfig(opacity=1.0, haze=1.0, scale=0.0, distance=0.0), regulariser_scale(prior)
    assert scale == latents[0].numel()
    losses = regularisers(config, model, drawn, torch.tensor(1.0), scale=scale)
    losses["transmittance"] = scale * emptiness(drawn, 0.9)
    (asked,) = torch.autograd.grad(guidance, factor, retain_graph=True)
    return {
        name: float(torch.autograd.grad(loss, factor, retain_graph=True)[0] / -asked) for name, loss in losses.items()
    }


@pytest.mark.parametrize("size", SIZES)
def test_pixel_losses_have_the_same_weight_relative_to_guidance_at_every_size(model, size):
    """Guidance of 1 per latent element pulls by the mean alpha, .45; each loss by its own mean derivative."""
    expected = {
        "opacity": sum(a * a / math.sqrt(a * a + 0.01) for a in (0.6, 0.3)) / 2 / 0.45,
        "haze": sum(a * (1 - 2 * a) for a in (0.6, 0.3)) / 2 / 0.45,
        "transmittance": 1.0,
    }
    assert pulls(model, size) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def twice(model: GaussianModel) -> GaussianModel:
    """Every splat as two in the same place that look nearly like one: 1 - opacity is the product of theirs."""
    tensors = {name: value.repeat_interleave(2, 0) for name, value in model.tensors().items()}
    opacities = 1 - (1 - tensors["opacities"].sigmoid()).sqrt()
    return GaussianModel(tensors | {"opacities": opacities.logit()})


def test_splat_losses_have_the_same_weight_relative_to_guidance_with_twice_as_many_splats(body):
    model = surface_splats(SplatsConfig(count=400, opacity=0.5), body.rest(), body.weights, generator(0, 0, "splats"))
    unit = model.scales().detach().amax(-1).median()
    with torch.no_grad():
        model.params["scales"][::5] += 1.5
        model.params["means"][::7] += 0.12 * model.params["normals"][::7]
    posed = body.pose(a_pose())
    cameras = fixed_views(posed, [Framing.BODY] * 2, [0.0, 180.0], 64).cameras

    def gradients(model: GaussianModel) -> dict[str, Tensor]:
        """Of the oversize loss by the scales and of the stray loss by the means, and of guidance by the colours."""
        config = LossesConfig(opacity=0.0, haze=0.0, scale=1.0, distance=1.0)
        losses = regularisers(config, model, torch.zeros(1, 1, 1, 1), unit, scale=192)
        images = rasterize(model.pose(posed), cameras).rgb
        latents = ColorPrior().encode_images(images)
        guidance = distance(latents, latents.detach() + 1.0)
        wanted = {"scale": (losses["scale"], "scales"), "guidance": (guidance, "sh0")}
        found = {k: torch.autograd.grad(loss, model.params[name])[0] for k, (loss, name) in wanted.items()}
        weight = model.opacities().detach()[:, None]  # a splat that counts half is held half as hard
        return found | {"distance": torch.autograd.grad(losses["distance"], model.params["means"])[0] / weight}

    single, double = gradients(model), gradients(twice(model))
    for name, gradient in single.items():
        pairs = double[name].unflatten(0, (400, 2)).sum(1)
        torch.testing.assert_close(pairs, gradient, rtol=0.12, atol=0.01 * float(gradient.abs().max()))
        assert gradient.count_nonzero() > 20


@pytest.mark.parametrize("supersample", [2, 3])
def test_losses_of_renders_are_the_same_with_supersampling(body, supersample):
    settings = small_settings()
    model = surface_splats(SplatsConfig(count=2000), body.rest(), body.weights, generator(0, 0, "splats"))
    with torch.no_grad():
        model.params["quats"] += 0.6 * torch.randn(2000, 4, generator=generator(0, 0, "turn"))
    plain = Scenes(body, replace(settings.training, seed=1), 64).make(0)

    def losses(factor: int) -> dict[str, Tensor]:
        scene = replace(plain, cameras=plain.cameras.resized(64 * factor, 64 * factor))
        alpha = render_scene(model, scene).alpha
        config = LossesConfig(opacity=1.0, haze=1.0, scale=0.0, distance=0.0)
        geometry = GeometryConfig(transmittance=1.0, orientation=1.0)
        return regularisers(config, model, alpha, torch.tensor(1.0), scale=192) | geometry_losses(
            geometry, model, scene, alpha, progress=1.0, scale=192
        )

    single, more = losses(1), losses(supersample)
    assert set(single) == {"opacity", "haze", "transmittance", "orientation"}
    for name in single:
        # finer pixels draw the outline more sharply; sums would be 4 or 9 times as large
        torch.testing.assert_close(more[name], single[name], rtol=0.35, atol=0.0)


def test_every_update_scales_its_losses_by_the_number_of_latent_elements(body, monkeypatch):
    settings, prior = small_settings(losses=LossesConfig(opacity=0.5)), ColorPrior()
    settings.guidance.inner_steps = 3
    seen, plain = [], Trainer.losses

    def remembered(*arguments):
        losses = plain(*arguments)
        seen.append((losses["opacity"], arguments[3].alpha))
        return losses

    monkeypatch.setattr(Trainer, "losses", remembered)
    trainer = Trainer.build(settings.training, body, prior, color_prompts())
    trainer.step(trainer.first_state(body), Scenes(body, settings.training, prior.image_size).make(0))
    assert len(seen) == 3
    for loss, alpha in seen:
        torch.testing.assert_close(loss, 0.5 * (3 * 8 * 8) * sparsity(alpha))
