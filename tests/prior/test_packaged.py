"""The packaged priors: complete, small, and readable by stock diffusers."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionControlNetPipeline
from safetensors.torch import load_file

from avatar_gs.core.paths import MINI_PRIOR, PEOPLE_PRIOR
from avatar_gs.prior.config import PriorConfig
from avatar_gs.prior.stable_diffusion import load_prior

SIZES = {"mini": (MINI_PRIOR, 128, 16), "people": (PEOPLE_PRIOR, 256, 32)}
MOST_BYTES = 50e6


@pytest.mark.parametrize("name", SIZES)
def test_weights_are_small_finite_and_of_16_bits(name):
    files = list(SIZES[name][0].rglob("*.safetensors"))
    assert {file.parent.name for file in files} == {"vae", "unet", "controlnet", "text_encoder"}
    assert sum(file.stat().st_size for file in files) < MOST_BYTES
    for file in files:
        for key, value in load_file(file).items():
            assert value.dtype in (torch.float16, torch.int64) and value.isfinite().all(), f"{file}: {key}"


@pytest.mark.parametrize("name", SIZES)
def test_the_preset_loads_the_packaged_prior(name):
    prior = load_prior(PriorConfig(name=name), "cpu")
    _, image_size, latent_size = SIZES[name]
    assert (prior.image_size, prior.latent_size) == (image_size, latent_size)
    prompt = "a young man with short brown hair in a red shirt and blue trousers, white shoes"
    assert prior.unknown_words(prompt) == []
    assert prior.unknown_words("a man with a trombone") == ["trombone"]


@pytest.mark.parametrize("name", SIZES)
def test_stock_diffusers_samples(name):
    folder, size, _ = SIZES[name]
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        str(folder), safety_checker=None, torch_dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    control = torch.zeros(1, 3, size, size)
    drawn = pipeline("a man", image=control, num_inference_steps=2, output_type="np", height=size, width=size)
    image = np.asarray(drawn.images)  # pyright: ignore[reportAttributeAccessIssue]  # a tuple otherwise
    assert image.shape == (1, size, size, 3) and np.isfinite(image).all()


@pytest.mark.parametrize("name", SIZES)
def test_published_files_name_no_path_of_a_machine(name):
    for file in SIZES[name][0].rglob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert "/home/" not in text and "/root/" not in text and "/work/" not in text, file
        json.loads(text)
