"""What the prior sees of the avatar: its renders in a scene, encoded as latents."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.protocols import Prior, StagedPrior
from avatar_gs.render.rasterize import rasterize
from avatar_gs.render.shading import rasterize_shaded, shortest_axes
from avatar_gs.splats.model import GaussianModel
from avatar_gs.training.background import LearnedBackground
from avatar_gs.training.scene import Scene
from avatar_gs.types import Cameras, Gaussians, Render


def draw(
    model: GaussianModel, scene: Scene, supersample: int = 1, environment: LearnedBackground | None = None
) -> Render:
    """The avatar in a scene; pictures are ``supersample`` times as large as the scene's cameras.

    ``environment`` stands behind it where the scene asks for one; else the scene's plain backgrounds do.
    """
    cameras = enlarged(scene, supersample)
    gaussians = model.pose(scene.posed)
    shown = environment if scene.environment else None
    plain = scene.backgrounds if shown is None else None
    if scene.lighting is None:
        render = rasterize(gaussians, cameras, plain)
    else:
        normals = outward_normals(model, gaussians)
        render = rasterize_shaded(gaussians, normals, scene.lighting, cameras, plain)
    if shown is None:
        return render
    return Render(shown.behind(render.rgb, render.alpha, cameras), render.alpha, render.depth, render.info)


def enlarged(scene: Scene, supersample: int) -> Cameras:
    """The scene's cameras with pictures ``supersample`` times as large."""
    cameras = scene.views.cameras
    return cameras.resized(cameras.width * supersample, cameras.height * supersample)


def outward_normals(model: GaussianModel, gaussians: Gaussians) -> Float[Tensor, "N 3"]:
    """The unit normal of every splat of a posed avatar: its shortest axis, on the side of the body's surface that is
    outside where the splat is at rest. Differentiable in the orientation, not in the choice of axis and side.

    Args:
        gaussians: ``model`` in any pose (``GaussianModel.pose``).
    """
    with torch.no_grad():
        at_rest = shortest_axes(model.params["quats"], gaussians.scales)
        side = torch.where((at_rest * model.params["normals"]).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return side * shortest_axes(gaussians.quats, gaussians.scales)


def encoder_at(prior: Prior, progress: float) -> Callable[[Tensor], Tensor]:
    """Images ``[B, H, W, 3]`` in [0, 1] to scaled latents; of a staged prior by ``progress``, the fraction of the steps
    that lie before this one."""
    return prior.encoder_at(progress) if isinstance(prior, StagedPrior) else prior.encode_images
