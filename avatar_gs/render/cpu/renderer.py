"""The CPU renderer: two differentiable torch functions, `_Project` and `_Blend`, and `render`, which combines them.

It follows gsplat's ``rasterization`` (pinhole cameras, classic mode, not packed). Tensors are float32 and share their
memory with the kernels' numpy arrays. Cameras get no gradient.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from avatar_gs.render.cpu import simd
from avatar_gs.render.cpu.binning import TILE, bin_splats
from avatar_gs.render.cpu.blending import SLOT, gather, render_tiles, render_tiles_backward
from avatar_gs.render.cpu.projection import Projected, Splats, View, pack_cameras, project, project_backward
from avatar_gs.render.cpu.runtime import run_chunks, run_everywhere
from avatar_gs.render.cpu.tiles import BLOCK_WIDTH
from avatar_gs.types import Cameras, Gaussians, Render


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _zeros(*shape: int) -> Tensor:
    """Zeros without OpenMP, whose threads may spin for milliseconds after filling a large tensor."""
    return torch.from_numpy(np.zeros(shape, np.float32))


def _flat(radii: Tensor, means2d: Tensor, depths: Tensor, conics: Tensor) -> Projected:
    """The arrays of ``[B, N, …]`` tensors with one dimension for the (camera, splat) pairs."""
    return Projected(
        _array(radii).reshape(-1, 2),
        _array(means2d).reshape(-1, 2),
        _array(depths).reshape(-1),
        _array(conics).reshape(-1, 3),
    )


class _Project(torch.autograd.Function):
    """means, quats, scales -> radii [B, N, 2] int32, means2d [B, N, 2], depths [B, N], conics [B, N, 3]."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        view: View,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        images, splats = len(view.cameras), len(means)
        radii = torch.empty(images, splats, 2, dtype=torch.int32)
        means2d, depths = torch.empty(images, splats, 2), torch.empty(images, splats)
        conics = torch.empty(images, splats, 3)
        arrays = Splats(_array(means), _array(quats), _array(scales))
        projected = _flat(radii, means2d, depths, conics)
        run_chunks(project, images * splats, arrays, _array(opacities), view, projected)
        ctx.save_for_backward(means, quats, scales, radii, conics)
        ctx.view = view
        ctx.mark_non_differentiable(radii)
        return radii, means2d, depths, conics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, v_means2d: Tensor, v_depths: Tensor, v_conics: Tensor) -> tuple:  # pyright: ignore
        means, quats, scales, radii, conics = ctx.saved_tensors
        arrays = Splats(_array(means), _array(quats), _array(scales))
        gradients = [_zeros(*x.shape) for x in (means, quats, scales)]
        v_projected, v_splats = _flat(radii, v_means2d, v_depths, v_conics), Splats(*[x.numpy() for x in gradients])
        run_chunks(project_backward, len(means), arrays, ctx.view, _array(conics).reshape(-1, 3), v_projected, v_splats)
        return (*gradients, None, None)


