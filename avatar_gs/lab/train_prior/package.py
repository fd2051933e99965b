"""Writes a trained prior as a folder in Stable Diffusion's format."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import cast

from diffusers import AutoencoderKL, DDIMScheduler
from transformers import CLIPTokenizer

from avatar_gs.core.io import write_json
from avatar_gs.lab.train_prior.diffusion import Networks, noise_schedule
from avatar_gs.lab.train_prior.language import Language

PARTS = {
    "vae": "AutoencoderKL",
    "unet": "UNet2DConditionModel",
    "controlnet": "ControlNetModel",
    "scheduler": "DDIMScheduler",
}


def package(
    networks: Networks,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    language: Language,
    folder: Path,
    settings: Mapping[str, object],
) -> None:
    """Write the prior in half precision, as stock diffusers loads it.

    Args:
        settings: of the training, for ``training.json``; empty: no such file.
    """
    for part, module in networks.modules().items():
        module.half().save_pretrained(str(folder / part), safe_serialization=True)
        module.float()
    packaged = deepcopy(vae).half()  # the training goes on with the unrounded one
    packaged.register_to_config(_name_or_path="")  # do not publish the path that it was loaded from
    packaged.save_pretrained(str(folder / "vae"), safe_serialization=True)
    tokenizer.save_pretrained(str(folder / "tokenizer"))
    scheduler = DDIMScheduler.from_config(noise_schedule().config, set_alpha_to_one=False, steps_offset=1)
    cast(DDIMScheduler, scheduler).save_pretrained(str(folder / "scheduler"))
    index: dict[str, object] = {"_class_name": "StableDiffusionControlNetPipeline", "_diffusers_version": "0.35.0"}
    index |= {part: ["diffusers", name] for part, name in PARTS.items()}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    write_json(folder / "model_index.json", index)
    language.write(folder)
    if settings:
        write_json(folder / "training.json", settings)
