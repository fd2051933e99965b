"""Contrastive training of the scorer: images with captions, and images of one person with those of others."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPModel, CLIPTokenizer

from avatar_gs.lab.scorer.config import ScorerConfig
from avatar_gs.lab.scorer.data import PairSet, float_images
from avatar_gs.lab.scorer.model import build_model, embed_images, embed_tokens, load_model, person_part
from avatar_gs.lab.train_prior.training import OnStep, Training
from avatar_gs.render.shading import Shade
from avatar_gs.types import Framing

PERSON_SCALE = 14.0
"""Inverse temperature of the loss that separates persons."""
LEAST_SCALE, MOST_SCALE = 5.0, 60.0
WHITE = list(Shade).index(Shade.TEXTURELESS)
HEAD, LOWER = list(Framing).index(Framing.HEAD), list(Framing).index(Framing.LOWER)
SMALL_LR = 2e-3
"""Learning rate of the small networks."""


@dataclass(frozen=True)
class Batch:
    """Two images of each of P persons, in rows i and i + P."""

    images: Float[Tensor, "B 128 128 3"]
    tokens: Int[Tensor, "B L"]
    buckets: Int[Tensor, "B 2"]
    """Framing and view."""
    white: Bool[Tensor, " B"]
    """Images without texture."""


def tokenized(data: PairSet, tokenizer: CLIPTokenizer) -> Int[Tensor, "P V C L"]:
    """Token ids of all captions, padded."""
    flat = [text for views in data.captions for texts in views for text in texts]
    ids = torch.tensor(tokenizer(flat, padding="max_length", truncation=True).input_ids, dtype=torch.int16)
    return ids.unflatten(0, (*data.buckets.shape[:2], -1))


def draw_batch(
    data: PairSet, tokens: Int[Tensor, "P V C L"], persons: int, end: int, generator: torch.Generator
) -> Batch:
    """Augmented images of random persons, two of each; ``end`` is the id of the end-of-text token."""
    count, views, captions = tokens.shape[:3]
    rows = torch.randperm(count, generator=generator)[:persons].repeat(2)
    first = torch.randint(views, (persons,), generator=generator)
    second = (first + 1 + torch.randint(views - 1, (persons,), generator=generator)) % views
    shown = torch.cat([first, second])
    chosen = tokens[rows, shown, torch.randint(captions, (2 * persons,), generator=generator)].long()
    length = int((chosen == end).int().argmax(1).max()) + 1
    images = float_images(data.images[rows.numpy(), shown.numpy()])
    buckets = torch.from_numpy(data.buckets[rows.numpy(), shown.numpy()]).long()
    white = torch.from_numpy(data.looks[rows.numpy(), shown.numpy()] == WHITE)
    return Batch(augmented(images, generator), chosen[:, :length], buckets, white)


def augmented(
    images: Float[Tensor, "B S S 3"], generator: torch.Generator, sigma: tuple[float, float] = (0.5, 1.7)
) -> Float[Tensor, "B S S 3"]:
    """Randomly mirrored, moved, scaled and toned images with noise, half of them blurred by ``sigma`` pixels, since
    renders of splats are softer than those of meshes."""
    batch = len(images)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    transform = torch.zeros(batch, 2, 3)
    scale = between(0.9, 1.1, batch)
    transform[:, 0, 0] = scale * torch.where(between(0.0, 1.0, batch) < 0.5, -1.0, 1.0)
    transform[:, 1, 1] = scale
    transform[:, :, 2] = between(-0.08, 0.08, batch, 2)
    grid = F.affine_grid(transform, [batch, 3, *images.shape[1:3]], align_corners=False)
    changed = F.grid_sample(images.permute(0, 3, 1, 2), grid, padding_mode="border", align_corners=False)
    soft = torch.nonzero(between(0.0, 1.0, batch) < 0.5)[:, 0]
    if len(soft):
        changed = changed.index_copy(0, soft, blurred(changed[soft], float(between(*sigma))))
    changed = changed * between(0.92, 1.08, batch, 1, 1, 1) + between(-0.03, 0.03, batch, 3, 1, 1)
    noise = torch.randn(changed.shape, generator=generator) * between(0.0, 0.05, batch, 1, 1, 1)
    return (changed + noise).clamp(0, 1).permute(0, 2, 3, 1)


def blurred(images: Float[Tensor, "B 3 H W"], sigma: float) -> Float[Tensor, "B 3 H W"]:
    """Gaussian blur of standard deviation ``sigma`` pixels."""
    radius = int(3 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights = (weights / weights.sum()).view(1, 1, 1, -1).repeat(3, 1, 1, 1)
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, weights, groups=3), weights.transpose(2, 3), groups=3)


def caption_loss(
    images: Float[Tensor, "B d"], texts: Float[Tensor, "B d"], scale: Tensor, buckets: Int[Tensor, "B 2"]
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE. A person's other image of the same framing and view is no negative: its caption fits too."""
    half = len(images) // 2
    rows = torch.arange(len(images))
    same = (rows[:, None] % half == rows % half) & (buckets[:, None] == buckets).all(-1) & (rows[:, None] != rows)
    logits = (scale * images @ texts.T).masked_fill(same, -torch.inf)
    return (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2


def person_loss(
    features: Float[Tensor, "B p"], buckets: Int[Tensor, "B 2"], white: Bool[Tensor, " B"]
) -> Float[Tensor, ""]:
    """InfoNCE of each image's person within the batch. Pairs of a head and legs, and of white people, cannot be
    recognised as one person and are left out."""
    batch = len(features)
    partner = (torch.arange(batch) + batch // 2) % batch
    logits = (PERSON_SCALE * features @ features.T).masked_fill(torch.eye(batch, dtype=torch.bool), -torch.inf)
    counted = (comparable(buckets[:, 0], buckets[partner, 0]) & ~white & ~white[partner]).float()
    errors = F.cross_entropy(logits, partner, reduction="none")
    return (errors * counted).sum() / counted.sum().clamp(min=1)


def comparable(one: Int[Tensor, " B"], other: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
    """Whether two framings (by index) have a part of the body in common."""
    return ~(((one == HEAD) & (other == LOWER)) | ((one == LOWER) & (other == HEAD)))


def train_model(
    config: ScorerConfig, data: PairSet, tokenizer: CLIPTokenizer, checkpoint: Path, on_step: OnStep
) -> CLIPModel:
    """Train the scorer from scratch or from the packaged weights, or resume.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once the checkpoint is written.
    """
    model = load_model(tokenizer) if config.from_packaged else build_model(tokenizer, config.seed)
    model.train()
    tokens = tokenized(data, tokenizer)
    adam = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=0.02)

    def loss_of(step: int) -> Float[Tensor, ""]:
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        batch = draw_batch(data, tokens, config.batch, cast(int, tokenizer.eos_token_id), generator)
        # the flash kernel's backward pass is slow at these small sizes on a CPU
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            images = embed_images(model, batch.images)
            texts = embed_tokens(model, batch.tokens)
        scale = model.logit_scale.exp().clamp(LEAST_SCALE, MOST_SCALE)
        loss = caption_loss(images, texts, scale, batch.buckets)
        return loss + config.person_weight * person_loss(person_part(images), batch.buckets, batch.white)

    _training(config, config.steps, config.lr, checkpoint, on_step).run(dict(model.named_parameters()), adam, loss_of)
    return model.eval()


def train_small(
    net: nn.Module,
    loss_of: Callable[[torch.Generator], Float[Tensor, ""]],
    config: ScorerConfig,
    checkpoint: Path,
    on_step: OnStep,
    *,
    steps: int,
    weight_decay: float,
) -> None:
    """Train one of the small networks in place, or resume.

    Args:
        loss_of: the loss of a random batch.
    """
    adam = torch.optim.AdamW(net.parameters(), lr=SMALL_LR, weight_decay=weight_decay)
    training = _training(config, steps, SMALL_LR, checkpoint, on_step, clip=False)
    seed = config.seed * 1_000_003
    training.run(dict(net.named_parameters()), adam, lambda step: loss_of(torch.Generator().manual_seed(seed + step)))


def _training(
    config: ScorerConfig, steps: int, lr: float, checkpoint: Path, on_step: OnStep, clip: bool = True
) -> Training:
    return Training(steps, lambda step: lr * rate(step, steps), checkpoint, config.checkpoint_every, on_step, clip=clip)


def rate(step: int, steps: int) -> float:
    """Relative learning rate: warm-up, constant until 30 %, then a cosine to 1 %."""
    done = step / steps
    decay = 1.0 if done < 0.3 else 0.01 + 0.99 * 0.5 * (1 + float(torch.tensor((done - 0.3) / 0.7 * torch.pi).cos()))
    return min(1.0, (step + 1) / 60) * decay
