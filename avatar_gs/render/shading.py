"""Diffuse shading of splats by a point light (DreamFusion, Poole et al. 2022, section 3.1 and appendix A.2).

A splat's normal is its shortest axis, since the splats of a surface are flat disks in it. Each view has its own light
near its camera, so splats have other colours in every view, and views are rendered one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from avatar_gs.geometry import quat_to_matrix
from avatar_gs.render.config import ShadingConfig
from avatar_gs.render.rasterize import rasterize
from avatar_gs.types import Cameras, Gaussians, Render


class Shade(Enum):
    """What is rendered: the albedo, the lit albedo, or a lit white avatar."""

    ALBEDO = "albedo"
    LAMBERTIAN = "shaded"
    TEXTURELESS = "textureless"


@dataclass(frozen=True)
class Lighting:
    """The light of a batch of views."""

    shade: Shade
    lights: Float[Tensor, "B 3"]
    """Position of each view's point light, in world metres."""
    ambient: float
    diffuse: float


def sample_lighting(
    config: ShadingConfig,
    progress: float,
    cameras: Cameras,
    centres: Float[Tensor, "B 3"],
    generator: torch.Generator,
) -> Lighting | None:
    """Sample the light of one step.

    Args:
        config: probabilities and ranges.
        progress: fraction of the run that is done.
        cameras: the step's views.
        centres: look-at points in world metres.
        generator: on the CPU.

    Returns:
        None if the albedo is to be rendered.
    """
    lit, white = torch.rand(2, generator=generator).tolist()
    if progress < config.warmup or lit >= config.probability:
        return None
    shade = Shade.TEXTURELESS if white < config.textureless else Shade.LAMBERTIAN
    return Lighting(shade, sample_light_positions(config, cameras, centres, generator), config.ambient, config.diffuse)


def sample_light_positions(
    config: ShadingConfig, cameras: Cameras, centres: Float[Tensor, "B 3"], generator: torch.Generator
) -> Float[Tensor, "B 3"]:
    """Sample a light's position for each view, in world metres.

    Its direction is normally distributed around the camera's position, its distance is uniform; both are in units of
    the camera's distance from ``centres`` (the look-at points, world metres).
    """
    towards = camera_positions(cameras) - centres.to(cameras.K)
    distance = towards.norm(dim=-1, keepdim=True)
    normal = torch.randn(len(cameras), 3, generator=generator).to(towards)
    uniform = torch.rand(len(cameras), 1, generator=generator).to(towards)
    direction = F.normalize(towards + config.spread * distance * normal, dim=-1)
    nearest, farthest = config.distance_min, config.distance_max
    return centres.to(towards) + direction * distance * (nearest + (farthest - nearest) * uniform)


def camera_positions(cameras: Cameras) -> Float[Tensor, "B 3"]:
    """Camera centres in world metres."""
    R, t = cameras.T_camera_world[:, :3, :3], cameras.T_camera_world[:, :3, 3]
    return -(R.transpose(-1, -2) @ t[..., None])[..., 0]


def shortest_axes(quats: Float[Tensor, "N 4"], scales: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Unit direction of each splat's shortest axis, of arbitrary sign. Differentiable in ``quats``."""
    column = scales.argmin(-1)[:, None, None].expand(-1, 3, 1)
    return quat_to_matrix(quats).gather(-1, column)[..., 0]


def lambert(
    albedo: Float[Tensor, "N 3"],
    normals: Float[Tensor, "N 3"],
    points: Float[Tensor, "N 3"],
    light: Float[Tensor, "3"],
    ambient: float,
    diffuse: float,
) -> Float[Tensor, "N 3"]:
    """Lambertian shading, albedo (diffuse max(0, n . l) + ambient), with l the unit direction from a point to the light
    (DreamFusion, equation 4). Points that face away have ambient light only, and their normals no gradient.

    Args:
        albedo: colours in [0, 1].
        normals: unit vectors.
        points, light: world metres.
        ambient, diffuse: amounts of light in [0, 1].
    """
    cosine = (normals * F.normalize(light - points, dim=-1)).sum(-1, keepdim=True).clamp_min(0)
    return albedo * (diffuse * cosine + ambient)


def shade_splats(gaussians: Gaussians, normals: Float[Tensor, "N 3"], lighting: Lighting, view: int) -> Gaussians:
    """The splats in their colours in one view."""
    if lighting.shade is Shade.ALBEDO:
        return gaussians
    albedo = gaussians.colors
    if lighting.shade is Shade.TEXTURELESS:
        # keep a (zero) gradient: none at all would be counted as a bad step
        albedo = 1 + 0 * albedo
    light = lighting.lights[view].to(gaussians.means)
    colors = lambert(albedo, normals, gaussians.means, light, lighting.ambient, lighting.diffuse)
    return replace(gaussians, colors=colors)


def rasterize_shaded(
    gaussians: Gaussians,
    normals: Float[Tensor, "N 3"],
    lighting: Lighting,
    cameras: Cameras,
    background: Float[Tensor, "B 3"] | None = None,
) -> Render:
    """``rasterize`` lit splats. ``normals`` are unit vectors that point outwards."""
    renders = [
        rasterize(
            shade_splats(gaussians, normals, lighting, v),
            cameras[v],
            None if background is None else background[v][None],
        )
        for v in range(len(cameras))
    ]
    return concatenate(renders)


def orientation_penalty(
    gaussians: Gaussians, normals: Float[Tensor, "N 3"], cameras: Cameras
) -> Float[Tensor, "B H W"]:
    """Orientation penalty sum_i w_i max(0, n_i . d_i)^2 of every pixel (Ref-NeRF, Verbin et al. 2022).

    d is the unit direction from the camera to the splat, w the splat's weight in the pixel. As in DreamFusion, w gets
    no gradient: normals turn, but splats do not fade.
    """
    fixed = gaussians.detach()
    images = []
    for view, eye in enumerate(camera_positions(cameras)):
        along = (normals * F.normalize(fixed.means - eye, dim=-1)).sum(-1, keepdim=True)
        penalty = along.clamp_min(0).square().expand(-1, 3)
        images.append(rasterize(replace(fixed, colors=penalty), cameras[view]).rgb[..., 0])
    return torch.cat(images)


def concatenate(renders: Sequence[Render]) -> Render:
    """Join renders of single views to one of a batch, including the ``info`` that gsplat's strategies read."""
    info: dict[str, Any] = {
        name: torch.cat([r.info[name] for r in renders]) for name in ("radii", "depths", "conics", "opacities")
    }
    info |= {name: renders[0].info[name] for name in ("width", "height")}
    info |= {"n_cameras": len(renders), "gaussian_ids": None}
    info["means2d"] = _concatenate_means2d([render.info for render in renders])
    rgb, alpha, depth = (torch.cat([getattr(r, name) for r in renders]) for name in ("rgb", "alpha", "depth"))
    return Render(rgb, alpha, depth, info)


def _concatenate_means2d(infos: Sequence[dict[str, Any]]) -> Float[Tensor, "B N 2"]:
    """Image positions of all views; a backward pass writes their gradients to its ``grad``."""
    parts = [info["means2d"] for info in infos]
    whole = torch.cat(parts).detach()
    if not parts[0].requires_grad:
        return whole
    whole.requires_grad_(True)
    whole.grad = torch.zeros_like(whole)
    for part, row in zip(parts, whole.grad, strict=True):
        part.register_hook(partial(_add_to, row))
    return whole


def _add_to(row: Float[Tensor, "N 2"], gradient: Float[Tensor, "1 N 2"]) -> None:
    row.add_(gradient[0])
