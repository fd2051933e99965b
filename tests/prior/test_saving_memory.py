"""What saves memory changes no value and no gradient, and really saves it."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (the annotations in diffusers are narrower than what it takes and returns)

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from avatar_gs.lab.benchmarks.random_weights import random_prior
from avatar_gs.prior.adapter import CameraLora
from avatar_gs.prior.config import Precision, PriorConfig
from avatar_gs.prior.low_memory_layers import (
    FrozenConv2d,
    FrozenNormSilu,
    use_low_memory_convolutions,
    use_low_memory_norms,
)
from avatar_gs.prior.stable_diffusion import load_prior
from tests import full, tiny
from tests.live_memory import LiveMemory, measured


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return PriorConfig(name="custom", path=str(tiny.save_prior(tmp_path_factory.mktemp("prior"))))


def encoded(prior, batch=3):
    """Latents of images, and the images' gradient."""
    random = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 2 * tiny.IMAGE_SIZE, 2 * tiny.IMAGE_SIZE, 3, generator=random).requires_grad_()
    latents = prior.encode_images(images)
    (latents * torch.randn(latents.shape, generator=random)).sum().backward()
    return latents.detach(), images.grad


def predicted(prior, batch=3):
    """Noise predictions, and the gradients of their inputs."""
    random = torch.Generator().manual_seed(0)
    z_t = torch.randn(batch, 4, tiny.LATENT_SIZE, tiny.LATENT_SIZE, generator=random).requires_grad_()
    cond = torch.randn(batch, tiny.TOKEN_LENGTH, prior.text_width, generator=random).requires_grad_()
    control = torch.rand(batch, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3, generator=random)
    eps = prior.eps(z_t, torch.tensor([20, 500, 900][:batch]), cond, control)
    (eps * torch.randn(eps.shape, generator=random)).sum().backward()
    return eps.detach(), z_t.grad, cond.grad


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-5)
        assert other.abs().max() > 1e-3


@pytest.fixture(scope="module")
def plain(config):
    return load_prior(config)


@pytest.mark.parametrize("settings", [{"encode_chunk": 1}, {"encode_chunk": 2}, {"checkpoint_encoder": True}])
def test_encoding_in_chunks_or_twice_is_the_same(config, plain, settings):
    both = {"encode_chunk": 1, "checkpoint_encoder": True} | settings
    for chosen in (settings, both):
        assert_same(encoded(load_prior(replace(config, **chosen))), encoded(plain))


@pytest.mark.parametrize("chunk", [1, 2, 3, 8])
def test_predicting_in_chunks_is_the_same(config, plain, chunk):
    prior = load_prior(replace(config, predict_chunk=chunk))
    assert_same(predicted(prior), predicted(plain))
    before = prior.calls
    with torch.no_grad():
        z_t, cond = torch.zeros(3, 4, 8, 8), torch.ones(3, tiny.TOKEN_LENGTH, 16)
        for one in (plain, prior):
            one.seen = one.eps(z_t, torch.tensor([20, 500, 900]), cond, None)
    torch.testing.assert_close(prior.seen, plain.seen, atol=2e-6, rtol=1e-5)
    assert prior.calls - before == 3


def test_the_adapter_uses_the_camera_of_each_image(config, plain):
    answers = []
    for prior in (plain, load_prior(replace(config, predict_chunk=1))):
        lora = CameraLora(prior.denoiser, rank=2)
        with torch.no_grad():
            nn.init.constant_(list(lora.time.embed.parameters())[-2], 0.01)
            cameras = torch.arange(32.0).reshape(2, 16) / 32
            z_t, cond = torch.zeros(2, 4, 8, 8), torch.ones(2, tiny.TOKEN_LENGTH, 16)
            answers.append(lora.eps(z_t, torch.tensor([500, 500]), cond, None, cameras))
    assert (answers[0][0] - answers[0][1]).abs().max() > 1e-4
    torch.testing.assert_close(answers[0], answers[1], atol=2e-6, rtol=1e-5)


def test_a_failed_encoding_leaves_an_offloaded_text_encoder_on_the_cpu(config, monkeypatch):
    prior = load_prior(replace(config, offload_text=True))
    moves = []
    monkeypatch.setattr(prior.prompt_encoder.text_encoder, "to", lambda place: moves.append(str(place)))
    monkeypatch.setattr(prior.prompt_encoder.text_encoder, "forward", raises_out_of_memory)
    with pytest.raises(MemoryError):
        prior.encode_prompts(["a man"])
    assert moves[-1] == "cpu"


def raises_out_of_memory(*args, **kwargs):
    raise MemoryError


def test_an_offloaded_text_encoder_gives_the_same_conditions(config, plain):
    """Also to a backward pass, before which it must not move."""
    prior = load_prior(replace(config, offload_text=True))
    moves = []
    prior.text_encoder.to = lambda *place: moves.append(place[0])
    torch.testing.assert_close(prior.encode_prompts(["a man"]), plain.encode_prompts(["a man"]))
    assert moves == [prior.device, "cpu"]
    rows = torch.ones(2, 16, requires_grad=True)
    prior.encode_prompts(["<id>"], rows).sum().backward()
    assert moves[2:] == [prior.device] and rows.grad.abs().sum() > 0


