"""Training the packaged prior from nothing: data, autoencoder, diffusion, and the Stable-Diffusion folder."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from jaxtyping import UInt8
from torch import Tensor
from transformers import CLIPTokenizer

from avatar_gs.core.errors import UserError
from avatar_gs.core.io import write_json
from avatar_gs.core.paths import MINI_PRIOR
from avatar_gs.lab.train_prior.autoencoder import balance_latents, posterior, train_autoencoder
from avatar_gs.lab.train_prior.config import TrainMiniConfig
from avatar_gs.lab.train_prior.diffusion import LatentSet, Networks, noise_schedule, train_diffusion
from avatar_gs.lab.train_prior.tokenizer import known_words, write_tokenizer
from avatar_gs.lab.world.dataset import generate
from avatar_gs.lab.world.descriptions import descriptions
from avatar_gs.lab.world.people import individuals

Report = Callable[[str, int, int, float], None]
"""Called with (what, done, total, loss)."""
log = logging.getLogger(__name__)


def train(config: TrainMiniConfig, report: Report, packaged: Path = MINI_PRIOR) -> Path:
    """Runs, or continues, the whole training in ``config.folder``; returns the folder of the finished prior."""
    folder = Path(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    for done, total in generate(config.dataset, folder / "data"):
        report("drawing people", done, total, 0.0)
    shards = sorted((folder / "data").glob("shard_*.npz"))
    tokenizer = write_tokenizer(folder / "prior" / "tokenizer")
    vae = _autoencoder(config, shards, folder, packaged, report)
    data = encode(shards, vae, tokenizer, folder / "latents.npz", report)

    def on_step(done: int, total: int, loss: float, networks: Networks) -> None:
        report("training the diffusion model", done, total, loss)

    networks = train_diffusion(config.diffusion, data, tokenizer, folder / "diffusion.safetensors", packaged, on_step)
    package(networks, vae, tokenizer, folder / "prior", asdict(config))
    return folder / "prior"


def _autoencoder(
    config: TrainMiniConfig, shards: list[Path], folder: Path, packaged: Path, report: Report
) -> AutoencoderKL:
    """The trained autoencoder of this folder; with ``from_packaged``, the packaged one as it is."""
    if config.diffusion.from_packaged and not (folder / "vae").exists():
        shutil.copytree(packaged / "vae", folder / "vae")
    if not (folder / "vae").exists():
        pictures, foreground = _pictures(shards[: max(1, len(shards) // 3)])

        def on_step(done: int, total: int, loss: float) -> None:
            report("training the autoencoder", done, total, loss)

        checkpoint = folder / "autoencoder.safetensors"
        vae = train_autoencoder(config.autoencoder, pictures, foreground, checkpoint, on_step)
        latents = _encode_pictures(vae, pictures[:: max(1, len(pictures) // 512)])
        balance_latents(vae, latents.mean((0, 2, 3)), latents.std((0, 2, 3)))
        vae.register_to_config(scaling_factor=1.0)
        vae.save_pretrained(str(folder / "vae"))
    vae = AutoencoderKL.from_pretrained(str(folder / "vae"))
    vae = vae.float().eval().requires_grad_(False)
    return vae.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # its wrapper hides self


def _pictures(shards: list[Path]) -> tuple[UInt8[np.ndarray, "P 128 128 3"], np.ndarray]:
    pictures, foreground = [], []
    for shard in shards:
        with np.load(shard, allow_pickle=False) as data:
            pictures.append(data["pictures"])
            foreground.append(np.repeat(data["foreground"], len(data["pictures"]) // len(data["foreground"]), 0))
    return np.concatenate(pictures), np.concatenate(foreground)


@torch.no_grad()
def _encode_pictures(vae: AutoencoderKL, pictures: UInt8[np.ndarray, "P 128 128 3"]) -> Tensor:
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    chunks = (
        images[start : start + 16].contiguous(memory_format=torch.channels_last) for start in range(0, len(images), 16)
    )
    return torch.cat([posterior(vae, chunk).mean for chunk in chunks])


def encode(shards: list[Path], vae: AutoencoderKL, tokenizer: CLIPTokenizer, cache: Path, report: Report) -> LatentSet:
    """The training set as latents and token ids. Latents are cached in ``cache``, which costs minutes to make."""
    latents, controls, foreground, details, tokens = [], [], [], [], []
    cached = None
    if cache.exists():
        with np.load(cache, allow_pickle=False) as data:
            cached = data["latents"]
    for index, shard in enumerate(shards):
        with np.load(shard, allow_pickle=False) as data:
            if "details" not in data:
                raise UserError(f"{shard}: drawn by an earlier version; remove {shard.parent} to draw the people anew")
            controls.append(torch.from_numpy(data["controls"]))
            foreground.append(torch.from_numpy(data["foreground"]))
            details.append(torch.from_numpy(data["details"]))
            captions = json.loads(str(data["captions"]))
            if cached is None:
                scaled = _encode_pictures(vae, data["pictures"]) * vae.config["scaling_factor"]
                latents.append(scaled.half().numpy())
        flat = [text for texts in captions for text in texts]
        ids = tokenizer(flat, padding="max_length", truncation=True).input_ids
        tokens.append(torch.tensor(ids, dtype=torch.int16).unflatten(0, (len(captions), -1)))
        report("encoding pictures", index + 1, len(shards), 0.0)
    if cached is None:
        cached = np.concatenate(latents)
        np.savez(cache, latents=cached)
    covers = torch.cat(foreground), torch.cat(details)
    return LatentSet(torch.from_numpy(cached), torch.cat(controls), *covers, torch.cat(tokens))


def package(networks: Networks, vae: AutoencoderKL, tokenizer: CLIPTokenizer, folder: Path, settings: dict) -> None:
    """Writes the prior as a Stable-Diffusion-format folder, half precision, that stock diffusers loads."""
    for part, module in networks.modules().items():
        module.half().save_pretrained(str(folder / part), safe_serialization=True)
        module.float()
    vae.register_to_config(_name_or_path="")  # the folder that it was loaded from says nothing to others
    vae.half().save_pretrained(str(folder / "vae"), safe_serialization=True)
    vae.float()
    tokenizer.save_pretrained(str(folder / "tokenizer"))
    scheduler = DDIMScheduler.from_config(noise_schedule().config, set_alpha_to_one=False, steps_offset=1)
    cast(DDIMScheduler, scheduler).save_pretrained(str(folder / "scheduler"))
    parts = {
        "vae": "AutoencoderKL",
        "unet": "UNet2DConditionModel",
        "controlnet": "ControlNetModel",
        "scheduler": "DDIMScheduler",
    }
    index: dict[str, object] = {"_class_name": "StableDiffusionControlNetPipeline", "_diffusers_version": "0.35.0"}
    index |= {part: ["diffusers", name] for part, name in parts.items()}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    write_json(folder / "model_index.json", index)
    write_json(folder / "vocabulary.json", known_words())
    write_json(folder / "names.json", [person.name for person in individuals()])
    write_json(folder / "descriptions.json", descriptions())
    if settings:
        write_json(folder / "training.json", settings)
