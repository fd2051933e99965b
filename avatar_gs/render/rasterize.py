"""The rasteriser: gsplat on a GPU, our own renderer with the same semantics on a CPU.

No other module calls ``gsplat.rasterization``.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.core import gsplat_kernels
from avatar_gs.core.errors import UserError
from avatar_gs.types import Cameras, Gaussians, Render


def require_renderer(device: torch.device | str) -> None:
    """Check that splats can be rendered on ``device``; call it before anything that takes long.

    Raises:
        UserError: if gsplat or the tools that build its kernels (nvcc of torch's CUDA release, a C++ compiler, ninja)
            are missing, or if the SIMD code does not run on this CPU.
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
    """Render splats in each camera, front to back (3D Gaussian Splatting, Kerbl et al. 2023, as in gsplat).

    Args:
        gaussians: activated splats in the world frame, all tensors float32 on one device. Quaternions (wxyz) need not
            be normalised. A CPU skips splats that are not finite.
        cameras: pinhole cameras on the same device, in world metres and pixels; they get no gradient.
        background: colour behind the splats, one per camera; None: black.
        near, far: splats whose mean lies outside these depths (metres) are skipped.
        absgrad: let a backward pass set ``info["means2d"].absgrad`` (absolute gradients, summed over the pixels).

    Returns:
        A `Render` with ``rgb`` (not clamped), ``alpha`` in [0, 1], ``depth`` (the alpha-weighted mean in metres, 0
        where alpha is 0), all differentiable in the splats and the background. ``info`` holds what gsplat's strategies
        read (``packed=False``): ``means2d [B, N, 2]`` in pixels, on which ``retain_grad`` works, ``radii [B, N, 2]``
        in pixels (0: culled), ``depths``, ``conics``, ``opacities``, ``width``, ``height``, ``n_cameras``, …

    Raises:
        ValueError: for images without pixels, a background of another shape than ``[B, 3]``, or splats of another
            precision.
        UserError: if this CPU cannot run the renderer's SIMD code.
    """
    if cameras.width < 1 or cameras.height < 1:
        raise ValueError(f"cannot render images of {cameras.width} x {cameras.height} pixels")
    if any(x.dtype != torch.float32 for x in vars(gaussians).values()):
        found = {name: str(x.dtype) for name, x in vars(gaussians).items()}
        raise ValueError(f"splats are {found}, expected torch.float32")
    if background is None:
        background = gaussians.means.new_zeros(len(cameras), 3)
    elif background.shape != (len(cameras), 3):
        raise ValueError(f"background has shape {tuple(background.shape)}, expected ({len(cameras)}, 3)")
    if gaussians.means.device.type == "cpu":
        from avatar_gs.render.cpu.renderer import render

        return render(gaussians, cameras, background, near, far, absgrad)
    return _render_with_gsplat(gaussians, cameras, background, near, far, absgrad)


def _render_with_gsplat(
    gaussians: Gaussians, cameras: Cameras, background: Tensor, near: float, far: float, absgrad: bool
) -> Render:
    from gsplat import rasterization

    gsplat_kernels.load_kernels()
    image, alpha, info = rasterization(
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
    return Render(image[..., :3], alpha, image[..., 3:], info)
