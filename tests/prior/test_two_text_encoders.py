"""Stable Diffusion XL: two text encoders, a pooled text and sizes as conditions."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionXLControlNetPipeline

from avatar_gs import cli
from avatar_gs.core.errors import UserError
from avatar_gs.prior.config import PriorConfig
from avatar_gs.prior.denoiser import pooled_width
from avatar_gs.prior.fingerprint import networks, prior_fingerprint
from avatar_gs.prior.loading.single_file import probe_prediction
from avatar_gs.prior.loading.sources import locate
from avatar_gs.prior.memory_estimate import architecture_of
from avatar_gs.prior.parts import Parts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior, load_prior
from avatar_gs.prior.two_text_encoders import TwoTextEncoders, split_pooled
from tests import tiny
from tests.prior.loading import load, refuses

PROMPTS = ["a red man, front view", "a woman"]


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    return tiny.save_prior(tmp_path_factory.mktemp("sdxl"), "sdxl")


@pytest.fixture
def folder(xl, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(xl, tmp_path / "prior")


@pytest.fixture(scope="module")
def prior(xl) -> StableDiffusionPrior:
    return load_prior(PriorConfig(name="custom", path=str(xl)))


@pytest.fixture(scope="module")
def pipeline(prior):
    second = prior.prompt_encoder.second
    return StableDiffusionXLControlNetPipeline(
        vae=prior.vae,
        text_encoder=prior.text_encoder,
        text_encoder_2=second.text_encoder,
        tokenizer=prior.tokenizer,
        tokenizer_2=second.tokenizer,
        unet=prior.unet,
        controlnet=prior.controlnet,
        scheduler=prior.scheduler,
        add_watermarker=False,
    )


def test_conditions_are_those_of_diffusers(prior, pipeline):
    cond = prior.encode_prompts(PROMPTS)
    assert cond.shape == (2, tiny.TOKEN_LENGTH + 1, 16 + tiny.SECOND_WIDTH)
    tokens, pooled = split_pooled(cond, tiny.POOLED)
    expected, _, expected_pooled, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    torch.testing.assert_close(tokens, expected)
    torch.testing.assert_close(pooled, expected_pooled)
    assert not cond[:, -1, tiny.POOLED :].any()


def test_an_identity_that_is_a_word_reads_like_the_word_and_is_learned_in_both_encoders(prior):
    with torch.no_grad():
        expected = prior.encode_prompts(["a red man"])
    words = prior.token_embeddings("red").requires_grad_(True)
    assert words.shape == (1, prior.text_width)
    cond = prior.encode_prompts(["a <id> man"], words)
    # The two paths fill up with different tokens after the end, which only later tokens could read.
    torch.testing.assert_close(cond, expected, atol=1e-5, rtol=1e-5)
    cond.square().sum().backward()
    first, second = words.grad[:, :16], words.grad[:, 16:]
    assert first.abs().sum() > 0 and second.abs().sum() > 0


def test_the_pooled_text_and_the_sizes_are_read(prior):
    z_t, t = torch.randn(1, 4, tiny.LATENT_SIZE, tiny.LATENT_SIZE), torch.tensor([500])
    cond = prior.encode_prompts(["a red man"])
    other = cond.clone()
    other[:, -1] += 1
    assert (prior.eps(z_t, t, cond, None) - prior.eps(z_t, t, other, None)).abs().max() > 1e-4
    assert prior.denoiser._sizes(z_t).tolist() == [[tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 0, 0] + [tiny.IMAGE_SIZE] * 2]


def test_other_words_stand_for_embeddings_of_both_encoders(prior):
    word = prior.token_embeddings("red")
    with_word = prior.with_embeddings({"<ink>": word})
    torch.testing.assert_close(
        with_word.encode_prompts(["a <ink> man"]), prior.encode_prompts(["a red man"]), atol=1e-5, rtol=1e-5
    )
    assert not prior.prompt_encoder.embeddings


def test_everything_that_lists_a_priors_networks_knows_the_second_encoder(prior, xl):
    assert "text_encoder_2" in networks(prior) and len(prior_fingerprint(prior)) == 8
    architecture, absent = architecture_of(locate(PriorConfig(name="custom", path=str(xl))), "custom")
    second = prior.prompt_encoder.second.text_encoder
    count = sum(p.numel() for network in (prior.text_encoder, second) for p in network.parameters())
    assert architecture.parameters["text_encoder"] == count and not absent
    assert probe_prediction(prior.unet) in ("epsilon", "v_prediction")
    assert pooled_width(prior.unet.config) == tiny.POOLED and isinstance(prior.prompt_encoder, TwoTextEncoders)


def test_damaged_or_missing_parts_are_named(folder, tmp_path):
    shutil.rmtree(folder / "text_encoder_2")
    refuses(folder, "reads more than text (addition_embed_type)", "text_encoder_2 and tokenizer_2")
    (folder / "text_encoder_2").mkdir()
    refuses(folder, "text_encoder_2", "config.json")
    other = tiny.save_prior(tmp_path / "sd15")
    parts = tiny.parts(tmp_path / "parts", "sdxl")
    with pytest.raises(UserError, match=r"different widths.*ControlNet 16"):
        StableDiffusionPrior(Parts(**parts | {"controlnet": load(other).controlnet}))
    config = dict(parts["controlnet"].config) | {"addition_embed_type": None}
    with pytest.raises(UserError, match=r"different pooled texts \(10, 10 and 0 numbers\)"):
        StableDiffusionPrior(Parts(**parts | {"controlnet": type(parts["controlnet"]).from_config(config)}))


def test_lora_files_are_refused_in_a_line(folder, tmp_path):
    from safetensors.torch import save_file

    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    lora = {f"{name}.lora_A.weight": torch.zeros(1, 16), f"{name}.lora_B.weight": torch.zeros(16, 1)}
    save_file(lora, tmp_path / "x.safetensors")
    refuses(folder, "prior.lora", "Stable Diffusion XL", lora=[str(tmp_path / "x.safetensors")])


def test_the_command_makes_an_avatar_of_a_person(folder, tmp_path, monkeypatch):
    import numpy as np
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "anna").mkdir()
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "anna" / f"{seed}.png")
    words = ["prior.prompts.style=mini", "embed.steps=2", "embed.batch=2", "embed.min_size=8", "embed.preview_every=0"]
    words += ["embed.tokens=2", "optimize.steps=2", "optimize.batch=1", "optimize.preview_every=0", "splats.count=300"]
    words += ["export.formats=[ply]", f"prior={folder}", "prior.prediction=epsilon", "name=anna", "embed.clothes=free"]
    assert cli.main(["photos=./anna", "prompt=<id> in red", *words]) == 0
    stages = json.loads((tmp_path / "outputs" / "anna" / "metrics.json").read_text())["stages"]
    assert stages["embed"]["finished"] and stages["optimize"]["finished"] and stages["export"]["finished"]
