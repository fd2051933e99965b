"""CLIP guidance, the baseline that DreamFusion compared itself with (Dream Fields, Jain et al. 2022): splats that climb
the similarity of their pictures and their prompt, without any diffusion model.

Same splats, scenes, regularisers, densification and steps as score distillation; only the loss differs.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.body.model import Body
from avatar_gs.core.console import interruptible, progress
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.lab.metrics.clip import Clip
from avatar_gs.lab.settings import LabSettings
from avatar_gs.protocols import Prior
from avatar_gs.splats.optim import gradients_are_finite
from avatar_gs.splats.surface import RestSurface
from avatar_gs.training.loop import Result, first_state, metrics, stop_if_diverged
from avatar_gs.training.losses import regulariser_scale
from avatar_gs.training.rendering import draw
from avatar_gs.training.scene import Scene, prepared_scenes
from avatar_gs.training.state import TrainingState
from avatar_gs.training.step import all_losses, learn_background, update
from avatar_gs.training.stopwatch import Stopwatch
from avatar_gs.types import Bucket, BucketPrompt

WEIGHT = 0.05
"""Of 1 - cosine, in the unit of the regularisers (``training.config.LossesConfig``). With the packaged scorer,
gradients on screen positions are then about those of score distillation with the packaged prior (0.3 to 0.4 against
0.3 to 0.7), so densification treats both alike."""


def optimize_by_similarity(
    settings: LabSettings, body: Body, prior: Prior, clip: Clip, prompts: Mapping[Bucket, BucketPrompt]
) -> Result:
    """An avatar whose pictures are as similar as can be to the prompt of their bucket of views, to ``clip``.

    ``prior`` only says how large the pictures are; it is asked nothing.

    Raises:
        UserError: if the run diverges.
        KeyboardInterrupt: after Ctrl-C.
    """
    settings = replace(settings, guidance=replace(settings.guidance, method="none"))
    positive = [prompt.positive for prompt in prompts.values()]
    wanted = dict(zip(prompts, clip.text_features(positive), strict=True))
    state = first_state(settings, body, prior, TextConditions.encode(prior, prompts))
    surface, total, scale = RestSurface(body.rest()), settings.optimize.steps, regulariser_scale(prior)
    arguments = body, settings.optimize, settings.cameras, settings.prior.prompts
    with (
        prepared_scenes(*arguments, size=prior.image_size, seed=settings.seed) as scenes,
        interruptible() as interrupt,
        progress("climb", total) as bar,
    ):
        while state.step < total:
            scene = scenes.at(state.step)
            similarity = climb(state, scene, settings, clip, wanted, surface, scale)
            stop_if_diverged(state, settings)
            bar.update(state.step, splats=len(state.model), similarity=similarity)
            if interrupt.requested:
                raise KeyboardInterrupt
    return Result(state.model, metrics(state, prior))


def climb(
    state: TrainingState,
    scene: Scene,
    settings: LabSettings,
    clip: Clip,
    wanted: Mapping[Bucket, Float[Tensor, " d"]],
    surface: RestSurface,
    scale: int,
) -> float:
    """One step; returns the mean similarity before it. ``scale``: the factor of all losses (``regulariser_scale``)."""
    clock = Stopwatch(state.seconds, state.model.device)
    with clock("render"):
        render = draw(state.model, scene, settings.optimize.supersample, state.background)
        state.strategy.before_backward(render.info)
    with clock("encode"):
        found = clip.image_features(render.rgb.clamp(0, 1))
        asked = torch.stack([wanted[bucket] for bucket in scene.buckets]).to(found)
        similarity = (found * asked).sum(-1).mean()
    with clock("backward"):
        losses = all_losses(state, scene, settings, render, scale)
        sum(losses.values(), start=scale * WEIGHT * (1 - similarity)).backward()
    with clock("update"):
        finite = gradients_are_finite(state.optimizers)
        learn_background(state)
        update(state, settings, surface, render if finite else None)
    state.step += 1
    state.bad_in_a_row = 0 if finite else state.bad_in_a_row + 1
    state.bad_steps += not finite
    return float(similarity.detach())
