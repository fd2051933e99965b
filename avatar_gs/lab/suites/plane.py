"""A plane of points with a prior whose score is exact: what SDS, DDS and PDS do to samples that are to be edited.

The figure that Koo et al. 2023 (PDS) argue with: points of a source distribution are pulled towards a target. Both
are mixtures of two round Gaussians, the empty prompt's is all four. Every point is an "image" of two channels and one
pixel, so that the very code that makes avatars moves it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from avatar_gs.core.seeding import generator
from avatar_gs.guidance.cfg import Unconditional
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import GuidanceConfig
from avatar_gs.guidance.distill import build_guidance
from avatar_gs.guidance.methods.base import StepInputs
from avatar_gs.guidance.schedule import ScheduleConfig, ScheduleKind, Weight
from avatar_gs.types import BucketPrompt

TAU = 0.3
"""The standard deviation of every mode."""
SOURCE = ((-1.0, 0.6), (-1.0, -0.6))
TARGET = ((1.0, 0.6), (1.0, -0.6))
METHODS = ("sds", "dds", "pds")
CFG_SCALE = 7.5
POINTS, STEPS, RATE = 96, 300, 2e-2
SUPPORT = 0.99
"""A point is within the target where the density is above that of all but this fraction of the target's own samples."""
BUCKET = "plane"
SIDE, REACH = 256, 2.8
"""Pixels and half-width of an image of the plane."""
PAPER, GREY, INK, BLUE, LINE = (255, 255, 255), (176, 180, 188), (40, 40, 44), (30, 90, 200), (226, 229, 236)

Points = Float[Tensor, "N 2"]


