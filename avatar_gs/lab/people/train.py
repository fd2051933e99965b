"""Training of the lifelike prior: images, autoencoder, denoiser, and the folder in Stable Diffusion's format.

Each part resumes; the folder ``prior`` holds the averaged weights of the last checkpoint and can be used at any time.
"""

import json
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from avatar_gs.core.errors import UserError, first_line
from avatar_gs.core.paths import MINI_PRIOR
from avatar_gs.lab.people.autoencoder import train_autoencoder
from avatar_gs.lab.people.config import TrainPeopleConfig
from avatar_gs.lab.people.dataset import generate, read_shards, rendered_meanwhile
from avatar_gs.lab.people.language import people_language
from avatar_gs.lab.people.latents import PeopleSet, encode_images
from avatar_gs.lab.people.warm_start import ARCHITECTURE, start_from_mini
from avatar_gs.lab.train_prior.autoencoder import balance_latents
from avatar_gs.lab.train_prior.diffusion import Networks, build_networks, load_networks, train_diffusion
from avatar_gs.lab.train_prior.package import package
from avatar_gs.lab.train_prior.tokenizer import write_tokenizer
from avatar_gs.lab.train_prior.training import Report

PACKAGED = "packaged"
BALANCED_ON = 512
"""Images on which the latents' mean and deviation are measured."""
FIRST_BATCH = "batches"
"""Key of ``training.json``: the number of batches that the weights have seen, with those of earlier trainings."""


def train_people(config: TrainPeopleConfig, report: Report, device: torch.device, packaged: Path) -> Path:
    """Run or resume the whole training in ``config.folder``; returns the folder of the finished prior.

    Args:
        packaged: folder of the packaged lifelike prior, for ``denoiser.start=packaged``.

    Raises:
        UserError: if the assets, the prior to start from, or files of an earlier run are not what they should be.
    """
    folder, start = Path(config.folder), _start(config.denoiser.start, packaged)
    data, prior, checkpoint = folder / "data", folder / "prior", folder / "denoiser.safetensors"
    _render(config, data, report)
    language = people_language()
    tokenizer = write_tokenizer(prior / "tokenizer", language.tokens)
    vae = _autoencoder(config, data, folder / "vae", start, report, device)
    dataset, encoding = config.dataset, partial(report, "encoding images")
    people = PeopleSet(
        data,
        vae,
        tokenizer,
        folder / "latents",
        encoding,
        bfloat16=config.denoiser.bfloat16,
        refresh_every=dataset.refresh_every if dataset.meanwhile else 0,
    )
    people.at(0)  # encode before the training, in which Ctrl-C waits for the end of a step
    networks, first_batch = _networks(config, tokenizer, checkpoint, start)
    for module in networks.modules().values():
        module.to(device)  # pyright: ignore[reportCallIssue, reportArgumentType]  # the wrapper hides self

    def write(averaged: Networks, done: int) -> None:
        settings = {**asdict(config), "assets": "", "folder": "", FIRST_BATCH: first_batch + done}
        package(averaged, vae, tokenizer, language, prior, settings)

    with rendered_meanwhile(dataset, config.assets, data):
        train_diffusion(
            config.denoiser,
            networks,
            people.at,
            tokenizer,
            checkpoint,
            partial(report, "training the denoiser"),
            first_batch=first_batch,
            on_checkpoint=write,
        )
    return prior


def _start(name: str, packaged: Path) -> Path | None:
    """The folder of the prior to start from; None: none.

    Raises:
        UserError: if it is not a folder of a prior.
    """
    if not name:
        return None
    folder = packaged if name == PACKAGED else Path(name).expanduser()
    if not (folder / "unet").is_dir() or not (folder / "vae").is_dir():
        raise UserError(f"people.denoiser.start={name}: no prior in {folder} (expected folders unet, vae, …)")
    return folder


def _render(config: TrainPeopleConfig, data: Path, report: Report) -> None:
    """Render the missing images; with ``dataset.meanwhile`` only the first ones."""
    dataset = config.dataset
    people = dataset.first_people if dataset.meanwhile else dataset.people
    if all((data / name).is_file() for name in dataset.shards(people)):
        return
    if not config.assets:
        raise UserError("people.assets: images are missing, and rendering them needs the folder of the asset pack")
    for done, total in generate(dataset, Path(config.assets), data, people):
        report("rendering people", done, total, 0.0)


def _autoencoder(
    config: TrainPeopleConfig, data: Path, folder: Path, start: Path | None, report: Report, device: torch.device
) -> AutoencoderKL:
    """The trained autoencoder of this training, or of the prior that it starts from, frozen."""
    if not folder.exists() and start and not config.autoencoder.decoder_steps:
        shutil.copytree(start / "vae", folder)
    if not folder.exists():
        _trained_autoencoder(config, data, folder.parent, start, report).save_pretrained(str(folder))
    vae = AutoencoderKL.from_pretrained(str(folder)).float().eval().requires_grad_(False)
    return vae.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue, reportArgumentType]


def _trained_autoencoder(
    config: TrainPeopleConfig, data: Path, folder: Path, start: Path | None, report: Report
) -> AutoencoderKL:
    """An autoencoder with balanced latents from scratch, or that of ``start`` with a further trained decoder."""
    images, size = read_shards(sorted(data.glob("shard_*.npz"))), config.dataset.size
    checkpoint, on_step = folder / "autoencoder.safetensors", partial(report, "training the autoencoder")
    if start:
        trained = AutoencoderKL.from_pretrained(str(start / "vae")).float()
        return train_autoencoder(config.autoencoder, images, size, checkpoint, on_step, trained)
    vae = train_autoencoder(config.autoencoder, images, size, checkpoint, on_step)
    vae.register_to_config(scaling_factor=1.0)  # before the measurement, which scales by it
    chosen = range(0, len(images), max(1, len(images) // BALANCED_ON))
    latents = encode_images(vae, [images.image(index) for index in chosen])
    balance_latents(vae, latents.mean((0, 2, 3)), latents.std((0, 2, 3)))
    return vae


def _networks(
    config: TrainPeopleConfig, tokenizer: CLIPTokenizer, checkpoint: Path, start: Path | None
) -> tuple[Networks, int]:
    """The networks to train, and the number of batches that they have seen before this training."""
    networks = build_networks(tokenizer, ARCHITECTURE)
    if start is None:
        start_from_mini(networks, tokenizer, MINI_PRIOR)
        return networks, 0
    load_networks(networks, start)
    file = start / "training.json"
    if not file.is_file():
        return networks, 0
    try:
        return networks, int(json.loads(file.read_text(encoding="utf-8"))[FIRST_BATCH])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: expected a JSON object with a number {FIRST_BATCH}; {first_line(error)}") from error
