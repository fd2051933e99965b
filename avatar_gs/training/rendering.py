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
from avatar_gs.types import Gaussians, Render


def render_scene(model: GaussianModel, scene: Scene, environment: LearnedBackground | None = None) -> Render:
    """The avatar in a scene, on ``environment`` where the scene uses a learned background, else on its plain ones."""
    gaussians = model.pose(scene.posed)
    learned = environment if scene.environment else None
    plain = scene.backgrounds if learned is None else None
    if scene.lighting is None:
        render = rasterize(gaussians, scene.cameras, plain)
    else:
        normals = outward_normals(model, gaussians)
        render = rasterize_shaded(gaussians, normals, scene.lighting, scene.cameras, plain)
    if learned is None:
        return render
    return Render(learned.behind(render.rgb, render.alpha, scene.cameras), render.alpha, render.depth, render.info)


def outward_normals(model: GaussianModel, gaussians: Gaussians) -> Float[Tensor, "N 3"]:
    """Unit normals of a posed avatar's splats: the shortest axis, pointing out of the body's surface at rest.

    Differentiable in the orientation, not in the choice of axis and side.

    Args:
        gaussians: ``model`` in any pose (``GaussianModel.pose``).
    """
    with torch.no_grad():
        at_rest = shortest_axes(model.params["quats"], gaussians.scales)
        side = torch.where((at_rest * model.params["normals"]).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return side * shortest_axes(gaussians.quats, gaussians.scales)


def encoder_at(prior: Prior, progress: float) -> Callable[[Tensor], Tensor]:
    """The encoder of images ``[B, H, W, 3]`` in [0, 1] to scaled latents.

    Args:
        progress: fraction of the run before this step; a staged prior chooses by it.
    """
    return prior.encoder_at(progress) if isinstance(prior, StagedPrior) else prior.encode_images
