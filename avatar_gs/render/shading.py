"""Diffuse shading of splats by a point light (DreamFusion, Poole et al. 2022, section 3.1 and appendix A.2).

A splat's normal is its shortest axis: the splats of a surface are flat disks in it. A light stands near its view's
camera, so a lit splat has another colour in every view, and views are drawn one by one.
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
    """What of the light a picture shows: nothing (the albedo), the lit albedo, or a lit white avatar."""

    ALBEDO = "albedo"
    LAMBERTIAN = "shaded"
    TEXTURELESS = "textureless"


@dataclass(frozen=True)
class Lighting:
    """The light of a batch of views: one position each (world metres), and how much light is ambient and diffuse."""

    shade: Shade
    lights: Float[Tensor, "B 3"]
    ambient: float
    diffuse: float


def sample_lighting(
    config: ShadingConfig,
    progress: float,
    cameras: Cameras,
    centres: Float[Tensor, "B 3"],
    generator: torch.Generator,
) -> Lighting | None:
    """The light of one step, a function of the generator; None where the albedo itself is shown.

    Args:
        progress: the share of the run that is done.
        centres: what each camera looks at, in world metres.
        generator: on the CPU.
    """
    lit, white = torch.rand(2, generator=generator).tolist()
    if progress < config.warmup or lit >= config.probability:
        return None
    shade = Shade.TEXTURELESS if white < config.textureless else Shade.LAMBERTIAN
    return Lighting(shade, sample_light_positions(config, cameras, centres, generator), config.ambient, config.diffuse)


def sample_light_positions(
    config: ShadingConfig, cameras: Cameras, centres: Float[Tensor, "B 3"], generator: torch.Generator
) -> Float[Tensor, "B 3"]:
    """A light's position for each view: its direction is normally distributed around the camera's position, its
    distance uniform, both in units of the camera's own distance from the centre (world metres)."""
    towards = camera_positions(cameras) - centres.to(cameras.K)
    distance = towards.norm(dim=-1, keepdim=True)
    spread = torch.randn(len(cameras), 3, generator=generator).to(towards)
    uniform = torch.rand(len(cameras), 1, generator=generator).to(towards)
    direction = F.normalize(towards + config.spread * distance * spread, dim=-1)
    nearest, farthest = config.distance_min, config.distance_max
    return centres.to(towards) + direction * distance * (nearest + (farthest - nearest) * uniform)


def camera_positions(cameras: Cameras) -> Float[Tensor, "B 3"]:
    """Where the cameras stand, in world metres."""
    R, t = cameras.T_camera_world[:, :3, :3], cameras.T_camera_world[:, :3, 3]
    return -(R.transpose(-1, -2) @ t[..., None])[..., 0]


def shortest_axes(quats: Float[Tensor, "N 4"], scales: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """The unit direction of each splat's shortest axis; its sign is arbitrary. Differentiable in ``quats``."""
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
    """albedo (diffuse max(0, n . l) + ambient), where l points from each point (world metres) to the light: what faces
    away has ambient light only, and gives its normal no gradient (DreamFusion, equation 4)."""
    cosine = (normals * F.normalize(light - points, dim=-1)).sum(-1, keepdim=True).clamp_min(0)
    return albedo * (diffuse * cosine + ambient)


def shade_splats(gaussians: Gaussians, normals: Float[Tensor, "N 3"], lighting: Lighting, view: int) -> Gaussians:
    """The splats in the colours that they have in one view."""
    if lighting.shade is Shade.ALBEDO:
        return gaussians
    albedo = gaussians.colors
    if lighting.shade is Shade.TEXTURELESS:
        # the colours keep a gradient (of zero): none at all would be taken for a bad step
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
    """``rasterize`` of lit splats. ``normals`` are unit vectors that point outwards."""
    renders = [
        rasterize(
            shade_splats(gaussians, normals, lighting, v),
            cameras[v],
            None if background is None else background[v][None],
        )
        for v in range(len(cameras))
    ]
    return join(renders)


def orientation_penalty(
    gaussians: Gaussians, normals: Float[Tensor, "N 3"], cameras: Cameras
) -> Float[Tensor, "B H W"]:
    """Ref-NeRF's orientation penalty sum_i w_i max(0, n_i . d_i)^2 of every pixel (Verbin et al. 2022), with d the unit
    direction from the camera to the splat and w its weight in the pixel, which gets no gradient: as in DreamFusion, the
    normals turn, and nothing fades."""
    fixed = gaussians.detach()
    pictures = []
    for view, eye in enumerate(camera_positions(cameras)):
        along = (normals * F.normalize(fixed.means - eye, dim=-1)).sum(-1, keepdim=True)
        penalty = along.clamp_min(0).square().expand(-1, 3)
        pictures.append(rasterize(replace(fixed, colors=penalty), cameras[view]).rgb[..., 0])
    return torch.cat(pictures)


def join(renders: Sequence[Render]) -> Render:
    """Renders of single views as one of all: gsplat's strategies read from it what they would read from a batch."""
    info: dict[str, Any] = {
        name: torch.cat([r.info[name] for r in renders]) for name in ("radii", "depths", "conics", "opacities")
    }
    info |= {name: renders[0].info[name] for name in ("width", "height")}
    info |= {"n_cameras": len(renders), "gaussian_ids": None}
    info["means2d"] = _gathered([render.info for render in renders])
    rgb, alpha, depth = (torch.cat([getattr(r, name) for r in renders]) for name in ("rgb", "alpha", "depth"))
    return Render(rgb, alpha, depth, info)


def _gathered(infos: Sequence[dict[str, Any]]) -> Float[Tensor, "B N 2"]:
    """The screen positions of all views; a backward pass puts their gradients into its ``grad``."""
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