class _Blend(torch.autograd.Function):
    """Projected splats -> rgb [B, 3, H, W], alpha [B, H, W], expected depth [B, H, W]; W is a multiple of 8."""

    @staticmethod
    def forward(
        ctx: Any,
        means2d: Tensor,
        conics: Tensor,
        depths: Tensor,
        opacities: Tensor,
        colors: Tensor,
        background: Tensor,
        radii: Tensor,
        width: int,
        height: int,
        absgrad: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        images = len(means2d)
        projected = _flat(radii, means2d, depths, conics)
        bins = bin_splats(projected, _array(opacities), _array(colors), images, width, height)
        rgb = torch.empty(images, 3, height, width)
        alpha, depth = torch.empty(images, height, width), torch.empty(images, height, width)
        stops = np.empty(len(bins.order), np.int64)
        flat = [x.view(-1).numpy() for x in (rgb, alpha, depth)]
        run_everywhere(render_tiles, bins, _array(background), np.zeros(1, np.int64), stops, *flat)
        ctx.save_for_backward(means2d, rgb, alpha, depth)
        ctx.bins, ctx.stops, ctx.absgrad = bins, stops, absgrad
        return rgb, alpha, depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_rgb: Tensor, v_alpha: Tensor, v_depth: Tensor) -> tuple:  # pyright: ignore
        means2d, rgb, alpha, depth = ctx.saved_tensors
        bins, (images, splats) = ctx.bins, means2d.shape[:2]
        slots = np.empty(len(bins.rows_of_pairs) * SLOT, np.float32)
        rendered = tuple(_array(x).reshape(-1) for x in (rgb, alpha, depth))
        gradients = tuple(_array(x).reshape(-1) for x in (v_rgb, v_alpha, v_depth))
        absgrad = True if ctx.absgrad else None
        run_everywhere(
            render_tiles_backward, bins, np.zeros(1, np.int64), ctx.stops, rendered, gradients, slots, absgrad
        )
        v_means2d, v_conics = _zeros(images, splats, 2), _zeros(images, splats, 3)
        v_opacities, v_colors = _zeros(images, splats), _zeros(images, splats, 3)
        v_depths = _zeros(images, splats)
        magnitudes = _zeros(images, splats, 2) if ctx.absgrad else None
        run_chunks(
            gather, len(bins.rows), bins, slots,
            v_means2d.view(-1, 2).numpy(), v_conics.view(-1, 3).numpy(), v_opacities.view(-1).numpy(),
            v_colors.view(-1, 3).numpy(), v_depths.view(-1).numpy(),
            None if magnitudes is None else magnitudes.view(-1, 2).numpy(),
        )  # fmt: skip
        if magnitudes is not None:
            means2d.absgrad = magnitudes  # where gsplat's strategies read it
        v_background = None
        if ctx.needs_input_grad[5]:
            v_background = (v_rgb * (1.0 - alpha)[:, None]).sum(dim=(2, 3))
        return (
            v_means2d, v_conics, v_depths, _sum_images(v_opacities), _sum_images(v_colors), v_background,
            None, None, None, None,
        )  # fmt: skip


def _sum_images(gradients: Tensor) -> Tensor:
    """Sum over the first dimension in order, so that the bits do not depend on the number of threads."""
    total = gradients[0]
    for gradient in gradients[1:]:
        total = total + gradient
    return total


def render(
    gaussians: Gaussians, cameras: Cameras, background: Tensor, near: float, far: float, absgrad: bool
) -> Render:
    """Render on the CPU, as `avatar_gs.render.rasterize.rasterize`; ``background [B, 3]``.

    Raises:
        UserError: if this machine cannot run the SIMD code.
    """
    simd.check()
    width, height = cameras.width, cameras.height
    view = View(pack_cameras(_array(cameras.T_camera_world), _array(cameras.K)), width, height, near, far)
    radii, means2d, depths, conics = _Project.apply(  # pyright: ignore[reportGeneralTypeIssues]
        gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, view
    )
    padded = -(-width // BLOCK_WIDTH) * BLOCK_WIDTH
    rgb, alpha, depth = _Blend.apply(  # pyright: ignore[reportGeneralTypeIssues]
        means2d, conics, depths, gaussians.opacities, gaussians.colors, background, radii, padded, height, absgrad
    )
    if padded != width:
        rgb, alpha, depth = (x[..., :width] for x in (rgb, alpha, depth))
    info = {
        "means2d": means2d,
        "radii": radii,
        "depths": depths,
        "conics": conics,
        "opacities": gaussians.opacities.expand(len(cameras), -1),
        "width": width,
        "height": height,
        "tile_size": TILE,
        "n_cameras": len(cameras),
        "n_batches": 1,
        "gaussian_ids": None,
        "camera_ids": None,
        "batch_ids": None,
    }
    return Render(rgb.permute(0, 2, 3, 1), alpha[..., None], depth[..., None], info)
