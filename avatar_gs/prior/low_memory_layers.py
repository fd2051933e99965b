"""Layers of frozen networks that keep less for the backward pass to their inputs, with the same values and gradients.

For the gradient of its input a convolution needs its weights alone, and GroupNorm with SiLU its input alone, but torch
keeps the inputs of all three. With these layers the encoder of Stable Diffusion's VAE keeps a third.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input


class FrozenConv2d(nn.Conv2d):
    """A convolution that keeps only its frozen weights. It holds the parameters of ``conv``."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # pyright: ignore[reportArgumentType] (a tuple of two)
            conv.stride,  # pyright: ignore[reportArgumentType]
            conv.padding,  # pyright: ignore[reportArgumentType]
            conv.dilation,  # pyright: ignore[reportArgumentType]
            conv.groups,
            conv.bias is not None,
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.train(conv.training)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if _needs_no_saving(input, weight):
            return super()._conv_forward(input, weight, bias)
        dtype = _autocast_dtype(input.device)
        if dtype is not None:  # cast outside the function, whose backward pass must see one type
            input, weight = input.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        shape = self.stride, self.padding, self.dilation, self.groups
        return _Convolution.apply(input, weight, bias, shape)  # pyright: ignore[reportReturnType]


class FrozenNormSilu(nn.GroupNorm):
    """``silu(group_norm(x))``: keeps x, and computes the norm again in the backward pass."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__(norm.num_groups, norm.num_channels, norm.eps, norm.affine, device="meta")
        self.weight, self.bias = norm.weight, norm.bias
        self.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        if _needs_no_saving(input, self.weight):
            return _norm_silu(input, self.num_groups, self.weight, self.bias, self.eps)
        return _NormSilu.apply(input, self.num_groups, self.weight, self.bias, self.eps)  # pyright: ignore[reportReturnType]


def prepared(network: Any, device: torch.device, dtype: torch.dtype, *, low_memory: bool = True) -> Any:
    """A network for inference, in place: frozen, channels last (fastest for convolutions), with low-memory convolutions
    unless ``low_memory`` is false."""
    if low_memory:
        use_low_memory_convolutions(network)
    return network.requires_grad_(False).eval().to(device, dtype).to(memory_format=torch.channels_last)


def use_low_memory_convolutions(network: nn.Module) -> None:
    """Replace the network's convolutions by ``FrozenConv2d`` in place; names of parameters stay."""
    for parent in list(network.modules()):
        for name, conv in parent.named_children():
            if type(conv) is nn.Conv2d and conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
                setattr(parent, name, FrozenConv2d(conv))


def use_low_memory_norms(encoder: Any) -> None:
    """Replace each GroupNorm of a VAE's encoder, and the SiLU after it, by ``FrozenNormSilu`` in place."""
    pairs = [(encoder, "conv_norm_out", "conv_act")]
    for module in encoder.modules():
        if isinstance(module, ResnetBlock2D):
            pairs += [(module, "norm1", "nonlinearity"), (module, "norm2", "nonlinearity")]
    plain = all(
        type(getattr(owner, norm)) is nn.GroupNorm and isinstance(getattr(owner, activation), nn.SiLU)
        for owner, norm, activation in pairs
    )
    if not plain:  # another type of VAE, or replaced already
        return
    for owner, norm, activation in pairs:
        setattr(owner, norm, FrozenNormSilu(getattr(owner, norm)))
        setattr(owner, activation, nn.Identity())


def _needs_no_saving(input: Tensor, weight: Tensor) -> bool:
    """Whether torch's own layer serves: nothing is kept, the weights learn, or the compiler chooses what is kept."""
    graph = torch.is_grad_enabled() and input.requires_grad
    return not graph or weight.requires_grad or torch.compiler.is_compiling()


def _autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The number format of convolutions under autocast; None where it is off or unavailable (such as on meta)."""
    on = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if on else None


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
            repeated = input.detach().requires_grad_()
            output = _norm_silu(repeated, ctx.groups, weight, bias, ctx.eps)
        return torch.autograd.grad(output, repeated, gradients[0])[0], None, None, None, None


def _norm_silu(input: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.silu(F.group_norm(input, groups, weight, bias, eps))
