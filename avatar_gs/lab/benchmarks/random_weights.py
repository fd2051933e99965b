"""A prior of a given architecture with random weights, for benchmarks: the same cost, meaningless samples.

Nothing is downloaded; the architectures of presets are packaged.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from avatar_gs.core.errors import UserError
from avatar_gs.prior import memory_estimate
from avatar_gs.prior.config import Encoder, PriorConfig
from avatar_gs.prior.loading import single_file
from avatar_gs.prior.loading.components import load_component, quiet
from avatar_gs.prior.loading.sources import Source, locate
from avatar_gs.prior.memory_estimate import Architecture, component_config
from avatar_gs.prior.parts import Parts
from avatar_gs.prior.schedule import noise_schedule
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior, assemble

COMPONENTS = ("tokenizer", "text_encoder", "vae", "unet", "controlnet", "scheduler")
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def random_prior(config: PriorConfig, device: torch.device | str = "cpu", seed: int = 0) -> StableDiffusionPrior:
    """The untrained prior of ``config``; presets (sd15, sd21) need not be downloaded.

    Raises:
        UserError: if a folder or file is missing, incomplete or damaged, or another prior than a preset is not
            downloaded yet.
    """
    sources = _sources(config)
    configs = {name: component_config(name, source) for name, source in sources.items() if name != "tokenizer"}
    absent = [name for name, content in configs.items() if not content]
    if absent:
        raise _not_here(config, absent)
    with quiet(), torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        parts: dict[str, Any] = {
            "text_encoder": CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])),
            "vae": AutoencoderKL.from_config(configs["vae"]),
            "unet": UNet2DConditionModel.from_config(configs["unet"]),
            "controlnet": ControlNetModel.from_config(configs["controlnet"]),
        }
        if config.encoder is Encoder.tiny:  # as TAESD is
            parts["tiny"] = AutoencoderTiny(latent_channels=int(configs["vae"].get("latent_channels", 4)))
    with quiet():
        parts["scheduler"] = noise_schedule(configs["scheduler"])
        parts["tokenizer"] = _tokenizer(sources["tokenizer"])
        return assemble(config, Parts(**parts), device)


def architecture_of(config: PriorConfig) -> Architecture:
    """The architecture of ``random_prior``, for an estimate of memory and time.

    Raises:
        UserError: as ``random_prior``.
    """
    if config.name in memory_estimate.PUBLISHED:
        return memory_estimate.packaged_architecture(config.name)
    architecture, absent = memory_estimate.architecture_of(_sources(config), config.name)
    if architecture is None:
        raise _not_here(config, absent)
    return architecture


def _not_here(config: PriorConfig, names: Sequence[str]) -> UserError:
    return UserError(
        f"prior.path={config.path}: {', '.join(names)} not here yet, so the architecture is unknown: "
        "run stage=fetch, or use a preset of the same architecture (prior=sd15, sd21)"
    )


def _sources(config: PriorConfig) -> dict[str, Source]:
    if config.name in single_file.WIDTHS.values():
        layout = Source("", "", is_local=True, layout=config.name)
        return dict.fromkeys(COMPONENTS, layout)
    return locate(config)


def _tokenizer(source: Source) -> CLIPTokenizer:
    """The prior's tokenizer, or one of single letters if it is not downloaded."""
    if source.name:
        return load_component(CLIPTokenizer, source, "tokenizer")
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(letter + "</w>" for letter in letters), BEGIN, END]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
        (Path(folder) / "merges.txt").write_text("#version: 0.2\n")
        return CLIPTokenizer.from_pretrained(folder, **single_file.tokenizer_arguments(source.layout))