def test_frozen_layers_equal_torchs(config):
    """Values and gradients; and names of weights, since fingerprints hold them. Weights that learn still learn."""
    torch.manual_seed(0)

    ordinary = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    ).double()

    frozen = AutoencoderKL.from_config(ordinary.config).double()
    frozen.load_state_dict(ordinary.state_dict())
    use_low_memory_convolutions(frozen)
    use_low_memory_norms(frozen.encoder)
    assert list(frozen.state_dict()) == list(ordinary.state_dict())
    types = [type(module) for module in frozen.encoder.modules()]
    assert types.count(FrozenConv2d) > 8 and types.count(FrozenNormSilu) > 8 and nn.SiLU not in types
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    for learns in (True, False):
        gradients = []
        for vae in (ordinary, frozen):
            vae.requires_grad_(learns)
            vae.zero_grad(set_to_none=True)
            image = x.clone().requires_grad_()
            vae.encode(image).latent_dist.mean.square().sum().backward()
            learned = [p.grad for p in vae.encoder.parameters() if p.grad is not None]
            assert len(learned) == (len(list(vae.encoder.parameters())) if learns else 0)
            gradients.append([image.grad, *learned])
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-8)


class TypesInBackward(TorchDispatchMode):
    """The types of the gradient and of the weight in every backward pass of a convolution: CUDA refuses two."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.seen.add((args[0].dtype, args[2].dtype))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("within", [True, False])
def test_frozen_layers_equal_torchs_under_autocast(within):
    """In bfloat16, also where the backward pass is made outside of it; and no convolution mixes types."""
    torch.manual_seed(0)
    ordinary = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 4, 3, stride=2))
    ordinary.requires_grad_(False)
    frozen = copy.deepcopy(ordinary)
    use_low_memory_convolutions(frozen)
    frozen[1], frozen[2] = FrozenNormSilu(frozen[1]), nn.Identity()
    image, answers = torch.randn(2, 4, 8, 8), []
    for network in (ordinary, frozen):
        x = image.clone().requires_grad_()
        with TypesInBackward() as mode:
            with torch.autocast("cpu", torch.bfloat16):
                latents = network(x)
                if within:
                    latents.float().square().sum().backward()
            if not within:
                latents.float().square().sum().backward()
        assert latents.dtype is torch.bfloat16 and mode.seen == {(torch.bfloat16, torch.bfloat16)}
        answers.append((latents, x.grad))
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_frozen_layers_keep_a_third():
    """Of the true VAE's encoder, on real tensors."""
    vae = AutoencoderKL.from_config(full.layout("sd15", "vae")).requires_grad_(False).eval()
    kept = []
    for change in (lambda: None, lambda: (use_low_memory_convolutions(vae), use_low_memory_norms(vae.encoder))):
        change()
        kept.append(measured(lambda: vae.encode(torch.zeros(1, 3, 32, 32).requires_grad_()).latent_dist.mean)[0])
    assert kept[1] < 0.36 * kept[0]


def test_tf32_goes_with_the_precision(config, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)  # comes back as it was
    for precision, allowed in ((Precision.bfloat16, True), (Precision.float32, False)):
        load_prior(replace(config, precision=precision))
        assert torch.backends.cudnn.allow_tf32 is allowed
        assert torch.backends.cuda.matmul.allow_tf32 is False, "skinning is a matrix product"


def test_random_weights_have_the_architecture(config, plain):
    prior = random_prior(config, seed=1)
    assert prior.image_size == plain.image_size and prior.text_width == plain.text_width
    shapes = {name: p.shape for name, p in plain.unet.named_parameters()}
    assert {name: p.shape for name, p in prior.unet.named_parameters()} == shapes
    assert (prior.unet.conv_in.weight - plain.unet.conv_in.weight).abs().max() > 1e-3
    assert_same(encoded(prior), encoded(random_prior(config, seed=1)))


def test_a_chunk_is_all_that_is_kept_at_once(config):
    """Of the checkpointed encoder: the peak of the backward pass hardly grows with the number of images."""
    prior = load_prior(replace(config, encode_chunk=1, checkpoint_encoder=True))
    peaks = {}
    for batch in (2, 6):
        images = torch.rand(batch, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3, requires_grad=True)
        with LiveMemory() as memory:
            latents = prior.encode_images(images)
            latents.sum().backward()
        peaks[batch] = memory.peak
    whole = partial(prior.vae.encode, torch.rand(1, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, requires_grad=True))
    prior.vae.disable_gradient_checkpointing()
    kept = measured(lambda: whole().latent_dist.mean)[0]
    assert (peaks[6] - peaks[2]) / 4 < 0.5 * kept
