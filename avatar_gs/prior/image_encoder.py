"""Images to latents: a VAE's encoder in 32 or 16 bits, or a tiny one distilled from it. Gradients flow to the images.

float16 has few exponents. Gradients on latents may be far smaller than it can hold, so each backward pass is scaled by
a power of two, which changes no digit; and an encoder whose latents overflow goes on in float32.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

LOGGER = logging.getLogger(__name__)

LARGEST = 2.0**4
"""The largest entry of a scaled gradient on latents: far above float16's smallest numbers, with room to grow by 4,000
within the network."""
Encode = Callable[[Tensor], Tensor]
"""Images ``[B, 3, H, W]`` in [-1, 1] to latents ``[B, c, h, w]``."""


class ImageEncoder:
    """Calls ``encode`` in ``dtype``; images and latents are float32.

    Args:
        encode: images in [-1, 1] to unscaled latents; it computes in the weights' type.
        networks: the modules that ``encode`` uses, whose weights are cast to ``dtype``.
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
            return self._again_in_float32(pixels)
        latents = scaled(lambda images: self.encode(images.to(self.dtype)).float(), pixels)
        if self.dtype is torch.float16:
            self._overflow.look_at(latents)
            if not latents.is_cuda and self._overflow.found():
                return self._again_in_float32(pixels)
        return latents

    def _again_in_float32(self, pixels: Tensor) -> Tensor:
        LOGGER.warning("%s: its latents overflow float16: it goes on in float32 (prior.vae_precision)", self.name)
        self._cast(torch.float32)
        return self.encode(pixels)

    def _cast(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        for network in self.networks:
            nn.Module.to(network, dtype)


class Overflow:
    """Whether latents were not finite. On a GPU the answer is copied while work goes on, and found at a later call:
    nobody waits for it."""

    def __init__(self) -> None:
        self._finite: Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def look_at(self, latents: Tensor) -> None:
        """Begin to find out."""
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
    """``encode(pixels)``; within its backward pass the largest entry of the latents' gradient lies in
    (LARGEST / 2, LARGEST], by a power of two that the pixels' gradient is divided by again."""
    scale: list[Tensor] = []
    latents = _Reduced.apply(pixels, scale)
    return _Enlarged.apply(encode(latents), scale)  # pyright: ignore[reportReturnType, reportArgumentType]


class _Enlarged(torch.autograd.Function):
    """The identity; its backward pass, which comes first, chooses the scale."""

    @staticmethod
    def forward(ctx: Any, latents: Tensor, scale: list[Tensor]) -> Tensor:
        ctx.scale = scale
        return latents.view_as(latents)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        factor = (LARGEST / gradient.abs().amax()).log2().floor().clamp(-100, 100).exp2()
        factor = factor.where(factor.isfinite(), torch.ones_like(factor))  # of zeros, or of a gradient that is lost
        ctx.scale[:] = [factor]
        return gradient * factor, None


class _Reduced(torch.autograd.Function):
    """The identity; its backward pass takes the scale away."""

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
