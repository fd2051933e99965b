"""Encoders in 16 bits, and the tiny one in place of the VAE's."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (the annotations in diffusers are narrower than what it takes and returns)

import copy
import json
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderTiny
from torch import nn
from torch.nn import functional as F

from avatar_gs.core.errors import UserError
from avatar_gs.lab.benchmarks.random_weights import random_prior
from avatar_gs.prior.compute import Compute, choose_vae_dtype
from avatar_gs.prior.config import Encoder, EncoderKeeps, Precision, PriorConfig, VaePrecision
from avatar_gs.prior.image_encoder import LARGEST, scaled
from avatar_gs.prior.low_memory_layers import FrozenConv2d, FrozenNormSilu
from avatar_gs.prior.parts import Parts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior, load_prior
from tests import full, tiny

TINY = {"encoder_block_out_channels": (8, 8), "num_encoder_blocks": (1, 1)}
TINY |= {"decoder_block_out_channels": (8, 8), "num_decoder_blocks": (1, 1)}


def tiny_vae(**changes):
    torch.manual_seed(5)
    return AutoencoderTiny(**(TINY | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_prior(tmp_path_factory.mktemp("prior"))


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_vae().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def config(folder, tiny_folder):
    return PriorConfig(name="custom", path=str(folder), tiny_encoder=str(tiny_folder))


def images(size=tiny.IMAGE_SIZE, batch=2):
    return torch.rand(batch, size, size, 3, generator=torch.Generator().manual_seed(0))


def answer(encode, images, factor=1.0):
    """Latents, and the gradient that a random cotangent of size ``factor`` brings, divided by it."""
    leaf = images.clone().requires_grad_()
    latents = encode(leaf)
    cotangent = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    latents.backward(cotangent * factor)
    return latents.detach(), leaf.grad / factor


def cosine(one, other):
    return float(F.cosine_similarity(one.double().flatten(), other.double().flatten(), dim=0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_in_16_bits_are_those_in_32(tmp_path, dtype):
    """Of all blocks of SD's VAE, also where float16 could not hold the gradients of latents, nor of images."""
    parts = full.few(tmp_path, "sd15", unet={"sample_size": 4})
    expected = StableDiffusionPrior(Parts(**copy.deepcopy(parts)))
    prior = StableDiffusionPrior(Parts(**parts), Compute(encoder_dtype=dtype))
    assert prior.vae.encoder.conv_in.weight.dtype is dtype and prior.vae.decoder.conv_in.weight.dtype is torch.float32
    latents, gradient = answer(expected.encode_images, images(32))
    for factor in (1.0, 1e-9, 1e6):
        found = answer(prior.encode_images, images(32), factor)
        assert found[0].dtype is found[1].dtype is torch.float32
        assert cosine(found[1], gradient) > 0.999
        assert float(found[1].norm() / gradient.norm()) == pytest.approx(1, abs=0.02)
        torch.testing.assert_close(found[0], latents, atol=0.02 * float(latents.abs().max()), rtol=0)
    assert prior.codec.vae_encoder.dtype is dtype, "nothing overflowed"


def test_the_scale_is_a_power_of_two_and_leaves_no_trace():
    seen = []

    def encode(pixels):
        out = 3 * pixels
        out.register_hook(seen.append)
        return out

    for size in (1e-12, 0.3, 7.0, 1e9):
        pixels = torch.randn(2, 3, 4, 4, requires_grad=True)
        gradient = torch.randn(2, 3, 4, 4) * size
        scaled(encode, pixels).backward(gradient)
        torch.testing.assert_close(pixels.grad, 3 * gradient, rtol=1e-6, atol=0)
        assert LARGEST / 2 < float(seen[-1].abs().max()) <= LARGEST
    pixels = torch.randn(1, 3, 4, 4, requires_grad=True)
    for lost in (0.0, float("nan"), float("inf")):
        (found,) = torch.autograd.grad(scaled(encode, pixels).sum() * lost, pixels)
        torch.testing.assert_close(found, torch.full_like(pixels, 3 * lost), equal_nan=True)


