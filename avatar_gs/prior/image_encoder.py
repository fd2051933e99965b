"""Images to latents and back: a VAE in 32 or 16 bits, and optionally a tiny encoder distilled from it.

Gradients flow to the images. float16 has few exponents, and gradients on latents may be far below its range: each
backward pass is scaled by a power of two, which is exact; an encoder whose latents overflow continues in float32.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from avatar_gs.prior.accelerate import Accelerated, Make
from avatar_gs.prior.compute import DECODE_BATCH, Compute, choose_encoder_keeps
from avatar_gs.prior.config import EncoderKeeps
from avatar_gs.prior.low_memory_layers import prepared, use_low_memory_norms

LOGGER = logging.getLogger(__name__)

LARGEST = 2.0**4
"""Upper bound of the entries of a scaled gradient on latents: far above float16's smallest numbers, and gradients
within the network may be 4,000 times as large."""
Encode = Callable[[Tensor], Tensor]
"""Images ``[B, 3, H, W]`` in [-1, 1] to latents ``[B, c, h, w]``."""


class ImageEncoder:
    """An encoder that computes in ``dtype``; images and latents are float32.

    Args:
        encode: images in [-1, 1] to unscaled latents; it computes in the weights' type.
        networks: the modules of ``encode``, whose weights are cast to ``dtype``.
        name: for the log.
    """

    def __init__(self, encode: Encode, networks: Sequence[nn.Module], dtype: torch.dtype, name: str) -> None:
        self.encode = encode
        self.networks = networks
        self.name = name
        self._overflow = Overflow()
        weights = [weight for network in networks for weight in network.parameters()]
        if dtype is torch.float16 and any(weight.abs().max() > torch.finfo(dtype).max for weight in weights):
            LOGGER.warning("%s: its weights are too large for float16: it computes in float32", name)
            dtype = torch.float32
        self._cast(dtype)

    def __call__(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B c h w"]:
        if self.dtype is torch.float32:
            return self.encode(pixels)
        if self._overflow.found():
            return self._in_float32(pixels)
        latents = scaled(lambda images: self.encode(images.to(self.dtype)).float(), pixels)
        if self.dtype is torch.float16:
            self._overflow.check(latents)
            if not latents.is_cuda and self._overflow.found():
                return self._in_float32(pixels)
        return latents

    def _in_float32(self, pixels: Tensor) -> Tensor:
        LOGGER.warning("%s: its latents overflow float16: it continues in float32 (prior.vae_precision)", self.name)
        self._cast(torch.float32)
        return self.encode(pixels)

    def _cast(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        for network in self.networks:
            nn.Module.to(network, dtype)


class Overflow:
    """Whether latents were not finite. On a GPU the answer is copied asynchronously and found at a later call."""

    def __init__(self) -> None:
        self._finite: Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def check(self, latents: Tensor) -> None:
        """Start a check."""
        finite = latents.detach().isfinite().all()
        if not latents.is_cuda:
            self._finite = finite
        elif self._copied is None:  # else the last answer has not been read yet
            self._finite = torch.empty((), dtype=torch.bool, pin_memory=True)
            self._finite.copy_(finite, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def found(self) -> bool:
        """Whether an overflow is known by now."""
        if self._finite is None or (self._copied is not None and not self._copied.query()):
            return False
        self._copied = None
        return not bool(self._finite)


def scaled(encode: Encode, pixels: Tensor) -> Tensor:
    """``encode(pixels)`` whose backward pass computes on a scaled gradient.

    The factor is a power of two with which the largest entry of the latents' gradient lies in (LARGEST / 2, LARGEST];
    the gradient of the pixels is divided by it.
    """
    scale: list[Tensor] = []
    latents = _Reduced.apply(pixels, scale)
    return _Enlarged.apply(encode(latents), scale)  # pyright: ignore[reportReturnType, reportArgumentType]


class _Enlarged(torch.autograd.Function):
    """The identity; its backward pass, which runs first, chooses the scale."""

    @staticmethod
    def forward(ctx: Any, latents: Tensor, scale: list[Tensor]) -> Tensor:
        ctx.scale = scale
        return latents.view_as(latents)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        factor = (LARGEST / gradient.abs().amax()).log2().floor().clamp(-100, 100).exp2()
        factor = factor.where(factor.isfinite(), torch.ones_like(factor))  # all zeros, or not finite
        ctx.scale[:] = [factor]
        return gradient * factor, None


class _Reduced(torch.autograd.Function):
    """The identity; its backward pass removes the scale."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, scale: list[Tensor]) -> Tensor:
        ctx.scale = scale
        return pixels.view_as(pixels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] / ctx.scale[0], None


