"""The lifelike prior's autoencoder: the mini world's at 256 pixels, trained on crops of faces and on whole images."""

from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from avatar_gs.lab.people.config import PeopleAutoencoderConfig
from avatar_gs.lab.people.dataset import Images
from avatar_gs.lab.train_prior import autoencoder
from avatar_gs.lab.train_prior.autoencoder import as_batch, build_autoencoder, edges_and_details
from avatar_gs.lab.train_prior.training import OnStep, Training, cosine_rate


def train_autoencoder(
    config: PeopleAutoencoderConfig,
    images: Images,
    size: int,
    checkpoint: Path,
    on_step: OnStep,
    trained: AutoencoderKL | None = None,
) -> AutoencoderKL:
    """Train from the linear start, or resume; returns the autoencoder with averaged (EMA) weights, frozen.

    Args:
        size: pixels of a side of ``images``.
        trained: an autoencoder whose decoder is trained for ``decoder_steps``; its latents stay the same.
    """
    steps = config.decoder_steps if trained else config.steps
    vae = trained or build_autoencoder(size=size)
    for name, value in vae.named_parameters():
        value.requires_grad_(trained is None or name.startswith(("decoder", "post_quant_conv")))
    lr = config.decoder_lr if trained else config.lr
    rate = cosine_rate(lr, steps, hold=0.5, floor=0.03)
    training = Training(
        steps, rate, checkpoint, config.checkpoint_every, on_step, lambda step: max(0.005, 1 / (step + 2))
    )
    return autoencoder.train_autoencoder(
        vae,
        training,
        lambda rng: _batch(config, images, size, rng),
        lr=lr,
        seed=2,
        gradient_weight=0.7,
        bfloat16=config.bfloat16,
    )


def _batch(
    config: PeopleAutoencoderConfig, images: Images, size: int, rng: np.random.Generator
) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B 1 H W"]]:
    """Images in [-1, 1], mirrored half of the time, and weights of their pixels."""
    whole = rng.random() < config.whole_fraction
    chosen = rng.integers(len(images), size=config.whole if whole else config.crops)
    pixels, covers, faces = [], [], []
    for index in chosen.tolist():
        maps = [images.image(index), *(_resized(m[index], size) for m in (images.foreground, images.faces))]
        if not whole:
            top, left = _corner(maps[2], size, config.crop, rng)
            maps = [values[top : top + config.crop, left : left + config.crop] for values in maps]
        if rng.random() < 0.5:
            maps = [values[:, ::-1] for values in maps]
        for target, values in zip((pixels, covers, faces), maps, strict=True):
            target.append(np.ascontiguousarray(values))
    batch = as_batch(np.stack(pixels))
    cover, face = (torch.from_numpy(np.stack(values))[:, None].float() / 255 for values in (covers, faces))
    return batch, pixel_weights(batch, cover, face)


def _resized(values: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(values, (size, size), interpolation=cv2.INTER_LINEAR)


def _corner(faces: np.ndarray, size: int, crop: int, rng: np.random.Generator) -> tuple[int, int]:
    """Upper left corner of a crop; six in ten crops show the face, if it is visible."""
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
    edges, details = edges_and_details(images)
    weights = 0.5 + 2 * cover + 2 * edges + 6 * details + 4 * face
    return weights / weights.mean()
