"""A dense reference renderer: every splat at every pixel, in torch, in any precision.

`avatar_gs.render.rasterize` is checked against it and timed in comparison with it. Memory is proportional to splats x
pixels: a thousand splats at 64² take some hundred MiB with gradients.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from avatar_gs.geometry import quat_to_matrix
from avatar_gs.render.cpu.blending import ALPHA_MAX, T_STOP
from avatar_gs.render.cpu.projection import ALPHA_CUT, BLUR, MAX_EXTENT, WINDOW
from avatar_gs.types import Cameras, Gaussians, Render


def render_dense(
    gaussians: Gaussians,
    cameras: Cameras,
    background: Float[Tensor, "B 3"] | None = None,
    *,
    near: float = 0.01,
    far: float = 1e10,
) -> Render:
    """The same as `rasterize`, in the precision of its arguments (all of one floating dtype), differentiable.

    ``info`` holds ``means2d [B, N, 2]``, ``radii [B, N, 2]``, and ``fragile [B, H, W]``: pixels where an alpha or
    transmittance is so close to a threshold that rounding to float32 could change the branch.
    """
    if background is None:
        background = gaussians.means.new_zeros(len(cameras), 3)
    projected = [_project(gaussians, cameras[b], near, far) for b in range(len(cameras))]
    means2d = torch.stack([p[0] for p in projected])
    radii = torch.stack([p[3] for p in projected])
    images = [
        _blend(gaussians, cameras, means2d[b], projected[b][1], projected[b][2], radii[b], background[b])
        for b in range(len(cameras))
    ]
    rgb, alpha, depth, fragile = (torch.stack(parts) for parts in zip(*images, strict=True))
    return Render(rgb, alpha, depth, {"means2d": means2d, "radii": radii, "fragile": fragile})


def _project(
    gaussians: Gaussians, camera: Cameras, near: float, far: float
) -> tuple[Float[Tensor, "N 2"], Float[Tensor, "N 2 2"], Float[Tensor, " N"], Int[Tensor, "N 2"]]:
    """means2d, inverse covariances on the screen, depths and radii (0: not drawn), as `cpu.projection` has them."""
    rotation, translation, K = camera.T_camera_world[0, :3, :3], camera.T_camera_world[0, :3, 3], camera.K[0]
    p = gaussians.means @ rotation.T + translation
    in_range = (p[:, 2] >= near) & (p[:, 2] <= far)
    p = torch.where(in_range[:, None], p, torch.ones_like(p))  # avoids division by zero
    focal, centre = torch.stack([K[0, 0], K[1, 1]]), K[:2, 2]
    size = torch.tensor([camera.width, camera.height], dtype=p.dtype)
    ratio = p[:, :2] / p[:, 2:]
    means2d = focal * ratio + centre

    window = torch.stack([-(centre + WINDOW * size) / focal, (size - centre + WINDOW * size) / focal])
    ratio = ratio.clamp(window[0], window[1])
    diagonal = torch.diag_embed(focal / p[:, 2:])
    jacobian = torch.cat([diagonal, (-focal * ratio / p[:, 2:])[:, :, None]], dim=2)
    axes = jacobian @ rotation @ quat_to_matrix(gaussians.quats) * gaussians.scales[:, None, :]
    covariance = axes @ axes.mT + BLUR * torch.eye(2, dtype=p.dtype)

    with torch.no_grad():
        drawn = in_range & (gaussians.opacities >= ALPHA_CUT)
        extent = (2 * (gaussians.opacities / ALPHA_CUT).clamp(min=1).log()).sqrt().clamp(max=MAX_EXTENT)
        radii = (extent[:, None] * covariance.diagonal(dim1=1, dim2=2).sqrt()).ceil()
        drawn &= (means2d + radii > 0).all(dim=1) & (means2d - radii < size).all(dim=1)
        radii = torch.where(drawn[:, None], radii, 0).int()
    return means2d, torch.linalg.inv(covariance), p[:, 2], radii


def _blend(
    gaussians: Gaussians,
    cameras: Cameras,
    means2d: Float[Tensor, "N 2"],
    conics: Float[Tensor, "N 2 2"],
    depths: Float[Tensor, " N"],
    radii: Int[Tensor, "N 2"],
    background: Float[Tensor, " 3"],
) -> tuple[Float[Tensor, "H W 3"], Float[Tensor, "H W 1"], Float[Tensor, "H W 1"], Bool[Tensor, "H W"]]:
    """rgb, alpha, expected depth and the fragile pixels of one image."""
    visible = torch.where((radii > 0).all(dim=1))[0]
    visible = visible[torch.argsort(depths[visible].detach(), stable=True)]
    y, x = torch.meshgrid(torch.arange(cameras.height) + 0.5, torch.arange(cameras.width) + 0.5, indexing="ij")
    pixels = torch.stack([x, y], dim=-1).to(means2d.dtype)
    offset = means2d[visible][:, None, None] - pixels
    sigma = 0.5 * torch.einsum("nhwi,nij,nhwj->nhw", offset, conics[visible], offset)
    raw = gaussians.opacities[visible][:, None, None] * torch.exp(-sigma)
    alphas = torch.where(raw > ALPHA_MAX, torch.full_like(raw, ALPHA_MAX), raw)
    alphas = torch.where((alphas < ALPHA_CUT) | (sigma < 0), torch.zeros_like(raw), alphas)
    after = torch.cumprod(1 - alphas, dim=0)
    fragile = ((raw / ALPHA_CUT - 1).abs() < 1e-4) | ((after / T_STOP - 1).abs() < 1e-2)
    fragile |= (raw / ALPHA_MAX - 1).abs() < 1e-4

    alphas = alphas * (after > T_STOP)  # stop before the splat that would reduce T to T_STOP or less
    transmittance = torch.cumprod(torch.cat([torch.ones_like(pixels[None, ..., 0]), 1 - alphas]), dim=0)
    weights, left = alphas * transmittance[:-1], transmittance[-1][..., None]
    rgb = torch.einsum("nhw,nc->hwc", weights, gaussians.colors[visible]) + left * background
    alpha, total = 1 - left, torch.einsum("nhw,n->hw", weights, depths[visible])[..., None]
    covered = alpha > 0
    depth = torch.where(covered, total / torch.where(covered, alpha, 1.0), 0.0)
    return rgb, alpha, depth, fragile.any(dim=0)
