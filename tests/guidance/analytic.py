"""A prior whose score is known exactly, so that every method's formula can be checked to the last digit.

A condition has two embeddings: the mean m of a Gaussian with variance tau^2 per dimension, and a distance a that
splits it into two modes, m - a and m + a (0: one mode). With v = alpha^2 tau^2 + sigma^2 the noise prediction for z_t
is sigma (z_t - alpha m) / v, less sigma alpha a tanh(alpha a (z_t - alpha m) / v) / v for the modes.

The prior's network may predict the noise or v.
"""

import torch

from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.distill import Guidance, build_guidance
from avatar_gs.guidance.methods.base import StepInputs
from avatar_gs.guidance.methods.de_sds import ConsistentText
from avatar_gs.guidance.methods.robust_nfsd import RobustNfsdConfig
from avatar_gs.guidance.methods.vsd import TrainedAdapter
from avatar_gs.guidance.schedule import ScheduleConfig, ScheduleKind
from avatar_gs.prior.schedule import to_eps
from tests.plain import plain_de_sds, plain_guidance

CHANNELS, SIDE = 2, 3
SIZE = CHANNELS * SIDE * SIDE
T = 1000
SOURCE = -0.4


class AnalyticPrior:
    name = "analytic"
    image_size = SIDE
    latent_size = SIDE
    latent_channels = CHANNELS
    token_length = 2
    num_timesteps = T
    device = torch.device("cpu")

    def __init__(self, tau: float = 0.5, predicts: str = "epsilon") -> None:
        self.tau = tau
        self.predicts = predicts
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
        eps = exact_eps(z_t, alpha, sigma, cond, self.tau)
        z0 = (z_t - sigma * eps) / alpha
        output = {"epsilon": eps, "v_prediction": alpha * eps - sigma * z0}[self.predicts]
        return to_eps(self.predicts, output, z_t, alpha, sigma)

    def adapter(self, rank):
        return AnalyticAdapter(self)

    def encode_prompts(self, prompts):
        return torch.stack([gaussian(float(prompt or 0)) for prompt in prompts])

    def encode_images(self, images):
        raise NotImplementedError

    def decode_latents(self, latents):
        """Two channels are red and green; blue is red again."""
        return torch.cat([latents, latents[:, :1]], 1).permute(0, 2, 3, 1)


def exact_eps(z_t, alpha, sigma, cond, tau):
    v = alpha**2 * tau**2 + sigma**2
    mean, modes = (cond[:, row].reshape(z_t.shape).to(z_t) for row in (0, 1))
    residual = z_t - alpha * mean
    return sigma / v * (residual - alpha * modes * torch.tanh(alpha * modes * residual / v))


class AnalyticAdapter:
    """A Gaussian N(mean, tau^2) for any text; a camera moves its mean by the sum of its entries."""

    def __init__(self, prior: AnalyticPrior) -> None:
        self.prior = prior
        self.tau = prior.tau
        self.parameters = {"mean": torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)}

    def eps(self, z_t, t, cond, control, camera):
        self.prior.calls += len(z_t)
        self.prior.batches.append(len(z_t))
        alpha, sigma = (value[:, None, None, None] for value in (self.prior.alpha(t), self.prior.sigma(t)))
        mean = self.parameters["mean"].expand(len(z_t), SIZE)
        if camera is not None:
            mean = mean + camera.sum(1, keepdim=True)
        return exact_eps(z_t, alpha, sigma, torch.stack([mean, torch.zeros_like(mean)], 1), self.tau)


def gaussian(mean: float, modes: float = 0.0) -> torch.Tensor:
    return torch.tensor([[mean], [modes]], dtype=torch.float64).expand(2, SIZE).clone()


def conditions(
    text=0.5, negative=-0.25, null=0.1, modes=0.0, buckets=("all",), source: float | None = -0.6, **extra: float
) -> TextConditions:
    """The same in every bucket; ``source`` is what editing starts from (None: nothing)."""
    if source is not None:
        extra["source"] = source
    return TextConditions(
        text=dict.fromkeys(buckets, gaussian(text, modes)),
        negative=dict.fromkeys(buckets, gaussian(negative)),
        null=gaussian(null),
        extra={name: dict.fromkeys(buckets, gaussian(mean)) for name, mean in extra.items()},
    )


def fixed_time(t: int) -> ScheduleConfig:
    """A schedule that visits (nearly) one noise level only."""
    return ScheduleConfig(kind=ScheduleKind.uniform, t_min=t / T, t_max=t / T + 1e-9)


def make(prior, conds, method="de_sds", t=None, **options) -> Guidance:
    """Guidance without a warm-up of its own, unless ``options`` say otherwise."""
    options.setdefault("de_sds", plain_de_sds(warmup=0.0))
    options.setdefault("robust_nfsd", RobustNfsdConfig(warmup_steps=0))
    if t is not None:
        options["schedule"] = fixed_time(t)
    return build_guidance(plain_guidance(method, **options), prior, conds)


def step(guidance, conds, z, buckets=None, index=0, total=100, seed=0, source=SOURCE, **arguments):
    """One step; the source of an edit is a constant image of value ``source``."""
    buckets = buckets or ["all"] * len(z)
    generator = torch.Generator().manual_seed(seed)
    arguments["source"] = torch.full_like(z, source).detach()
    batch = conds.batch(buckets)
    inputs = StepInputs(conditions=batch, buckets=buckets, step=index, total=total, generator=generator, **arguments)
    return guidance.step(z, inputs)


def rows(guidance: Guidance) -> dict[str, torch.Tensor]:
    """y_con by bucket."""
    assert isinstance(guidance.method.learnable, ConsistentText)
    return guidance.method.learnable.parameters


def adapter_of(guidance: Guidance) -> AnalyticAdapter:
    """VSD's."""
    assert isinstance(guidance.method.learnable, TrainedAdapter)
    assert isinstance(guidance.method.learnable.adapter, AnalyticAdapter)
    return guidance.method.learnable.adapter


def full(value: float, batch: int = 1, grad: bool = False) -> torch.Tensor:
    z = torch.full((batch, CHANNELS, SIDE, SIDE), value, dtype=torch.float64)
    return z.requires_grad_(grad)


class Level:
    """The closed forms' symbols at one noise level."""

    def __init__(self, prior: AnalyticPrior, t: int) -> None:
        self.alpha, self.sigma = (float(f(torch.tensor([t]))) for f in (prior.alpha, prior.sigma))
        self.v = self.alpha**2 * prior.tau**2 + self.sigma**2
        self.kappa = self.sigma * self.alpha / self.v
        self.rho = self.alpha * prior.tau / self.v**0.5
        self.r = self.sigma / self.v**0.5