def test_encoders_whose_latents_overflow_float16_continue_in_float32(caplog, tmp_path):
    parts = tiny.parts(tmp_path)
    with torch.no_grad():
        parts["vae"].encoder.conv_in.weight.mul_(1e5)  # these weights fit, and what they make of an image does not
    expected = StableDiffusionPrior(Parts(**copy.deepcopy(parts))).encode_images(images())
    prior = StableDiffusionPrior(Parts(**parts), Compute(encoder_dtype=torch.float16))
    assert prior.codec.vae_encoder.dtype is torch.float16
    found = [answer(prior.encode_images, images()) for _ in range(2)]
    said = [record.message for record in caplog.records if record.name.startswith("avatar_gs")]
    assert said == ["the VAE's encoder: its latents overflow float16: it continues in float32 (prior.vae_precision)"]
    assert prior.codec.vae_encoder.dtype is torch.float32
    for latents, gradient in found:  # its weights were rounded to 11 bits
        assert float((latents - expected).norm() / expected.norm()) < 1e-2 and gradient.isfinite().all()


def test_weights_that_overflow_float16_stay_in_float32(tmp_path):
    parts = tiny.parts(tmp_path)
    with torch.no_grad():
        parts["vae"].encoder.conv_in.weight.mul_(1e7)
    prior = StableDiffusionPrior(Parts(**parts), Compute(encoder_dtype=torch.float16))
    assert prior.codec.vae_encoder.dtype is torch.float32 and prior.encode_images(images()).isfinite().all()


def test_the_format_is_short_where_the_networks_is_on_a_gpu_only():
    auto = PriorConfig(precision=Precision.float16)
    assert choose_vae_dtype(auto, "cuda") is torch.float16
    assert choose_vae_dtype(PriorConfig(precision=Precision.bfloat16), "cuda") is torch.float16
    assert choose_vae_dtype(PriorConfig(), "cuda") is torch.float32
    assert choose_vae_dtype(auto, "cpu") is choose_vae_dtype(replace(auto, precision=Precision.bfloat16), "cpu")
    assert choose_vae_dtype(auto, "cpu") is torch.float32
    asked = replace(auto, vae_precision=VaePrecision.bfloat16)
    assert choose_vae_dtype(asked, "cpu") is choose_vae_dtype(asked, "cuda") is torch.bfloat16
    assert choose_vae_dtype(replace(auto, vae_precision=VaePrecision.float16), "cpu") is torch.float32


@pytest.mark.parametrize(
    ("keeps", "convolutions", "norms"), [("all", False, False), ("convolutions", True, False), ("least", True, True)]
)
def test_encoder_keeps_changes_no_gradient(config, keeps, convolutions, norms):
    prior = load_prior(replace(config, encoder_keeps=EncoderKeeps[keeps]))
    types = [type(module) for module in prior.vae.encoder.modules()]
    assert (FrozenConv2d in types, nn.Conv2d in types) == (convolutions, not convolutions)
    assert (FrozenNormSilu in types, nn.SiLU in types) == (norms, not norms)
    auto = load_prior(config)
    assert auto.codec.encoder_keeps is EncoderKeeps.least, "on a CPU"
    for one, other in zip(answer(prior.encode_images, images()), answer(auto.encode_images, images()), strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-5)


# ---- the tiny encoder


