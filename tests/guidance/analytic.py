"""A prior whose score is known exactly, so that every method's formula can be checked to the last digit.

A condition is two rows: the mean m of a Gaussian with variance tau^2 a dimension, and a distance a that splits it into
two modes, m - a and m + a (0: one mode). With v = alpha^2 tau^2 + sigma^2 the noise prediction for z_t is
sigma (z_t - alpha m) / v, less sigma alpha a tanh(alpha a (z_t - alpha m) / v) / v for the modes.
"""

import torch

from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import DeSdsConfig, GuidanceConfig, Method, ScheduleConfig, ScheduleKind
from avatar_gs.guidance.distill import Guidance, build_guidance
from avatar_gs.guidance.learnables import ConsistentText

CHANNELS, SIDE = 2, 3
SIZE = CHANNELS * SIDE * SIDE
T = 1000


class AnalyticPrior:
    name = "analytic"
    image_size = SIDE
    latent_size = SIDE
    latent_channels = CHANNELS
    token_length = 2
    num_timesteps = T
    device = torch.device("cpu")

    def __init__(self, tau: float = 0.5) -> None:
        self.tau = tau
        self.calls = 0
        self.batches: list[int] = []
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, T, dtype=torch.float64) ** 2
        self.alphas_cumprod = (1 - betas).cumprod(0)

    def alpha(self, t):
        return self.alphas_cumprod[t].sqrt()

    def sigma(self, t):
        return (1 - self.alphas_cumprod[t]).sqrt()

    def eps(self, z_t, t, cond, control):
        self.calls += len(z_t)
        self.batches.append(len(z_t))
        alpha, sigma = (value[:, None, None, None] for value in (self.alpha(t), self.sigma(t)))
        v = alpha**2 * self.tau**2 + sigma**2
        mean, modes = (cond[:, row].reshape(z_t.shape).to(z_t) for row in (0, 1))
        residual = z_t - alpha * mean
        return sigma / v * (residual - alpha * modes * torch.tanh(alpha * modes * residual / v))

    def encode_prompts(self, prompts):
        return torch.stack([gaussian(float(prompt or 0)) for prompt in prompts])

    def encode_images(self, images):
        raise NotImplementedError

    def decode_latents(self, latents):
        raise NotImplementedError


def gaussian(mean: float, modes: float = 0.0) -> torch.Tensor:
    return torch.tensor([[mean], [modes]], dtype=torch.float64).expand(2, SIZE).clone()


def conditions(text=0.5, negative=-0.25, null=0.1, modes=0.0, buckets=("all",)) -> TextConditions:
    """The same text and negative in every bucket."""
    return TextConditions(
        text=dict.fromkeys(buckets, gaussian(text, modes)),
        negative=dict.fromkeys(buckets, gaussian(negative)),
        null=gaussian(null),
    )


def fixed_time(t: int) -> ScheduleConfig:
    """A schedule that visits (nearly) one noise level only."""
    return ScheduleConfig(kind=ScheduleKind.uniform, t_min=t / T, t_max=t / T + 1e-9)


def make(prior, conds, method=Method.de_sds, t=None, **options) -> Guidance:
    options.setdefault("de_sds", DeSdsConfig(warmup=0.0))
    if t is not None:
        options["schedule"] = fixed_time(t)
    return build_guidance(GuidanceConfig(method=method, **options), prior, conds)


def step(guidance, conds, z, buckets=None, index=0, total=100, seed=0):
    buckets = buckets or ["all"] * len(z)
    generator = torch.Generator().manual_seed(seed)
    return guidance.step(z, conds.batch(buckets), None, buckets, index, total, generator)


def rows(guidance: Guidance) -> dict[str, torch.Tensor]:
    """y_con by bucket."""
    assert isinstance(guidance.method.learnable, ConsistentText)
    return guidance.method.learnable.parameters


def full(value: float, batch: int = 1, grad: bool = False) -> torch.Tensor:
    z = torch.full((batch, CHANNELS, SIDE, SIDE), value, dtype=torch.float64)
    return z.requires_grad_(grad)


class Level:
    """The closed forms' symbols at one noise level."""

    def __init__(self, prior: AnalyticPrior, t: int) -> None:
        self.alpha, self.sigma = (float(f(torch.tensor([t]))) for f in (prior.alpha, prior.sigma))
        self.v = self.alpha**2 * prior.tau**2 + self.sigma**2
        self.kappa = self.sigma * self.alpha / self.v
