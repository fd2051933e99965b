"""What avatars of suite=methods are measured beside: the prior's own samples on an orbit around the body."""

from dataclasses import asdict
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from avatar_gs.body.pose import a_pose
from avatar_gs.core.seeding import generator
from avatar_gs.lab.metrics.avatar import Pictures
from avatar_gs.lab.metrics.colours import SOLID
from avatar_gs.lab.metrics.features import saturation_error
from avatar_gs.lab.metrics.shots import of_samples
from avatar_gs.lab.metrics.truth import stage_of
from avatar_gs.lab.metrics.views import ORBIT, Sights
from avatar_gs.lab.settings import LabSettings
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.training.config import PoseMap
from avatar_gs.types import Framing

SEED = 0
"""Of the samples: they are the same for all avatars of a prompt."""


@lru_cache(maxsize=1)
def around() -> Sights:
    """Full bodies from all sides."""
    return Sights((stage_of(a_pose(), [Framing.BODY] * len(ORBIT), ORBIT, tuple(f"{turn:g}" for turn in ORBIT)),))


def sample_colours(settings: LabSettings, prior: StableDiffusionPrior) -> Float[np.ndarray, "N 3"]:
    """The colours, in [0, 1], of the prior's own samples of ``settings.prompt``, with ControlNet, where everybody's
    body is."""
    samples = of_samples(
        settings.prompt,
        settings.negative_prompt,
        prior,
        around(),
        settings.prior.prompts,
        full_pose_maps=settings.optimize.pose_map is PoseMap.full,
        generator=generator(SEED, 0, "own samples"),
    )
    return samples.colour.rgb[around().inside]


def saturation(pictures: Pictures, own: Float[np.ndarray, "N 3"]) -> dict[str, float] | None:
    """How the chroma of an avatar's solid pixels, where everybody's body is, differs from ``own``; None if it left
    nothing solid there."""
    solid = around().inside & (pictures.alpha >= SOLID)
    if not solid.any():
        return None
    return asdict(saturation_error(np.clip(pictures.rgb[solid] / pictures.alpha[solid][:, None], 0, 1), own))
