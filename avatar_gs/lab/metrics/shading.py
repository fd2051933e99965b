"""An avatar in its three looks (albedo, lit, lit without texture), and how often each is told from other prompts."""

from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float

from avatar_gs.lab.metrics.avatar import Pictures, draw_from
from avatar_gs.lab.metrics.features import r_precision
from avatar_gs.lab.metrics.truth import BACKGROUND, DIRECTIONS, Case, Stage, Truth, cases
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
"""Prompts that a picture's own one is sought among: held-out people, the measured ones first."""
RAISED = 0.4
"""How far above the camera, and as far to its left, the lamp of measured pictures hangs, in camera distances."""


def draw_looks(model: GaussianModel, stage: Stage, config: ShadingConfig) -> dict[Shade, Pictures]:
    """The avatar in every view of the stage, each look in turn; every view has a lamp of its own (``lamps``)."""
    gaussians = model.pose(stage.posed)
    normals = outward_normals(model, gaussians)
    looks = {}
    for shade in Shade:
        lighting = Lighting(shade, lamps(stage), config.ambient, config.diffuse)
        views = range(len(stage.views))
        pictures = [draw_from(shade_splats(gaussians, normals, lighting, v), stage.views.cameras[v]) for v in views]
        looks[shade] = Pictures(*(np.concatenate([getattr(p, name) for p in pictures]) for name in ("rgb", "alpha")))
    return looks


def lamps(stage: Stage) -> Float[torch.Tensor, "V 3"]:
    """A fixed light for each view, above the camera and to its left (world metres)."""
    cameras = stage.views.cameras
    eyes = camera_positions(cameras)
    centres = torch.stack([subject(stage.posed, framing)[0] for framing in stage.views.framings])
    left, up = -cameras.T_camera_world[:, 0, :3], -cameras.T_camera_world[:, 1, :3]
    return eyes + RAISED * (eyes - centres).norm(dim=-1, keepdim=True) * (left + up)


class Retrieval:
    """Asks the packaged scorer which of ``POOL`` prompts a full-body picture shows."""

    def __init__(self, scorer: Scorer, stage: Stage) -> None:
        self.scorer, self.stage = scorer, stage

    @cached_property
    def prompts(self) -> list[str]:
        """The pool: the prompts that all suites measure, from the first."""
        return list(dict.fromkeys(case.prompt for case in cases(POOL)))

    @cached_property
    def _texts(self) -> dict[str, Float[np.ndarray, "P d"]]:
        """The pool's features by direction, each prompt with the words of that view."""
        features = {}
        for name, degrees in DIRECTIONS.items():
            words = view_suffix(Framing.BODY, view_direction(np.deg2rad(degrees), 0.0, PromptConfig()))
            features[name] = self.scorer.text_features([prompt + words for prompt in self.prompts]).cpu().numpy()
        return features

    def found(self, case: Case, pictures: Float[np.ndarray, "V S S 3"]) -> dict[str, bool]:
        """For each direction, whether the picture of the whole body is nearest to the case's own prompt.

        Raises:
            ValueError: for a case that is none of the pool's.
        """
        own = np.array([self.prompts.index(case.prompt)])
        hits = {}
        for direction, texts in self._texts.items():
            picture = torch.from_numpy(pictures[self.stage.index(Framing.BODY, direction)][None]).float()
            hits[direction] = r_precision(self.scorer.image_features(picture).cpu().numpy(), texts, own) == 1
        return hits


def true_pictures(truth: Truth) -> Float[np.ndarray, "V S S 3"]:
    """The person of a case in every view, on the grey that avatars are shown on."""
    return np.stack([truth.picture(view) for view in range(len(truth.maps))])


def blank(pictures: Pictures) -> Float[np.ndarray, "V S S 3"]:
    """The pictures' silhouettes in white on the same grey: what no shading at all tells of the shape."""
    silhouette = np.repeat(pictures.alpha[..., None], 3, axis=-1)
    return np.clip(silhouette + (1 - silhouette) * BACKGROUND, 0, 1)
