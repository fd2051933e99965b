"""The pictures that suite=scores keeps of everything it compares, in all views: colour, without texture, and alpha."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch.nn import functional as F

from avatar_gs.lab.metrics.avatar import Pictures, Strip, draw_from, in_a_row
from avatar_gs.lab.metrics.truth import BACKGROUND, Case, Stage, draw_truth, middling
from avatar_gs.lab.metrics.views import Sights
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
"""Pictures that the prior draws at once."""


@dataclass(frozen=True)
class Shots:
    """One avatar, drawn person or set of samples in every view. ``white``: as if all of it were white, lit from the
    camera, on the grey of picture sheets; None for samples, which have no geometry (and an alpha of 1)."""

    colour: Pictures
    white: Float[np.ndarray, "V S S 3"] | None

    def strip(self) -> Strip:
        """All pictures side by side: colour, white (if there is), alpha."""
        alpha = np.repeat(self.colour.alpha[..., None], 3, -1)
        white = [] if self.white is None else [*self.white]
        return in_a_row([*self.colour.on_grey(), *white, *alpha])

    @classmethod
    def of_cells(cls, cells: Sequence[UInt8[np.ndarray, "S S 3"]], views: int) -> "Shots":
        """From the pictures of ``strip``, which are bytes."""
        pixels = np.stack(cells).astype(np.float32) / np.float32(255)
        alpha = pixels[-views:, ..., 0]
        rgb = (pixels[:views] - (1 - alpha[..., None]) * np.float32(BACKGROUND)).clip(0)
        return cls(Pictures(rgb, alpha), pixels[views:-views] if len(cells) == 3 * views else None)

    def on(self, colours: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "V S S 3"]:
        """The pictures in [0, 1] before a plain colour each."""
        see_through = 1 - self.colour.alpha[..., None]
        return np.clip(self.colour.rgb + see_through * colours[:, None, None], 0, 1).astype(np.float32)


@torch.no_grad()
def of_model(model: GaussianModel, sights: Sights) -> Shots:
    """An avatar."""
    colours, whites = [], []
    for stage in sights.stages:
        gaussians = model.pose(stage.posed)
        colours.append(draw_from(gaussians, stage.views.cameras))
        whites.append(_white(model, gaussians, stage.views.cameras.to(model.device)))
    return Shots(_joined(colours), np.concatenate(whites))


def _white(model: GaussianModel, gaussians: Gaussians, cameras: Cameras) -> Float[np.ndarray, "V S S 3"]:
    """In the light that people are drawn in, but for where it comes from."""
    lighting = Lighting(Shade.TEXTURELESS, camera_positions(cameras), pic.AMBIENT, 1 - pic.AMBIENT)
    background = torch.full((len(cameras), 3), BACKGROUND, device=model.device)
    render = rasterize_shaded(gaussians, outward_normals(model, gaussians), lighting, cameras, background)
    return render.rgb.clamp(0, 1).cpu().numpy()


def of_truth(case: Case, sights: Sights) -> Shots:
    """The person that a prompt describes, drawn as a mesh."""
    colours, whites = [], []
    for stage in sights.stages:
        truth = draw_truth(case, stage)
        alpha = np.stack([1 - part_masks(part_map, pic.BACKGROUND) for part_map in truth.maps])
        on_grey = np.stack([truth.picture(view) for view in range(len(truth.maps))])
        rgb = (on_grey - (1 - alpha[..., None]) * np.float32(BACKGROUND)).clip(0)
        colours.append(Pictures(rgb.astype(np.float32), alpha.astype(np.float32)))
        whites.append(_white_truth(case, stage))
    return Shots(_joined(colours), np.concatenate(whites))


def _white_truth(case: Case, stage: Stage) -> Float[np.ndarray, "V S S 3"]:
    """The drawn person, all white, each view lit from its camera."""
    wardrobe, person = load_wardrobe(), middling(case.person)
    mesh, unshaped = dress(wardrobe, person), np.zeros_like(wardrobe.vertices)
    colours = np.full((len(pic.PARTS), 3), 255.0, np.float32)
    colours[pic.BACKGROUND] = 255 * BACKGROUND
    size = SIZE * OVERSAMPLING
    fine = stage.views.cameras.resized(size, size)
    out = np.empty((len(fine), SIZE, SIZE, 3), np.uint8)
    for view, eye in enumerate(camera_positions(fine).numpy()):
        light = eye - stage.posed.vertices.mean(0).numpy()
        (drawn,) = pic.render_parts(wardrobe, mesh, person, stage.posed, unshaped, fine[view], light)
        pic.colour_image(drawn.parts, drawn.shade, colours, out[view], OVERSAMPLING)
    return out.astype(np.float32) / np.float32(255)


def of_samples(
    prompt: str,
    negative: str,
    prior: StableDiffusionPrior,
    sights: Sights,
    config: PromptConfig,
    *,
    full_pose_maps: bool,
    generator: torch.Generator,
) -> Shots:
    """The prior's own pictures of the prompt (``prior.sample``, as it is by default) for the views' pose maps."""
    prompts = bucket_prompts(prompt, negative, config)
    asked = [prompts[bucket] for bucket in sights.buckets(config)]
    control = sights.pose_maps(prior.image_size, full=full_pose_maps, device=prior.device)
    pictures = []
    for start in range(0, len(asked), SAMPLE_BATCH):
        some = asked[start : start + SAMPLE_BATCH]
        maps = control[start : start + SAMPLE_BATCH]
        drawn = prior.sample([one.positive for one in some], [one.negative for one in some], maps, generator=generator)
        pictures.append(F.interpolate(drawn.permute(0, 3, 1, 2), (SIZE, SIZE), mode="area").permute(0, 2, 3, 1))
    rgb = torch.cat(pictures).clamp(0, 1).cpu().numpy()
    return Shots(Pictures(rgb, np.ones(rgb.shape[:3], np.float32)), None)


def _joined(some: Sequence[Pictures]) -> Pictures:
    return Pictures(np.concatenate([one.rgb for one in some]), np.concatenate([one.alpha for one in some]))
