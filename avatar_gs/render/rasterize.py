"""The one way to draw splats: gsplat's CUDA rasteriser on a GPU, our own renderer with its semantics on a CPU.

No other module calls ``gsplat.rasterization``.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.core import gsplat_kernels
from avatar_gs.core.errors import UserError
from avatar_gs.types import Cameras, Gaussians, Render


def require_renderer(device: torch.device | str) -> None:
    """Check that splats can be drawn on ``device``: call it before anything that takes long.

    Raises:
        UserError: a CUDA device without gsplat, or without what builds its kernels (nvcc of torch's CUDA, a C++
            compiler, ninja); a CPU that the SIMD code does not run on.
    """
    if torch.device(device).type == "cpu":
        from avatar_gs.render.cpu import simd

        simd.check()
        return
    problem = gsplat_kernels.find_kernels().problem
    if problem:
        raise UserError(f"device={device}: {problem}, or use device=cpu")


def prepare_renderer(device: torch.device | str) -> None:
    """Compile or load what rendering on ``device`` needs; without it, the first render does so.

    Raises:
        UserError: if gsplat's kernels cannot be compiled.
    """
    if torch.device(device).type == "cuda":
        gsplat_kernels.load_kernels()


def rasterize(
    gaussians: Gaussians,
    cameras: Cameras,
    background: Float[Tensor, "B 3"] | None = None,
    *,
    near: float = 0.01,
    far: float = 1e10,
    absgrad: bool = False,
) -> Render:
    """Draw splats into each camera, front to back, after 3D Gaussian Splatting (Kerbl et al. 2023) as gsplat does it.

    Args:
        gaussians: activated splats in the world frame, all tensors float32 on one device. Quaternions (wxyz) need not
            be normalised. Splats that are not finite are not drawn on a CPU.
        cameras: pinhole cameras on the same device, in world metres and pixels; they get no gradient.
        background: colour behind the splats, a row a camera; black where it is None.
        near, far: splats with a mean outside these depths (metres) are not drawn.
        absgrad: whether a backward pass sets ``info["means2d"].absgrad`` (sums of absolute gradients over the pixels).

    Returns:
        A `Render` with ``rgb`` (not clamped), ``alpha`` in [0, 1], ``depth`` (the alpha-weighted mean in metres, 0
        where alpha is 0): all differentiable in the splats and the background. ``info`` is what gsplat's strategies
        read (``packed=False``): ``means2d [B, N, 2]`` in pixels, on which ``retain_grad`` works, ``radii [B, N, 2]``
        in pixels (0: not drawn), ``depths``, ``conics``, ``opacities``, ``width``, ``height``, ``n_cameras``, …

    Raises:
        ValueError: pictures without pixels, a background of another shape than ``[B, 3]``, or splats in another
            precision.
        UserError: this CPU cannot run the renderer's SIMD code.
    """
    if cameras.width < 1 or cameras.height < 1:
        raise ValueError(f"cannot draw pictures of {cameras.width} x {cameras.height} pixels")
    if any(x.dtype != torch.float32 for x in vars(gaussians).values()):
        found = {name: str(x.dtype) for name, x in vars(gaussians).items()}
        raise ValueError(f"splats are {found}, expected torch.float32")
    if background is None:
        background = gaussians.means.new_zeros(len(cameras), 3)
    elif background.shape != (len(cameras), 3):
        raise ValueError(f"background has shape {tuple(background.shape)}, expected ({len(cameras)}, 3)")
    if gaussians.means.device.type == "cpu":
        from avatar_gs.render.cpu.api import render

        return render(gaussians, cameras, background, near, far, absgrad)
    return _render_with_gsplat(gaussians, cameras, background, near, far, absgrad)


def _render_with_gsplat(
    gaussians: Gaussians, cameras: Cameras, background: Tensor, near: float, far: float, absgrad: bool
) -> Render:
    from gsplat import rasterization

    gsplat_kernels.load_kernels()
    picture, alpha, info = rasterization(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        gaussians.colors,
        cameras.T_camera_world,
        cameras.K,
        cameras.width,
        cameras.height,
        near_plane=near,
        far_plane=far,
        backgrounds=background,
        render_mode="RGB+ED",
        absgrad=absgrad,
        packed=False,
    )
    return Render(picture[..., :3], alpha, picture[..., 3:], info)
