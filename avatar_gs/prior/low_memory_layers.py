"""Convolutional networks whose weights are frozen, and which gradients pass on their way to the input.

For that, a convolution needs its weights alone and GroupNorm with SiLU its input alone, but torch keeps the inputs of
all three. These layers do not, and compute the same; the encoder of Stable Diffusion's VAE then keeps a third.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input


class FrozenConv2d(nn.Conv2d):
    """Keeps nothing for the backward pass but its frozen weights."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if _is_ordinary(input, weight):
            return super()._conv_forward(input, weight, bias)
        dtype = _autocast_dtype(input.device)
        if dtype is not None:  # cast outside of the function, whose backward pass sees one type
            input, weight = input.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        shape = self.stride, self.padding, self.dilation, self.groups
        return _Convolution.apply(input, weight, bias, shape)  # pyright: ignore[reportReturnType]


class FrozenNormSilu(nn.GroupNorm):
    """``silu(group_norm(x))``; keeps x, and computes the norm a second time in the backward pass."""

    def forward(self, input: Tensor) -> Tensor:
        if _is_ordinary(input, self.weight):
            return _norm_silu(input, self.num_groups, self.weight, self.bias, self.eps)
        return _NormSilu.apply(input, self.num_groups, self.weight, self.bias, self.eps)  # pyright: ignore[reportReturnType]


def keep_less(network: nn.Module) -> None:
    """Makes the convolutions of a network such, in place; names of parameters stay. Trainable weights learn as ever."""
    for module in network.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.__class__ = FrozenConv2d


def keep_less_of_norms(encoder: Any) -> None:
    """The same for the norms of a VAE's encoder, each of which is followed by SiLU."""
    pairs = [(encoder, "conv_norm_out", "conv_act")]
    for module in encoder.modules():
        if isinstance(module, ResnetBlock2D):
            pairs += [(module, "norm1", "nonlinearity"), (module, "norm2", "nonlinearity")]
    plain = all(
        type(getattr(owner, norm)) is nn.GroupNorm and isinstance(getattr(owner, activation), nn.SiLU)
        for owner, norm, activation in pairs
    )
    if not plain:  # another kind of VAE, or one that is so already
        return
    for owner, norm, activation in pairs:
        getattr(owner, norm).__class__ = FrozenNormSilu
        setattr(owner, activation, nn.Identity())


def _is_ordinary(input: Tensor, weight: Tensor) -> bool:
    """Whether torch itself does as well: nothing is kept, the weights learn, or the compiler chooses what is kept."""
    graph = torch.is_grad_enabled() and input.requires_grad
    return not graph or weight.requires_grad or torch.compiler.is_compiling()


def _autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What autocast has convolutions compute in; None where it is off, or unknown to a device (such as meta)."""
    kind = device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else None


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Autocast as it was when ``_autocast_dtype`` gave ``dtype``."""
    if _autocast_dtype(device) == dtype:
        return nullcontext()
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, shape: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.size, ctx.shape = input.shape, shape
        return F.conv2d(input, weight, bias, *shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        return conv2d_input(ctx.size, weight, gradients[0], *ctx.shape), None, None, None


class _NormSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(input, weight, bias)
        ctx.groups, ctx.eps = groups, eps
        ctx.dtype = _autocast_dtype(input.device)
        return _norm_silu(input, groups, weight, bias, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        input, weight, bias = ctx.saved_tensors
        with torch.enable_grad(), _autocast(input.device, ctx.dtype):
            again = input.detach().requires_grad_()
            output = _norm_silu(again, ctx.groups, weight, bias, ctx.eps)
        return torch.autograd.grad(output, again, gradients[0])[0], None, None, None, None


def _norm_silu(input: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.silu(F.group_norm(input, groups, weight, bias, eps))
