"""With guidance that asks for nothing but a solid person, every recipe keeps its avatar through the first refinement.

The recipe is composed as the command composes it, and its own losses, learning rates, schedules and refinement are at
work in the program's own step. Only the prior is a stand-in: a linear encoder of the recipe's ratio of image to latents
(8) and a residual that points from the render to a solid person, which the recipe's ``guidance.clip`` limits.
Images are smaller than the recipe's and splats fewer in proportion, which the weights of the losses do not depend on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from avatar_gs.cli import compose as config
from avatar_gs.guidance.distill import Guidance
from avatar_gs.guidance.methods.base import Context, Method, Noised, Predictor, Residual
from avatar_gs.render.pose_map import body_depth
from avatar_gs.render.rasterize import rasterize
from avatar_gs.settings import Settings
from avatar_gs.splats.density import Refinement
from avatar_gs.training.scene import Scene, Scenes
from avatar_gs.training.state import TrainingState
from avatar_gs.training.step import Trainer
from tests.training.conftest import ColorPrior, color_prompts

STEPS = 300
RATIO = 8
"""Image pixels on the side of one latent pixel, in Stable Diffusion and in the packaged prior."""
IMAGE_SIZE = {"mini": 128, "sd15": 512, "sd21": 512, "sdxl": 1024}
CHANNELS = {"mini": 8, "sd15": 4, "sd21": 4, "sdxl": 4}
SIZE = 64
"""Pixels on the side of the stand-in's images."""
GAIN = 4.0
"""Latent units between black and white along each colour axis."""
SCENES = 24
"""So many scenes of the recipe are used in turn, because drawing new ones would take most of the time."""
SKIN = torch.tensor([0.75, 0.3, 0.25])
WALL = 0.9
"""The grey behind the wanted person where the recipe learns its background."""
RECIPES = sorted(path.stem for path in (Path(config.CONF) / "experiment").glob("*.yaml") if path.stem != "sd")
"""``sd`` is what the recipes for Stable Diffusion share, and names no prior."""


class WillingPrior(ColorPrior):
    """Images averaged over 8 x 8 pixels and projected linearly to latents; it knows what the next view should show."""

    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        self.name, self.image_size, self.latent_size = name, size, size // RATIO
        self.latent_channels = CHANNELS[name]
        axes = torch.randn(self.latent_channels, 3, generator=torch.Generator().manual_seed(0))
        self.axes = GAIN * torch.linalg.qr(axes).Q
        self.wanted = torch.zeros(0)

    def solid(self, scene: Scene) -> Tensor:
        """The latents of an opaque person in the scene."""
        inside = silhouettes(scene, 2 * self.image_size).float()[..., None]
        wall = torch.full_like(scene.backgrounds, WALL) if scene.environment else scene.backgrounds
        return self.encode_images(inside * SKIN + (1 - inside) * wall[:, None, None])

    def encode_images(self, images: Tensor) -> Tensor:
        return torch.einsum("cr,brhw->bchw", self.axes, super().encode_images(images))


class Willing(Method):
    """G = cfg_scale (z - z of the solid person): the direct step, before the recipe's clip."""

    def __init__(self, prior: WillingPrior, cfg_scale: float) -> None:
        self.prior, self.cfg_scale = prior, cfg_scale

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        difference = self.cfg_scale * (noised.z - self.prior.wanted)
        return Residual(delta=torch.zeros_like(noised.z), unweighted=difference)


@dataclass(frozen=True)
class Outcome:
    """What is left of an avatar: mean alpha inside the true silhouette, and splats before, pruned and after."""

    start_alpha: float
    alpha: float
    start: int
    pruned: int
    end: int

    @property
    def survives(self) -> bool:
        return self.alpha >= 0.8 and self.pruned < 0.2 * self.start


def silhouettes(scene: Scene, size: int) -> Tensor:
    """Where the body is in each view, ``[B, size, size]``."""
    return body_depth(scene.posed, scene.views.cameras, size) > 0


@torch.no_grad()
def solidity(state: TrainingState, scene: Scene) -> float:
    """The mean alpha inside the silhouettes, without their outermost pixels."""
    size = 128
    outside = (~silhouettes(scene, size)).float()[:, None]
    inside = torch.nn.functional.max_pool2d(outside, 3, 1, 1)[:, 0] == 0
    render = rasterize(state.model.pose(scene.posed), scene.views.cameras.resized(size, size))
    return float(render.alpha[..., 0][inside].mean())


def composed(experiment: str, overrides: Sequence[str] = ()) -> Settings:
    return config.parse(config.composed([f"experiment={experiment}", *overrides]))


def first_refinement(state: TrainingState) -> int:
    """The step whose end first refines the splats."""
    every = state.strategy.config.every
    return next(step for step in range(state.strategy.start, state.strategy.prune_stop) if (step + 1) % every == 0)


def run(body, settings: Settings, steps: int = STEPS, size: int = SIZE) -> Outcome:
    """The first ``steps`` steps of a recipe with the willing stand-in, and its first refinement if that is later."""
    prior = WillingPrior(settings.prior.name, size)
    smaller = (IMAGE_SIZE[prior.name] / prior.image_size) ** 2
    settings.splats.count = round(settings.splats.count / smaller)
    settings.density.max_splats = round(settings.density.max_splats / smaller)
    trainer = Trainer.build(settings.training, body, prior, color_prompts())
    state = trainer.first_state(body)
    # in the warm-up guidance learns and the avatar rests
    state.step = round(state.guidance.method.warmup * settings.optimize.steps)
    state.guidance = Guidance(settings.guidance, prior, Willing(prior, settings.guidance.cfg_scale))
    start, refinements = len(state.model), []
    scenes = Scenes(body, settings.training, prior.image_size)
    seen = [(scene, prior.solid(scene)) for scene in map(scenes.make, range(SCENES))]
    shown = scenes.preview()
    before = solidity(state, shown)
    while state.step < steps:
        scene, prior.wanted = seen[state.step % SCENES]
        report = trainer.step(state, scene)
        assert report.finite
        refinements.append(report.refinement)
    due = first_refinement(state)
    if due >= steps:
        refinements.append(state.strategy.after_step(state.model, state.optimizers, due, None, split_seed=0))
    assert any(refinement != Refinement() for refinement in refinements)
    pruned = sum(refinement.pruned for refinement in refinements)
    return Outcome(before, solidity(state, shown), start, pruned, len(state.model))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("experiment", "steps", "size"), [("sd15", STEPS, 192), ("dreamfusion", 2275, SIZE)])
def test_the_avatar_survives_with_more_splats_and_in_a_long_run(body, experiment, steps, size):
    """Nine times as many pixels and splats; and the long recipe up to its own first refinement."""
    settings = composed(experiment)
    outcome = run(body, settings, steps, size)
    assert outcome.survives, outcome


@pytest.mark.parametrize("experiment", RECIPES)
def test_the_avatar_survives_its_recipe(body, experiment):
    outcome = run(body, composed(experiment))
    assert outcome.survives, outcome


def test_too_large_a_weight_of_the_opacity_dissolves_the_avatar(body):
    """The check can fail: 6.4 is a weight of 0.1 on the sum over a view's 1024² pixels, with 16,384 latents."""
    outcome = run(body, composed("sd15", ["optimize.losses.opacity=6.4"]))
    assert outcome.alpha < 0.2 and outcome.pruned > 0.9 * outcome.start, outcome
