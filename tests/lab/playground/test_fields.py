"""The four parameterisations: gradients and initial values."""

import pytest
import torch

from avatar_gs.core.seeding import generator
from avatar_gs.lab.playground.config import FieldKind, GridConfig, Init, PlaygroundConfig
from avatar_gs.lab.playground.fields import FIT_ERROR, GREY, build_canvas, corners_at_pixels, resolutions
from avatar_gs.prior.parts import Parts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from tests import tiny

SMALL_GRID = GridConfig(levels=3, log2_table=5, width=16)  # the finest level hashes


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return StableDiffusionPrior(Parts(**tiny.parts(tmp_path_factory.mktemp("prior"))))


@pytest.fixture(scope="module")
def image():
    return torch.rand(1, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3, generator=torch.Generator().manual_seed(1))


def canvas(prior, kind, init=Init.gaussian, image=None, seed=0, grid=None):
    name = "somewhere.png" if init is Init.image else ""
    config = PlaygroundConfig(field=kind, init=init, image=name, grid=grid or GridConfig())
    return build_canvas(config, prior, seed, image)


@pytest.mark.parametrize("kind", FieldKind)
def test_gradients_are_those_of_finite_differences(prior, kind):
    """Through grid, sigmoid and encoder, in float64, along a random direction of every parameter."""
    field = canvas(prior, kind, Init.gaussian, grid=SMALL_GRID)
    field.values.double()
    prior.vae.double()
    try:
        random = torch.Generator().manual_seed(2)
        weights = torch.randn(1, 4, tiny.LATENT_SIZE, tiny.LATENT_SIZE, generator=random, dtype=torch.float64)
        with pytest.MonkeyPatch.context() as patch:
            # the prior itself computes in float32, too coarse for differences
            patch.setattr(torch.Tensor, "float", torch.Tensor.double)
            for parameter in field.parameters:
                direction = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
                (gradient,) = torch.autograd.grad((field.latents() * weights).sum(), parameter)
                start, h = parameter.detach().clone(), 1e-6
                values = []
                for sign in (1, -1):
                    parameter.data = start + sign * h * direction
                    values.append(float((field.latents() * weights).sum().detach()))
                parameter.data = start
                slope = (values[0] - values[1]) / (2 * h)
                assert abs(slope) > 1e-9
                assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-9)
    finally:
        prior.vae.float()


@pytest.mark.parametrize("kind", FieldKind)
def test_latents_and_image_have_the_priors_shapes(prior, kind):
    field = canvas(prior, kind)
    assert field.latents().shape == (1, 4, tiny.LATENT_SIZE, tiny.LATENT_SIZE)
    seen = field.image()
    assert seen.shape == (1, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3)
    assert seen.min() >= 0 and seen.max() <= 1


def test_epl_starts_with_the_values_of_each_init(prior, image):
    size = tiny.LATENT_SIZE
    noise = torch.randn(1, 4, size, size, generator=generator(0, 0, "playground init"))
    with torch.no_grad():
        expected = {
            Init.gaussian: noise,
            Init.decoded: prior.encode_images(prior.decode_latents(noise)),
            Init.zero: torch.zeros(1, 4, size, size),
            Init.grey: prior.encode_images(torch.full((1, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3), GREY)),
            Init.image: prior.encode_images(image),
        }
    for init, values in expected.items():
        assert torch.equal(canvas(prior, FieldKind.epl, init, image).latents(), values), init
    assert not torch.equal(canvas(prior, FieldKind.epl, seed=1).latents(), noise)


def test_pixels_start_with_the_values_of_each_init(prior, image):
    size = tiny.LATENT_SIZE
    noise = torch.randn(1, 4, size, size, generator=generator(0, 0, "playground init"))
    with torch.no_grad():
        decoded = prior.decode_latents(noise)
    expected = {
        Init.decoded: decoded,
        Init.zero: torch.zeros_like(decoded),
        Init.grey: torch.full_like(decoded, GREY),
        Init.image: image,
    }
    for init, values in expected.items():
        assert torch.equal(canvas(prior, FieldKind.rgb, init, image).image(), values), init
    noisy = canvas(prior, FieldKind.rgb).image()
    assert float(noisy.mean()) == pytest.approx(GREY, abs=0.05) and 0.15 < float(noisy.std()) < 0.3


@pytest.mark.parametrize("init", [Init.gaussian, Init.decoded, Init.grey, Init.image])
@pytest.mark.parametrize(("grid", "pixels"), [(FieldKind.ehl, FieldKind.epl), (FieldKind.ehc, FieldKind.rgb)])
def test_hash_grids_are_fitted_to_the_same_start(prior, image, grid, pixels, init):
    fitted, exact = canvas(prior, grid, init, image).raw(), canvas(prior, pixels, init, image).raw()
    assert float((fitted - exact).square().mean()) <= 1.001 * FIT_ERROR * float(exact.square().mean())


@pytest.mark.parametrize("kind", [FieldKind.ehl, FieldKind.ehc])
def test_all_zero_is_a_saddle_point_of_hash_grids(prior, kind):
    field = canvas(prior, kind, Init.zero)
    field.latents().square().sum().backward()
    (field.latents() - 1).square().sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in field.parameters)


def test_levels_grow_geometrically_up_to_the_pixels():
    assert resolutions(GridConfig(levels=4, coarsest=4), 32) == [4, 8, 16, 32]
    assert resolutions(GridConfig(levels=3, coarsest=4), 2) == [2, 2, 2]


def test_corners_interpolate_linear_functions_exactly_and_the_finest_level_has_a_corner_per_pixel():
    index, weight = corners_at_pixels(4, 16, 64)
    ramp = torch.arange(4.0).repeat(4)  # x at each corner
    inside = ((ramp[index] * weight).sum(0)).reshape(16, 16)
    assert torch.allclose(inside[0], ((torch.arange(16) + 0.5) / 4 - 0.5).clamp(0, 3))
    index, weight = corners_at_pixels(16, 16, 256)
    assert torch.equal(index[0], torch.arange(256)) and bool((weight[0] == 1).all())


def test_levels_larger_than_the_table_are_hashed_evenly():
    index, _ = corners_at_pixels(64, 64, 32)
    assert index.min() == 0 and index.max() == 31
    counts = torch.bincount(index[0], minlength=32)
    assert counts.max() < 3 * counts.min()
