"""The trainable copy of a prior: it starts as the prior and learns without changing it."""

import pytest
import torch

from avatar_gs.prior.adapter import CAMERA
from avatar_gs.prior.parts import Parts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.protocols import AdaptablePrior, Adapter
from tests import tiny


@pytest.fixture(scope="module", params=["sd15", "sd21", "sdxl"])
def prior(request, tmp_path_factory):
    return StableDiffusionPrior(Parts(**tiny.parts(tmp_path_factory.mktemp("prior"), request.param)))


@pytest.fixture(scope="module")
def arguments(prior):
    torch.manual_seed(0)
    z_t = torch.randn(2, 4, tiny.LATENT_SIZE, tiny.LATENT_SIZE)
    t = torch.tensor([700, 100])
    with torch.no_grad():
        cond = prior.encode_prompts(["a red man", "a blue man"])
    return z_t, t, cond, torch.rand(2, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3)


def test_it_starts_as_the_prior_and_is_counted_there(prior, arguments):
    adapter = prior.adapter(rank=2)
    with torch.no_grad():
        expected, calls = prior.eps(*arguments), prior.calls
        torch.testing.assert_close(adapter.eps(*arguments, None), expected)
        torch.testing.assert_close(adapter.eps(*arguments, torch.rand(2, CAMERA)), expected)
    assert prior.calls == calls + 4
    assert isinstance(prior, AdaptablePrior) and isinstance(adapter, Adapter)


def test_it_learns_cameras_and_images_and_the_prior_does_not_change(prior, arguments):
    names = set(prior.unet.state_dict())
    before = {name: value.clone() for name, value in prior.unet.state_dict().items()}
    adapter = prior.adapter(rank=2)
    camera = torch.rand(2, CAMERA, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(adapter.parameters.values(), lr=1e-2)
    target = torch.zeros_like(arguments[0])
    errors = []
    for _ in range(8):
        optimizer.zero_grad()
        error = (adapter.eps(*arguments, camera) - target).square().mean()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.98 * errors[0]
    assert all(value.grad is not None and value.dtype is torch.float32 for value in adapter.parameters.values())
    assert any("lora" in name for name in adapter.parameters) and any("embed" in name for name in adapter.parameters)
    with torch.no_grad():
        said, unsaid = adapter.eps(*arguments, camera), adapter.eps(*arguments, None)
        assert (said - unsaid).abs().max() > 1e-5
        torch.testing.assert_close(adapter.eps(*arguments, torch.zeros(2, CAMERA)), unsaid)
    assert set(prior.unet.state_dict()) == names
    assert all(torch.equal(value, before[name]) for name, value in prior.unet.state_dict().items())
    assert not any(parameter.requires_grad for parameter in prior.unet.parameters())


def test_it_shares_the_weights_and_starts_the_same_every_time(prior):
    first, second = prior.adapter(rank=2), prior.adapter(rank=2)
    own = sum(value.numel() for value in first.parameters.values())
    twin = sum(
        value.numel()
        for value in first.twin.unet.parameters()
        if value.data_ptr() not in {shared.data_ptr() for shared in prior.unet.parameters()}
    )
    assert twin == own
    assert first.parameters.keys() == second.parameters.keys()
    assert all(torch.equal(first.parameters[name], second.parameters[name]) for name in first.parameters)