def vae_mean(vae: Any) -> Encode:
    """The mean of a VAE's posterior, unscaled."""

    def encode(images: Tensor) -> Tensor:
        moments = vae.encoder(images)
        if vae.quant_conv is not None:
            moments = vae.quant_conv(moments)
        return moments.chunk(2, dim=1)[0]

    return encode


class ImageCodec:
    """The VAE of a prior, frozen, with the tiny encoder if there is one.

    Args:
        vae: encodes and decodes.
        tiny: its encoder may replace the VAE's; None: there is none.
        image_size: side in pixels of encoded images; larger images are averaged down to it.
        compute: device, number format and measures that save memory.
    """

    def __init__(self, vae: AutoencoderKL, tiny: AutoencoderTiny | None, image_size: int, compute: Compute) -> None:
        self.image_size, self.encode_chunk = image_size, compute.encode_chunk
        self.encoder_keeps = choose_encoder_keeps(compute.encoder_keeps, compute.device)
        low_memory = self.encoder_keeps is not EncoderKeeps.all
        self.vae = prepared(vae, compute.device, torch.float32, low_memory=low_memory)
        if self.encoder_keeps is EncoderKeeps.least:
            use_low_memory_norms(self.vae.encoder)
        if compute.checkpoint_encoder:
            self.vae.enable_gradient_checkpointing()
        networks = [part for part in (self.vae.encoder, self.vae.quant_conv) if part is not None]
        self.vae_encoder = ImageEncoder(vae_mean(self.vae), networks, compute.encoder_dtype, "the VAE's encoder")
        self.tiny_encoder: ImageEncoder | None = None
        self.tiny_until = 0.0
        if tiny is not None:
            network = prepared(tiny.encoder, compute.device, torch.float32)
            self.tiny_encoder = ImageEncoder(network, [network], compute.encoder_dtype, "the tiny encoder")
            self.tiny_until = compute.tiny_until
            config: Any = tiny.config
            self._tiny_shift = float(config.get("shift_factor", 0.0))
            self._tiny_scale = float(config["scaling_factor"])

    @property
    def checkpoints(self) -> bool:
        """Whether the VAE's encoder is computed again in its backward pass."""
        return bool(self.vae.encoder.gradient_checkpointing)

    def encode(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B c h w"]:
        """Scaled latents (the posterior's mean) by the VAE."""
        latents = torch.cat([self.vae_encoder(chunk) for chunk in self._pixels(images)])
        return (latents - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor

    def encode_tiny(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B c h w"]:
        """Scaled latents by the tiny encoder, whose output is scaled already (its ``scaling_factor`` is 1)."""
        assert self.tiny_encoder is not None
        latents = torch.cat([self.tiny_encoder(chunk) for chunk in self._pixels(images)])
        return (latents - self._tiny_shift) * self._tiny_scale

    def decode(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B H W 3"]:
        """Images in [0, 1] of scaled latents."""
        unscaled = latents.float() / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        chunk = min(DECODE_BATCH, self.encode_chunk or DECODE_BATCH)
        pixels = torch.cat([self.vae.decode(part).sample for part in unscaled.split(chunk)])
        return (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)

    def accelerate(self, make: Make) -> None:
        """Compile or capture the encoders; not with ``checkpoints``, which must compute alike twice."""
        for encoder in (self.vae_encoder, self.tiny_encoder):
            if encoder is not None and not self.checkpoints:
                plain = encoder.encode.function if isinstance(encoder.encode, Accelerated) else encoder.encode
                encoder.encode = Accelerated(plain, make, encoder.dtype, encoder.name)

    def _pixels(self, images: Tensor) -> Sequence[Tensor]:
        """Images in [-1, 1] as the encoders take them, in chunks."""
        pixels = images.permute(0, 3, 1, 2).float() * 2 - 1
        if pixels.shape[-2:] != (self.image_size, self.image_size):
            pixels = F.interpolate(pixels, (self.image_size, self.image_size), mode="area")
        return pixels.contiguous(memory_format=torch.channels_last).split(self.encode_chunk or max(len(pixels), 1))