class PlanePrior:
    """Implements ``protocols.Prior`` for points of the plane. A condition is the four centres of its modes (two of them
    twice, if there are two)."""

    name = "plane"
    image_size = latent_size = 1
    latent_channels = 2
    token_length = 4
    num_timesteps = 1000
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.calls = 0
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, self.num_timesteps, dtype=torch.float64) ** 2
        self._signal = (1 - betas).cumprod(0)

    def encode_prompts(self, prompts: Sequence[str]) -> Float[Tensor, "B L d"]:
        return torch.stack([centres(prompt) for prompt in prompts])

    def encode_images(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B c h w"]:
        raise NotImplementedError("points of the plane are no images")

    def decode_latents(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B H W 3"]:
        raise NotImplementedError("points of the plane are no images")

    def alpha(self, t: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self._signal[t].sqrt().float()

    def sigma(self, t: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        return (1 - self._signal[t]).sqrt().float()

    def eps(
        self,
        z_t: Float[Tensor, "B c h w"],
        t: Int[Tensor, " B"],
        cond: Float[Tensor, "B L d"],
        control: Float[Tensor, "B H W 3"] | None,
    ) -> Float[Tensor, "B c h w"]:
        """-sigma times the score of the noised mixture: sigma / v (z_t - alpha m), m the modes' mean weighted by how
        likely each of them is, v = alpha² tau² + sigma²."""
        self.calls += len(z_t)
        alpha, sigma = self.alpha(t)[:, None], self.sigma(t)[:, None]
        variance = alpha**2 * TAU**2 + sigma**2
        points = z_t.flatten(1)
        away = points[:, None] - alpha[:, None] * cond
        likely = torch.softmax(-away.square().sum(-1) / (2 * variance), 1)
        mean = (likely[..., None] * cond).sum(1)
        return (sigma / variance * (points - alpha * mean)).reshape(z_t.shape)


def centres(prompt: str) -> Float[Tensor, "4 2"]:
    """What ``source``, ``target`` and the empty prompt mean."""
    modes = {"source": SOURCE + SOURCE, "target": TARGET + TARGET, "": SOURCE + TARGET}[prompt]
    return torch.tensor(modes)


def samples(prompt: str, count: int, random: torch.Generator) -> Points:
    """Points of a distribution."""
    modes = centres(prompt)
    chosen = torch.randint(0, len(modes), (count,), generator=random)
    return modes[chosen] + TAU * torch.randn(count, 2, generator=random)


def log_density(points: Points, prompt: str) -> Float[Tensor, " N"]:
    """Of the clean distribution."""
    away = (points[:, None] - centres(prompt)).square().sum(-1)
    normaliser = math.log(len(centres(prompt)) * 2 * math.pi * TAU**2)
    return torch.logsumexp(-away / (2 * TAU**2), 1) - normaliser


def edit(method: str, start: Points, seed: int, steps: int = STEPS) -> Points:
    """Where the points end that a method pulls to the target (Adam, t uniform, the same scale for all)."""
    prior = PlanePrior()
    conditions = TextConditions.encode(prior, {BUCKET: BucketPrompt("target", "", {"source": "source"})})
    config = GuidanceConfig(
        method=method,
        cfg_scale=CFG_SCALE,
        unconditional=Unconditional.empty,
        weight=Weight.one,
        schedule=ScheduleConfig(kind=ScheduleKind.uniform),
    )
    guidance = build_guidance(config, prior, conditions)
    source, buckets = start[:, :, None, None], [BUCKET] * len(start)
    points = source.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([points], RATE, eps=1e-15)
    for step in range(steps):
        inputs = StepInputs(
            conditions=conditions.batch(buckets),
            buckets=buckets,
            step=step,
            total=steps,
            generator=generator(seed, step, "plane"),
            source=source,
        )
        out = guidance.step(points, inputs)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    return points.detach()[:, :, 0, 0]


@dataclass(frozen=True)
class Moved:
    """What a method did to the points.

    Args:
        spread: their standard deviation, as a fraction of the target's.
        outside: the fraction that is not within the target.
        move: the mean distance from where each began.
    """

    spread: float
    outside: float
    move: float


def measure(start: Points, end: Points, random: torch.Generator) -> Moved:
    """The figures of one method."""
    truth = samples("target", 4000, random)
    spread = deviation(end) / deviation(truth)
    least = log_density(truth, "target").quantile(1 - SUPPORT)
    outside = (log_density(end, "target") < least).float().mean()
    return Moved(float(spread), float(outside), float((end - start).norm(dim=1).mean()))


def deviation(points: Points) -> Float[Tensor, ""]:
    """The root mean square distance from the points' mean, a dimension."""
    return (points - points.mean(0)).square().mean().sqrt()


def play(
    seed: int, points: int = POINTS, steps: int = STEPS
) -> tuple[dict[str, Moved], list[UInt8[np.ndarray, "S S 3"]]]:
    """Every method on the same points: its figures by name, and an image of each."""
    random = generator(seed, 0, "plane points")
    start, truth = samples("source", points, random), samples("target", points, random)
    figures, images = {}, []
    for method in METHODS:
        end = edit(method, start, seed, steps)
        figures[method] = measure(start, end, generator(seed, 1, "plane support"))
        images.append(draw(start, end, truth))
    return figures, images


def draw(start: Points, end: Points, truth: Points) -> UInt8[np.ndarray, "S S 3"]:
    """Source (grey) and target (dark) samples, and where each source point ends (blue), with its path there."""
    canvas = Image.new("RGB", (SIDE, SIDE), PAPER)
    pen = ImageDraw.Draw(canvas)

    def place(point: Tensor) -> tuple[float, float]:
        x, y = (float(value) for value in point)
        return (x / REACH + 1) * SIDE / 2, (1 - y / REACH) * SIDE / 2

    def dots(points: Points, colour: tuple[int, int, int], radius: float) -> None:
        for point in points:
            x, y = place(point)
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)

    for first, last in zip(start, end, strict=True):
        pen.line([place(first), place(last)], fill=LINE)
    dots(start, GREY, 2.0)
    dots(truth, INK, 1.0)
    dots(end, BLUE, 2.0)
    return np.asarray(canvas).copy()
