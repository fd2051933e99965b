"""An avatar in each shading (albedo, lit, lit without texture), and retrieval of its prompt from each."""

from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float

from avatar_gs.lab.metrics.avatar import ViewImages, render_views
from avatar_gs.lab.metrics.features import r_precision
from avatar_gs.lab.metrics.truth import BACKGROUND, Case, Truth, cases
from avatar_gs.lab.metrics.views import DIRECTIONS, Viewpoints
from avatar_gs.lab.scorer.model import Scorer
from avatar_gs.lab.suites.config import MAX_ABLATED
from avatar_gs.lab.world.captions import view_suffix
from avatar_gs.prior.config import PromptConfig
from avatar_gs.prior.prompts import view_direction
from avatar_gs.render.cameras import subject
from avatar_gs.render.config import ShadingConfig
from avatar_gs.render.shading import Lighting, Shade, camera_positions, shade_splats
from avatar_gs.splats.model import GaussianModel
from avatar_gs.training.rendering import outward_normals
from avatar_gs.types import Framing

POOL = MAX_ABLATED
"""Number of prompts to retrieve from: held-out people, the measured ones first."""
RAISED = 0.4
"""Offset of the light above the camera and to its left, relative to the camera's distance."""


def render_shades(model: GaussianModel, viewpoints: Viewpoints, config: ShadingConfig) -> dict[Shade, ViewImages]:
    """Render every view in each shading; every view has its own light (``lamps``)."""
    gaussians = model.pose(viewpoints.posed)
    normals = outward_normals(model, gaussians)
    images, cameras = {}, viewpoints.views.cameras
    for shade in Shade:
        lighting = Lighting(shade, lamps(viewpoints), config.ambient, config.diffuse)
        each = [render_views(shade_splats(gaussians, normals, lighting, v), cameras[v]) for v in range(len(cameras))]
        images[shade] = ViewImages(np.concatenate([v.rgb for v in each]), np.concatenate([v.alpha for v in each]))
    return images


def lamps(viewpoints: Viewpoints) -> Float[torch.Tensor, "V 3"]:
    """The light's position for each view in world metres, above the camera and to its left."""
    cameras = viewpoints.views.cameras
    eyes = camera_positions(cameras)
    centres = torch.stack([subject(viewpoints.posed, framing)[0] for framing in viewpoints.views.framings])
    left, up = -cameras.T_camera_world[:, 0, :3], -cameras.T_camera_world[:, 1, :3]
    return eyes + RAISED * (eyes - centres).norm(dim=-1, keepdim=True) * (left + up)


class Retrieval:
    """Retrieves the prompt of full-body images among ``POOL`` prompts with the packaged scorer."""

    def __init__(self, scorer: Scorer, viewpoints: Viewpoints) -> None:
        self.scorer, self.viewpoints = scorer, viewpoints

    @cached_property
    def prompts(self) -> list[str]:
        """The pool: the prompts that all suites measure, in order."""
        return list(dict.fromkeys(case.prompt for case in cases(POOL)))

    @cached_property
    def _texts(self) -> dict[str, Float[np.ndarray, "P d"]]:
        """Text features by direction, each prompt with its view words."""
        features = {}
        for name, degrees in DIRECTIONS.items():
            words = view_suffix(Framing.BODY, view_direction(np.deg2rad(degrees), 0.0, PromptConfig()))
            features[name] = self.scorer.text_features([prompt + words for prompt in self.prompts]).cpu().numpy()
        return features

    def found(self, case: Case, images: Float[np.ndarray, "V S S 3"]) -> dict[str, bool]:
        """For each direction, whether the full-body image is nearest to the case's prompt.

        Raises:
            ValueError: for a case outside the pool.
        """
        own = np.array([self.prompts.index(case.prompt)])
        hits = {}
        for direction, texts in self._texts.items():
            image = torch.from_numpy(images[self.viewpoints.index(Framing.BODY, direction)][None]).float()
            hits[direction] = r_precision(self.scorer.image_features(image).cpu().numpy(), texts, own) == 1
        return hits


def truth_images(truth: Truth) -> Float[np.ndarray, "V S S 3"]:
    """The rendered person of a case in every view, on the grey of contact sheets."""
    return np.stack([truth.image(view) for view in range(len(truth.maps))])


def silhouette_images(images: ViewImages) -> Float[np.ndarray, "V S S 3"]:
    """The silhouettes in white on the same grey: a reference without any shading."""
    silhouette = np.repeat(images.alpha[..., None], 3, axis=-1)
    return np.clip(silhouette + (1 - silhouette) * BACKGROUND, 0, 1)
