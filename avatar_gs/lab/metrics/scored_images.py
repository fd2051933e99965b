"""The images of suite=scores in all scored views: colour, textureless white, and alpha."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch.nn import functional as F

from avatar_gs.lab.metrics.avatar import Strip, ViewImages, render_views, side_by_side
from avatar_gs.lab.metrics.truth import BACKGROUND, Case, render_truth, with_average_cut
from avatar_gs.lab.metrics.views import ScoredViews, Viewpoints
from avatar_gs.lab.world import rendering as pic
from avatar_gs.lab.world.dataset import OVERSAMPLING, SIZE, part_masks
from avatar_gs.lab.world.wardrobe import dress, load_wardrobe
from avatar_gs.prior.config import PromptConfig
from avatar_gs.prior.prompts import bucket_prompts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.render.shading import Lighting, Shade, camera_positions, rasterize_shaded
from avatar_gs.splats.model import GaussianModel
from avatar_gs.training.rendering import outward_normals
from avatar_gs.types import Cameras, Gaussians

SAMPLE_BATCH = 12
"""Images sampled at once."""


@dataclass(frozen=True)
class ScoredImages:
    """One avatar, rendered person or set of samples in every view.

    Args:
        white: rendered in white and lit from the camera, on the grey of contact sheets; None for samples, which have no
            geometry and an alpha of 1.
    """

    colour: ViewImages
    white: Float[np.ndarray, "V S S 3"] | None

    def strip(self) -> Strip:
        """All images side by side: colour, white (if present), alpha."""
        alpha = np.repeat(self.colour.alpha[..., None], 3, -1)
        white = [] if self.white is None else [*self.white]
        return side_by_side([*self.colour.on_grey(), *white, *alpha])

    @classmethod
    def of_cells(cls, cells: Sequence[UInt8[np.ndarray, "S S 3"]], views: int) -> "ScoredImages":
        """Inverse of ``strip``, from its cells."""
        pixels = np.stack(cells).astype(np.float32) / np.float32(255)
        alpha = pixels[-views:, ..., 0]
        rgb = (pixels[:views] - (1 - alpha[..., None]) * np.float32(BACKGROUND)).clip(0)
        return cls(ViewImages(rgb, alpha), pixels[views:-views] if len(cells) == 3 * views else None)

    def on(self, colours: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "V S S 3"]:
        """The images in [0, 1], each on a plain colour."""
        transparency = 1 - self.colour.alpha[..., None]
        return np.clip(self.colour.rgb + transparency * colours[:, None, None], 0, 1).astype(np.float32)


@torch.no_grad()
def avatar_images(model: GaussianModel, views: ScoredViews) -> ScoredImages:
    """Render an avatar."""
    colours, whites = [], []
    for viewpoints in views.poses:
        gaussians = model.pose(viewpoints.posed)
        colours.append(render_views(gaussians, viewpoints.views.cameras))
        whites.append(_white(model, gaussians, viewpoints.views.cameras.to(model.device)))
    return ScoredImages(_joined(colours), np.concatenate(whites))


def _white(model: GaussianModel, gaussians: Gaussians, cameras: Cameras) -> Float[np.ndarray, "V S S 3"]:
    """Render in white with the light of rendered people, but from the camera."""
    lighting = Lighting(Shade.TEXTURELESS, camera_positions(cameras), pic.AMBIENT, 1 - pic.AMBIENT)
    background = torch.full((len(cameras), 3), BACKGROUND, device=model.device)
    render = rasterize_shaded(gaussians, outward_normals(model, gaussians), lighting, cameras, background)
    return render.rgb.clamp(0, 1).cpu().numpy()


def person_images(case: Case, views: ScoredViews) -> ScoredImages:
    """Render the person that a prompt describes as a mesh."""
    colours, whites = [], []
    for viewpoints in views.poses:
        truth = render_truth(case, viewpoints)
        alpha = np.stack([1 - part_masks(part_map, pic.BACKGROUND) for part_map in truth.maps])
        on_grey = np.stack([truth.image(view) for view in range(len(truth.maps))])
        rgb = (on_grey - (1 - alpha[..., None]) * np.float32(BACKGROUND)).clip(0)
        colours.append(ViewImages(rgb.astype(np.float32), alpha.astype(np.float32)))
        whites.append(_white_truth(case, viewpoints))
    return ScoredImages(_joined(colours), np.concatenate(whites))


def _white_truth(case: Case, viewpoints: Viewpoints) -> Float[np.ndarray, "V S S 3"]:
    """Render the person's mesh in white, lit from the camera."""
    wardrobe, person = load_wardrobe(), with_average_cut(case.person)
    mesh, unshaped = dress(wardrobe, person), np.zeros_like(wardrobe.vertices)
    colours = np.full((len(pic.PARTS), 3), 255.0, np.float32)
    colours[pic.BACKGROUND] = 255 * BACKGROUND
    size = SIZE * OVERSAMPLING
    fine = viewpoints.views.cameras.resized(size, size)
    out = np.empty((len(fine), SIZE, SIZE, 3), np.uint8)
    for view, eye in enumerate(camera_positions(fine).numpy()):
        light = eye - viewpoints.posed.vertices.mean(0).numpy()
        (rendered,) = pic.render_parts(wardrobe, mesh, person, viewpoints.posed, unshaped, fine[view], light)
        pic.colour_image(rendered.parts, rendered.shade, colours, out[view], OVERSAMPLING)
    return out.astype(np.float32) / np.float32(255)


def sample_images(
    prompt: str,
    negative: str,
    prior: StableDiffusionPrior,
    views: ScoredViews,
    config: PromptConfig,
    *,
    full_pose_maps: bool,
    generator: torch.Generator,
) -> ScoredImages:
    """Sample the prior (``prior.sample`` with its defaults) for the prompt and the views' pose maps."""
    prompts = bucket_prompts(prompt, negative, config)
    asked = [prompts[bucket] for bucket in views.buckets(config)]
    control = views.pose_maps(prior.image_size, full=full_pose_maps, device=prior.device)
    images = []
    for start in range(0, len(asked), SAMPLE_BATCH):
        some = asked[start : start + SAMPLE_BATCH]
        maps = control[start : start + SAMPLE_BATCH]
        drawn = prior.sample([one.positive for one in some], [one.negative for one in some], maps, generator=generator)
        images.append(F.interpolate(drawn.permute(0, 3, 1, 2), (SIZE, SIZE), mode="area").permute(0, 2, 3, 1))
    rgb = torch.cat(images).clamp(0, 1).cpu().numpy()
    return ScoredImages(ViewImages(rgb, np.ones(rgb.shape[:3], np.float32)), None)


def _joined(some: Sequence[ViewImages]) -> ViewImages:
    return ViewImages(np.concatenate([one.rgb for one in some]), np.concatenate([one.alpha for one in some]))
