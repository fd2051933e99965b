"""A tiny Stable Diffusion: diffusers' classes with the structure of SD 1.5, SD 2.1 and SDXL and random weights."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (diffusers' annotations are narrower than its behaviour)

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

WORDS = (
    *("a", "man", "woman", "in", "red", "blue", "green", "shirt", "trousers", "tall", "very", "full", "body", "front"),
    *("side", "back", "view", "close", "up", "of", "the", "head", "upper", "lower"),
)
TOKEN_LENGTH = 16
LATENT_SIZE = 8
IMAGE_SIZE = 16
SECOND_WIDTH, POOLED, SIZE_WIDTH = 12, 10, 4
"""Of SDXL: widths of the second text encoder, of its pooled output, and of the embedding of one size."""


def save_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer with one token for each of ``WORDS``; other words become letters."""
    letters = [chr(code) for code in range(33, 127)]
    vocabulary, merges = [*letters, *(letter + "</w>" for letter in letters)], []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            left, right = pieces[:2]
            pieces[:2] = [left + right]
            if (left, right) not in merges:
                merges.append((left, right))
                vocabulary.append(left + right)
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    ids = {token: index for index, token in enumerate(dict.fromkeys(vocabulary))}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(f"{a} {b}" for a, b in merges) + "\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TOKEN_LENGTH,
        "unk_token": "<|endoftext|>",
        **special,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return CLIPTokenizer.from_pretrained(folder)


def text_config(tokenizer: CLIPTokenizer, width: int, activation: str, **more: int) -> CLIPTextConfig:
    """The configuration of a text encoder of two layers."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKEN_LENGTH,
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )


def second_text(folder: Path) -> dict[str, Any]:
    """The further parts of SDXL: a tokenizer that fills up with another token, and a text encoder with projection."""
    tokenizer = save_tokenizer(folder / "tokenizer_2")
    tokenizer.pad_token = "!"
    config = text_config(tokenizer, SECOND_WIDTH, "gelu", projection_dim=POOLED)
    return {"tokenizer_2": tokenizer, "text_encoder_2": CLIPTextModelWithProjection(config)}


def parts(folder: Path, family: str = "sd15", prediction_type: str | None = None) -> dict[str, Any]:
    """Random networks with the differences between SD 1.5 (constant number of heads, ε), SD 2.1 (constant head width,
    linear projections, gelu, v) and SDXL (two text encoders, pooled text and sizes as conditions, ε). The ControlNet's
    zero convolutions are random, so that it has an effect."""
    torch.manual_seed(0)
    sd21, sdxl = family == "sd21", family == "sdxl"
    width = 24 if sd21 else 16
    tokenizer = save_tokenizer(folder / "tokenizer")
    text_encoder = CLIPTextModel(text_config(tokenizer, width, "gelu" if sd21 else "quick_gelu"))
    second = second_text(folder) if sdxl else {}
    width += SECOND_WIDTH if sdxl else 0
    added: dict[str, Any] = {}
    if sdxl:
        added = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": SIZE_WIDTH,
            "projection_class_embeddings_input_dim": POOLED + 6 * SIZE_WIDTH,
        }
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
    )
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=width,
        attention_head_dim=2 if family == "sd15" else (2, 4),
        use_linear_projection=sd21 or sdxl,
        **added,
    )
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8))
    with torch.no_grad():
        for parameter in controlnet.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.2)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type or ("v_prediction" if sd21 else "epsilon"),
    )
    return {
        "tokenizer": tokenizer,
        "text_encoder": text_encoder,
        "vae": vae,
        "unet": unet,
        "controlnet": controlnet,
        "scheduler": scheduler,
        **second,
    }


def save_prior(folder: Path, family: str = "sd15") -> Path:
    """Save a complete prior in diffusers' folder format."""
    for name, part in parts(folder, family).items():
        part.save_pretrained(folder / name)
    return folder