def test_the_tiny_encoder_equals_diffusers(config, tiny_folder, tmp_path):
    """Its latents come scaled, and it reads images in [-1, 1] as a VAE does; in chunks too, and with gradients."""
    theirs = AutoencoderTiny.from_pretrained(tiny_folder)
    pixels = images().permute(0, 3, 1, 2) * 2 - 1
    expected = theirs.encode(pixels).latents * theirs.config.scaling_factor
    other = tiny_vae(scaling_factor=0.5, shift_factor=0.25)
    prior = StableDiffusionPrior(Parts(**tiny.parts(tmp_path), tiny=copy.deepcopy(other)))
    torch.testing.assert_close(prior.encode_tiny(images()), (other.encode(pixels).latents - 0.25) * 0.5)
    for chunk in (0, 1):
        prior = load_prior(replace(config, encoder=Encoder.tiny, encode_chunk=chunk))
        torch.testing.assert_close(prior.encode_tiny(images()), expected)
        latents, gradient = answer(prior.encode_tiny, images())
        assert latents.shape == (2, 4, tiny.LATENT_SIZE, tiny.LATENT_SIZE) and gradient.abs().max() > 1e-4
        assert not any(parameter.requires_grad for parameter in prior.codec.tiny_encoder.networks[0].parameters())
        torch.testing.assert_close(prior.encode_images(images()), load_prior(config).encode_images(images()))


def test_a_run_may_start_with_the_tiny_encoder(config):
    def whole(prior):
        return [prior.encoder_at(step / 10) == prior.encode_tiny for step in range(10)]

    assert whole(load_prior(config)) == [False] * 10
    assert whole(load_prior(replace(config, encoder=Encoder.tiny))) == [True] * 10
    assert whole(load_prior(replace(config, encoder=Encoder.tiny, tiny_until=0.3))) == [True] * 3 + [False] * 7


def test_random_weights_have_a_tiny_encoder_too(tmp_path, monkeypatch):
    """As TAESD is: 1.2 million parameters in its encoder."""
    from avatar_gs.prior.loading import single_file

    monkeypatch.setattr(single_file, "LAYOUTS", full.save_layouts(tmp_path, 300))
    prior = random_prior(PriorConfig(name="sd15", encoder=Encoder.tiny))
    assert sum(p.numel() for p in prior.codec.tiny_encoder.networks[0].parameters()) == 1_222_532
    assert prior.encode_tiny(images(512, 1)).shape == (1, 4, 64, 64)


def test_other_networks_than_a_tiny_encoder_are_refused(config, folder, tmp_path):
    def refused(name):
        with pytest.raises(UserError) as caught:
            load_prior(replace(config, encoder=Encoder.tiny, tiny_encoder=str(name)))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "this is AutoencoderKL: expected an AutoencoderTiny, such as madebyollin/taesd (a whole VAE goes" in refused(
        folder / "vae"
    )
    assert "this is UNet2DConditionModel: expected an AutoencoderTiny" in refused(folder / "unet")
    for name, changes, found in (
        ("channels", {"latent_channels": 16}, "16 channels at 1/2 "),
        ("deep", {"encoder_block_out_channels": (8, 8, 8), "num_encoder_blocks": (1, 1, 1)}, "4 channels at 1/4 "),
    ):
        tiny_vae(**changes).save_pretrained(tmp_path / name)
        message = refused(tmp_path / name)
        assert f"its latents have {found}" in message and "the VAE's 4 at 1/2" in message
    assert "no such folder or file" in refused(tmp_path / "not" / "there" / "at all")
    (tmp_path / "empty").mkdir()
    assert "missing config.json" in refused(tmp_path / "empty")
    damaged = tmp_path / "channels" / "diffusion_pytorch_model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert "damaged or cut short" in refused(tmp_path / "channels")
    unnamed = json.loads((tmp_path / "deep" / "config.json").read_text())
    unnamed.pop("_class_name")
    (tmp_path / "deep" / "config.json").write_text(json.dumps(unnamed))
    assert "this is another network" in refused(tmp_path / "deep")


def test_settings_of_the_tiny_encoder():
    with pytest.raises(UserError, match=r"prior.tiny_until=1.5: expected 0 to 1"):
        PriorConfig(tiny_until=1.5)
    with pytest.raises(UserError, match=r"prior.tiny_encoder is empty"):
        PriorConfig(encoder=Encoder.tiny, tiny_encoder="")
