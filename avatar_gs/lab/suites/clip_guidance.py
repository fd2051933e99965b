"""CLIP guidance, the baseline that DreamFusion compared itself with (Dream Fields, Jain et al. 2022): splats that climb
the similarity of their images and their prompt, without any diffusion model.

Same splats, scenes, regularisers, densification and steps as score distillation; only the loss differs.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.body.model import Body
from avatar_gs.core.console import interruptible, progress
from avatar_gs.lab.metrics.clip import Clip
from avatar_gs.lab.settings import LabSettings
from avatar_gs.protocols import Prior
from avatar_gs.training.loop import Result, stop_if_diverged
from avatar_gs.training.losses import regulariser_scale
from avatar_gs.training.reports import metrics
from avatar_gs.training.scene import Scene, Scenes
from avatar_gs.training.state import TrainingState
from avatar_gs.training.step import Trainer
from avatar_gs.training.stopwatch import Stopwatch
from avatar_gs.types import Bucket, BucketPrompt

WEIGHT = 0.05
"""Of 1 - cosine, in the unit of the regularisers (``training.config.LossesConfig``). With the packaged scorer,
gradients on screen positions are then about those of score distillation with the packaged prior (0.3 to 0.4 against
0.3 to 0.7), so densification treats both alike."""


def optimize_by_similarity(
    settings: LabSettings, body: Body, prior: Prior, clip: Clip, prompts: Mapping[Bucket, BucketPrompt]
) -> Result:
    """An avatar whose images are as similar as can be to the prompt of their bucket of views, to ``clip``.

    ``prior`` only says how large the images are; it is not evaluated.

    Raises:
        UserError: if the run diverges.
        KeyboardInterrupt: after Ctrl-C.
    """
    config = replace(settings.training, guidance=replace(settings.guidance, method="none"))
    positive = [prompt.positive for prompt in prompts.values()]
    wanted = dict(zip(prompts, clip.text_features(positive), strict=True))
    trainer = Trainer.build(config, body, prior, prompts)
    state, total = trainer.first_state(body), config.optimize.steps
    with (
        Scenes(body, config, prior.image_size) as scenes,
        interruptible() as interrupt,
        progress("climb", total) as bar,
    ):
        while state.step < total:
            similarity = climb(trainer, state, scenes.at(state.step), clip, wanted)
            stop_if_diverged(state, config.optimize)
            bar.update(state.step, splats=len(state.model), similarity=similarity)
            if interrupt.requested:
                raise KeyboardInterrupt
    return Result(state.model, metrics(state, prior))


def climb(
    trainer: Trainer, state: TrainingState, scene: Scene, clip: Clip, wanted: Mapping[Bucket, Float[Tensor, " d"]]
) -> float:
    """One step; returns the mean similarity before it."""
    clock, scale = Stopwatch(state.seconds, state.model.device), regulariser_scale(trainer.prior)
    with clock("render"):
        render = trainer.render(state, scene)
    with clock("encode"):
        found = clip.image_features(render.rgb.clamp(0, 1))
        target = torch.stack([wanted[bucket] for bucket in scene.buckets]).to(found)
        similarity = (found * target).sum(-1).mean()
    with clock("backward"):
        losses = trainer.losses(state, scene, render)
        sum(losses.values(), start=scale * WEIGHT * (1 - similarity)).backward()
    with clock("update"):
        finite = state.gradients_are_finite()
        if finite:
            state.learn_background()
        trainer.update(state, render if finite else None)
    state.count_step(finite)
    return float(similarity.detach())
