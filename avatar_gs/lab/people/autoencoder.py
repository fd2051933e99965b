"""The lifelike prior's autoencoder: mini's shape at 256 pixels, trained on crops of faces and on whole images."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from avatar_gs.lab.people.config import PeopleAutoencoderConfig
from avatar_gs.lab.people.dataset import Images, as_batch
from avatar_gs.lab.train_prior.autoencoder import KL_WEIGHT, build_autoencoder, decode, posterior
from avatar_gs.lab.train_prior.checkpoint import restore, save

GRADIENT_WEIGHT = 0.7
"""Of the error of image gradients, at three scales."""
HOLD = 0.5
"""Fraction of the training at the full rate; a cosine to 3 % follows."""
Progress = Callable[[int, int, float], None]
"""Called with (steps done, steps in all, loss)."""


def train_autoencoder(
    config: PeopleAutoencoderConfig, images: Images, size: int, checkpoint: Path, on_step: Progress
) -> AutoencoderKL:
    """Trains from ``checkpoint`` if it is there, else from the linear start; returns the averaged (EMA) weights.

    On a CPU with the same number of threads, an interrupted training ends with the same bytes.
    """
    vae = build_autoencoder(size=size)
    parameters = dict(vae.named_parameters())
    average = {name: value.detach().clone() for name, value in parameters.items()}
    adam = torch.optim.AdamW(parameters.values(), lr=config.lr, betas=(0.9, 0.98), weight_decay=1e-4)
    for step in range(restore(checkpoint, parameters, adam, average), config.steps):
        rng = np.random.default_rng([2, step])
        for group in adam.param_groups:
            group["lr"] = learning_rate(step, config)
        batch = _batch(config, images, size, rng)
        loss = _loss(vae, *batch, torch.Generator().manual_seed(step), config.bfloat16)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        adam.step()
        weight = max(0.005, 1 / (step + 2))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), list(parameters.values()), weight)
        on_step(step + 1, config.steps, float(loss.detach()))
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            save(checkpoint, step + 1, parameters, adam, average)
    vae.load_state_dict(average)
    return vae.eval().requires_grad_(False)


def learning_rate(step: int, config: PeopleAutoencoderConfig) -> float:
    """A short warm-up, then constant, then a cosine to 3 %."""
    done = step / config.steps
    decay = 1.0 if done < HOLD else 0.03 + 0.97 * 0.5 * (1 + np.cos(np.pi * (done - HOLD) / (1 - HOLD)))
    return config.lr * min(1.0, (step + 1) / 60) * float(decay)


def _batch(
    config: PeopleAutoencoderConfig, images: Images, size: int, rng: np.random.Generator
) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B 1 H W"]]:
    """Images in [-1, 1] (mirrored half of the time) and the weight of their pixels."""
    whole = rng.random() < config.whole_fraction
    chosen = rng.integers(len(images), size=config.whole if whole else config.crops)
    pixels, covers, faces = [], [], []
    for index in chosen.tolist():
        maps = [images.image(index), *(_enlarged(m[index], size) for m in (images.foreground, images.faces))]
        if not whole:
            top, left = _corner(maps[2], size, config.crop, rng)
            maps = [values[top : top + config.crop, left : left + config.crop] for values in maps]
        if rng.random() < 0.5:
            maps = [values[:, ::-1] for values in maps]
        for target, values in zip((pixels, covers, faces), maps, strict=True):
            target.append(np.ascontiguousarray(values))
    batch = as_batch(pixels)
    cover, face = (torch.from_numpy(np.stack(values))[:, None].float() / 255 for values in (covers, faces))
    return batch, pixel_weights(batch, cover, face)


def _enlarged(values: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(values, (size, size), interpolation=cv2.INTER_LINEAR)


def _corner(faces: np.ndarray, size: int, crop: int, rng: np.random.Generator) -> tuple[int, int]:
    """The upper left corner of a crop: six in ten are of the face where one is seen."""
    rows, columns = np.nonzero(faces > 127)
    centre = rng.uniform(0.2, 0.8, 2) * size
    if len(rows) and rng.random() < 0.6:
        centre = np.array([rows.mean(), columns.mean()]) + rng.normal(0, 14, 2)
    top, left = np.clip(centre - crop / 2, 0, size - crop).astype(int)
    return int(top), int(left)


def pixel_weights(
    images: Float[Tensor, "B 3 H W"], cover: Float[Tensor, "B 1 H W"], face: Float[Tensor, "B 1 H W"]
) -> Float[Tensor, "B 1 H W"]:
    """Weights with mean 1: the person, edges, small details, and most of all eyes and mouth count more."""
    across = F.pad((images[..., 1:] - images[..., :-1]).abs().amax(1, keepdim=True), (0, 1))
    down = F.pad((images[:, :, 1:] - images[:, :, :-1]).abs().amax(1, keepdim=True), (0, 0, 0, 1))
    edges = F.max_pool2d((across + down).clamp(max=1), 3, 1, 1)
    around = F.avg_pool2d(F.pad(images, (4, 4, 4, 4), mode="replicate"), 9, 1)
    details = F.max_pool2d((images - around).abs().amax(1, keepdim=True).clamp(max=1), 3, 1, 1)
    weights = 0.5 + 2 * cover + 2 * edges + 6 * details + 4 * face
    return weights / weights.mean()


def _loss(
    vae: AutoencoderKL, images: Tensor, weights: Tensor, generator: torch.Generator, bfloat16: bool
) -> Float[Tensor, ""]:
    """Weighted L1 and L2 of the reconstruction, L1 of its gradients at three scales, and a little of the divergence."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        latents = posterior(vae, images)
        mean, logvar = latents.mean.float(), latents.logvar.float()
        noise = torch.randn(mean.shape, generator=generator)
        error = decode(vae, mean + (0.5 * logvar).exp() * noise).float() - images
    loss = (weights * (error.abs() + error.square())).mean()
    for scale in range(3):
        if scale:
            error, weights = F.avg_pool2d(error, 2), F.avg_pool2d(weights, 2)
        across = (weights[..., 1:] * (error[..., 1:] - error[..., :-1]).abs()).mean()
        down = (weights[:, :, 1:] * (error[:, :, 1:] - error[:, :, :-1]).abs()).mean()
        loss = loss + GRADIENT_WEIGHT * (across + down)
    return loss - 0.5 * KL_WEIGHT * (1 + logvar - mean.square() - logvar.exp()).mean()
