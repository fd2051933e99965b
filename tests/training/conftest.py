"""A run small enough for tests: the real body, loop, renderer and guidance, and a prior of known score."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from avatar_gs.body.config import BodyConfig
from avatar_gs.body.model import Body, load_body
from avatar_gs.prior.prompts import BUCKETS
from avatar_gs.settings import Settings
from avatar_gs.splats.config import DensityConfig, SplatsConfig
from avatar_gs.training.config import OptimizeConfig
from avatar_gs.types import Bucket, BucketPrompt, ViewDirection
from tests.plain import plain_guidance

COLORS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.8, 0.2), "blue": (0.1, 0.2, 0.9), "grey": (0.5, 0.5, 0.5)}
STD = 0.1


class ColorPrior:
    """Images of one solid colour, p(z | y) = N(colour of y, STD^2), whose noise prediction is exact.

    Latents are the images themselves, averaged 4 x 4; a prompt is the name of a colour.
    """

    name = "colors"
    image_size, latent_size, latent_channels, token_length, num_timesteps = 32, 8, 3, 1, 1000
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.calls = 0
        self.alphas_cumprod = torch.linspace(0.999, 0.01, self.num_timesteps)
        self.break_at: set[int] = set()

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([COLORS.get(prompt, COLORS["grey"]) for prompt in prompts])[:, None]

    def encode_images(self, images: Tensor) -> Tensor:
        size = (self.latent_size, self.latent_size)
        return torch.nn.functional.interpolate(images.permute(0, 3, 1, 2), size, mode="area")

    def decode_latents(self, latents: Tensor) -> Tensor:
        size = (self.image_size, self.image_size)
        return torch.nn.functional.interpolate(latents, size).permute(0, 2, 3, 1)

    def alpha(self, t: Tensor) -> Tensor:
        return self.alphas_cumprod[t].sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return (1 - self.alphas_cumprod[t]).sqrt()

    def eps(self, z_t: Tensor, t: Tensor, cond: Tensor, control: Tensor | None) -> Tensor:
        self.calls += len(z_t)
        alpha, sigma = self.alpha(t)[:, None, None, None], self.sigma(t)[:, None, None, None]
        mean = cond[:, 0, :, None, None]
        return sigma / (alpha**2 * STD**2 + sigma**2) * (z_t - alpha * mean)


@pytest.fixture(scope="session")
def body() -> Body:
    return load_body(BodyConfig())


@pytest.fixture(autouse=True)
def one_thread():
    """Results depend on the number of threads; tests have few cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def color_prompts(**extra: str) -> dict[Bucket, BucketPrompt]:
    """Red from the front, blue from the back, green from the sides."""
    colors = {ViewDirection.FRONT: "red", ViewDirection.BACK: "blue"}
    return {bucket: BucketPrompt(colors.get(bucket.direction, "green"), "grey", extra) for bucket in BUCKETS}


def edit_prompts(source: dict[Bucket, BucketPrompt], prompts: dict[Bucket, BucketPrompt]) -> dict[Bucket, BucketPrompt]:
    """Prompts of an edit of what ``source`` shows."""
    return {bucket: replace(prompt, extra={"source": source[bucket].positive}) for bucket, prompt in prompts.items()}


def small_settings(**optimize: Any) -> Settings:
    """A run of seconds, seed 3, with density control at work within 12 steps."""
    guidance = plain_guidance(method="sds", cfg_scale=1.0)
    defaults: dict[str, Any] = {"steps": 12, "batch": 2, "preview_every": 0, "checkpoint_every": 0}
    settings = Settings(prompt="colours", seed=3, guidance=guidance)
    settings.splats = SplatsConfig(count=600)
    settings.density = DensityConfig(start=0.2, stop=0.8, prune_stop=1.0, every=3)
    settings.optimize = OptimizeConfig(**(defaults | optimize))
    return settings
