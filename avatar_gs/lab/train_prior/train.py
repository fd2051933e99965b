"""Training of the packaged prior: data set, autoencoder, diffusion, and the folder in Stable Diffusion's format."""

import json
import logging
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import UInt8
from torch import Tensor
from transformers import CLIPTokenizer

from avatar_gs.core.errors import UserError
from avatar_gs.core.paths import MINI_PRIOR
from avatar_gs.lab.train_prior.autoencoder import as_batch, balance_latents, posterior, train_mini_autoencoder
from avatar_gs.lab.train_prior.config import TrainMiniConfig
from avatar_gs.lab.train_prior.diffusion import LatentSet, build_networks, load_networks, train_diffusion
from avatar_gs.lab.train_prior.language import mini_language
from avatar_gs.lab.train_prior.package import package
from avatar_gs.lab.train_prior.tokenizer import write_tokenizer
from avatar_gs.lab.train_prior.training import Report
from avatar_gs.lab.world.dataset import generate

log = logging.getLogger(__name__)


def train(config: TrainMiniConfig, report: Report, packaged: Path = MINI_PRIOR) -> Path:
    """Run or resume the whole training in ``config.folder``; returns the folder of the finished prior."""
    folder = Path(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    for done, total in generate(config.dataset, folder / "data"):
        report("rendering people", done, total, 0.0)
    shards = sorted((folder / "data").glob("shard_*.npz"))
    language = mini_language()
    tokenizer = write_tokenizer(folder / "prior" / "tokenizer", language.tokens)
    vae = _autoencoder(config, shards, folder, packaged, report)
    data = encode(shards, vae, tokenizer, folder / "latents.npz", report)
    checkpoint, on_step = folder / "diffusion.safetensors", partial(report, "training the diffusion model")
    networks = build_networks(tokenizer)
    if config.diffusion.from_packaged and not checkpoint.exists():
        load_networks(networks, packaged)
    train_diffusion(config.diffusion, networks, lambda step: data, tokenizer, checkpoint, on_step)
    package(networks, vae, tokenizer, language, folder / "prior", asdict(config))
    return folder / "prior"


def _autoencoder(
    config: TrainMiniConfig, shards: list[Path], folder: Path, packaged: Path, report: Report
) -> AutoencoderKL:
    """The trained autoencoder of this folder; with ``from_packaged``, the packaged one as it is."""
    if config.diffusion.from_packaged and not (folder / "vae").exists():
        shutil.copytree(packaged / "vae", folder / "vae")
    if not (folder / "vae").exists():
        images, foreground = _images(shards[: max(1, len(shards) // 3)])
        checkpoint, on_step = folder / "autoencoder.safetensors", partial(report, "training the autoencoder")
        vae = train_mini_autoencoder(config.autoencoder, images, foreground, checkpoint, on_step)
        latents = _encode_images(vae, images[:: max(1, len(images) // 512)])
        balance_latents(vae, latents.mean((0, 2, 3)), latents.std((0, 2, 3)))
        vae.register_to_config(scaling_factor=1.0)
        vae.save_pretrained(str(folder / "vae"))
    vae = AutoencoderKL.from_pretrained(str(folder / "vae"))
    vae = vae.float().eval().requires_grad_(False)
    return vae.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # its wrapper hides self


def _images(shards: list[Path]) -> tuple[UInt8[np.ndarray, "P 128 128 3"], np.ndarray]:
    """The images of some shards, and the foreground of each."""
    images, foreground = [], []
    for shard in shards:
        with np.load(shard, allow_pickle=False) as data:
            images.append(data["pictures"])
            foreground.append(np.repeat(data["foreground"], len(data["pictures"]) // len(data["foreground"]), 0))
    return np.concatenate(images), np.concatenate(foreground)


@torch.no_grad()
def _encode_images(vae: AutoencoderKL, images: UInt8[np.ndarray, "P 128 128 3"]) -> Tensor:
    chunks = (as_batch(images[start : start + 16]) for start in range(0, len(images), 16))
    return torch.cat([posterior(vae, chunk).mean for chunk in chunks])


def encode(shards: list[Path], vae: AutoencoderKL, tokenizer: CLIPTokenizer, cache: Path, report: Report) -> LatentSet:
    """The training set as latents and token ids; latents are cached in the file ``cache``.

    Raises:
        UserError: for shards of an earlier version.
    """
    latents, controls, foreground, details, tokens = [], [], [], [], []
    cached = None
    if cache.exists():
        with np.load(cache, allow_pickle=False) as data:
            cached = data["latents"]
    for index, shard in enumerate(shards):
        with np.load(shard, allow_pickle=False) as data:
            if "details" not in data:
                raise UserError(f"{shard}: of an earlier version; remove {shard.parent} to render the people again")
            controls.append(torch.from_numpy(data["controls"]))
            foreground.append(torch.from_numpy(data["foreground"]))
            details.append(torch.from_numpy(data["details"]))
            captions = json.loads(str(data["captions"]))
            if cached is None:
                scaled = _encode_images(vae, data["pictures"]) * vae.config["scaling_factor"]
                latents.append(scaled.half().numpy())
        flat = [text for texts in captions for text in texts]
        ids = tokenizer(flat, padding="max_length", truncation=True).input_ids
        tokens.append(torch.tensor(ids, dtype=torch.int16).unflatten(0, (len(captions), -1)))
        report("encoding images", index + 1, len(shards), 0.0)
    if cached is None:
        cached = np.concatenate(latents)
        np.savez(cache, latents=cached)
    covers = torch.cat(foreground), torch.cat(details)
    return LatentSet(torch.from_numpy(cached), torch.cat(controls), *covers, torch.cat(tokens))
