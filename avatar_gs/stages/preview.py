"""``stage=preview``: what the prior makes of the run's own prompts, negatives and pose maps, before a long run.

A wrong prompt or a ControlNet that does not listen shows here in seconds. No settings are saved,
so that any number of variants can be looked at first.
"""

import logging

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.body.model import load_body
from avatar_gs.core.console import progress
from avatar_gs.core.device import choose_device
from avatar_gs.core.images import contact_sheet, to_uint8, write_png
from avatar_gs.core.runs import RunFolder
from avatar_gs.core.seeding import generator
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior, load_prior
from avatar_gs.render.rasterize import require_renderer
from avatar_gs.settings import Settings
from avatar_gs.stages.embed import give_identity
from avatar_gs.stages.estimate import Task
from avatar_gs.stages.preflight import preflight
from avatar_gs.training.prompts import run_prompts
from avatar_gs.training.scene import Scene, Scenes

LOGGER = logging.getLogger(__name__)

SAMPLES = 3
STEPS = 20
CFG_SCALE = 5.0
"""Sampling wants less than distillation does; at the latter's scales every sample is over-saturated."""
FILE = "prior.png"


def run(settings: Settings) -> None:
    """Writes ``previews/prior.png``: a row a view (front, side, back, head), its pose map and then samples.

    Raises:
        UserError: if a part is missing or damaged.
    """
    device = choose_device(settings.device.name)
    require_renderer(device)  # pose maps are drawn with the body's depth
    preflight(settings, Task.preview)
    with progress("load the body and the prior"):
        body = load_body(settings.body, device)
        prior = load_prior(settings.prior, device)
    give_identity(prior, settings)
    prompts = run_prompts(settings, prior)
    cut = prior.truncated(settings.negative_prompt)
    if cut:
        LOGGER.warning("the negative prompt is too long for prior=%s: it does not read “%s”", prior.name, cut.strip())
    scenes = Scenes(
        body, settings.optimize, settings.cameras, settings.prior.prompts, size=prior.image_size, seed=settings.seed
    )
    scene = scenes.preview()
    positive, negative = ([getattr(prompts[b], side) for b in scene.buckets] for side in ("positive", "negative"))
    for bucket, prompt, against in zip(scene.buckets, positive, negative, strict=True):
        LOGGER.info("%s: “%s”, not “%s”", bucket, prompt, against)
    pictures = samples(prior, positive, negative, scene, settings.seed)
    rows = [[*row] for row in zip(to_uint8(scene.pose_maps), *map(to_uint8, pictures), strict=True)]
    picture = contact_sheet(
        rows,
        row_labels=list(map(str, scene.buckets)),
        column_labels=["pose map", *(f"sample {index + 1}" for index in range(SAMPLES))],
        title=settings.prompt,
        size=max(192, min(prior.image_size, 384)),
    )
    path = RunFolder(settings.folder).previews / FILE
    write_png(path, picture)
    LOGGER.info("wrote %s", path)


def samples(
    prior: StableDiffusionPrior, positive: list[str], negative: list[str], scene: Scene, seed: int
) -> list[Float[Tensor, "B S S 3"]]:
    """``SAMPLES`` pictures of every view."""
    pictures = []
    with progress("sample the prior", SAMPLES) as bar:
        for index in range(SAMPLES):
            noise: torch.Generator = generator(seed, index, "preview")
            pictures.append(prior.sample(positive, negative, scene.pose_maps, STEPS, CFG_SCALE, noise))
            bar.update(index + 1)
    return pictures
