"""``stage=preview``: samples of the prior with the run's own prompts, negative prompts and pose maps.

Shows in seconds a wrong prompt or a ControlNet that ignores poses. Saves no settings, so that many variants can be
compared.
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
from avatar_gs.motion.load import load_pose
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior, load_prior
from avatar_gs.render.rasterize import require_renderer
from avatar_gs.settings import Settings
from avatar_gs.stages.embed import with_embeddings, with_run_identity
from avatar_gs.stages.estimate import Task
from avatar_gs.stages.preflight import preflight
from avatar_gs.training.prompts import run_prompts
from avatar_gs.training.scene import Scene, Scenes

LOGGER = logging.getLogger(__name__)

SAMPLES = 3
STEPS = 20
CFG_SCALE = 5.0
"""Lower than for distillation, at whose scales samples are over-saturated."""
FILE = "prior.png"


def run(settings: Settings) -> None:
    """Write ``previews/prior.png``: one row per view (front, side, back, head), with its pose map and samples.

    Raises:
        UserError: if a part is missing or damaged.
    """
    device = choose_device(settings.device)
    require_renderer(device)  # pose maps use the body's depth
    sources = preflight(settings, Task.preview)
    with progress("load the body and the prior"):
        body = load_body(settings.body, device)
        prior = load_prior(settings.prior, device, sources)
    prior = with_run_identity(with_embeddings(prior, settings), settings)
    prompts = run_prompts(settings.training, prior)
    cut = prior.truncated(settings.negative_prompt)
    if cut:
        LOGGER.warning("the negative prompt is too long for prior=%s: it does not read “%s”", prior.name, cut.strip())
    pose = load_pose(settings.pose, body).to(device) if settings.pose else None
    scene = Scenes(body, settings.training, prior.image_size).preview(pose)
    positive, negative = ([getattr(prompts[b], side) for b in scene.buckets] for side in ("positive", "negative"))
    for bucket, prompt, against in zip(scene.buckets, positive, negative, strict=True):
        LOGGER.info("%s: “%s”, not “%s”", bucket, prompt, against)
    images = samples(prior, positive, negative, scene, settings.seed)
    rows = [[*row] for row in zip(to_uint8(scene.pose_maps), *map(to_uint8, images), strict=True)]
    image = contact_sheet(
        rows,
        row_labels=list(map(str, scene.buckets)),
        column_labels=["pose map", *(f"sample {index + 1}" for index in range(SAMPLES))],
        title=settings.prompt,
        size=max(192, min(prior.image_size, 384)),
    )
    path = RunFolder(settings.folder).previews / FILE
    write_png(path, image)
    LOGGER.info("wrote %s", path)


def samples(
    prior: StableDiffusionPrior, positive: list[str], negative: list[str], scene: Scene, seed: int
) -> list[Float[Tensor, "B S S 3"]]:
    """``SAMPLES`` samples of every view."""
    images = []
    with progress("sample the prior", SAMPLES) as bar:
        for index in range(SAMPLES):
            noise: torch.Generator = generator(seed, index, "preview")
            images.append(prior.sample(positive, negative, scene.pose_maps, STEPS, CFG_SCALE, noise))
            bar.update(index + 1)
    return images
