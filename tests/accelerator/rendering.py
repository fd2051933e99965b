"""gsplat's rasterisation on the accelerator, computed by the CPU renderer."""

import threading
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from avatar_gs.render.cpu import renderer
from avatar_gs.types import Cameras, Gaussians, Render
from tests.accelerator.tensors import OnDevice, held_values, on_device, wait


class _Moved(torch.autograd.Function):
    """Move a tensor to the other device and its gradient back; the host does not wait."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.held.clone() if isinstance(value, OnDevice) else OnDevice(value.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        return gradient.held.clone() if isinstance(gradient, OnDevice) else OnDevice(gradient.clone())


def _moved(value: Any) -> Any:
    return _Moved.apply(value) if isinstance(value, Tensor) else value


class BlendOnDevice:
    """The CPU renderer's ``_Blend``; within ``render``, screen positions pass through the accelerator."""

    original = renderer._Blend
    here = threading.local()

    @classmethod
    def apply(cls, means2d: Tensor, *others: Any) -> Any:
        if getattr(cls.here, "screen", None) is None:
            return cls.original.apply(means2d, *others)
        cls.here.screen.append(_moved(means2d))
        return cls.original.apply(_moved(cls.here.screen[0]), *others)


def render(
    gaussians: Gaussians, cameras: Cameras, background: Tensor, near: float, far: float, absgrad: bool
) -> Render:
    """Replaces gsplat's rendering; gradients pass through ``info["means2d"]`` as with gsplat."""
    operands = [*vars(gaussians).values(), cameras.T_camera_world, cameras.K, background]
    if not all(map(on_device, operands)):
        raise RuntimeError("Expected all tensors to be on the same device (gsplat's rasterization)")
    splats = Gaussians(*(_moved(value) for value in vars(gaussians).values()))
    views = replace(cameras, T_camera_world=held_values(cameras.T_camera_world), K=held_values(cameras.K))
    screen = BlendOnDevice.here.screen = []
    try:
        rendered = renderer.render(splats, views, _moved(background), near, far, absgrad)
    finally:
        BlendOnDevice.here.screen = None
    wait("gsplat")
    info = {name: _moved(value) for name, value in rendered.info.items()} | {"means2d": screen[0]}
    return Render(_moved(rendered.rgb), _moved(rendered.alpha), _moved(rendered.depth), info)
