"""The architectures of SD 1.5 and SD 2.1 (packaged layouts) with random weights, in full or with few channels, and the
same weights under the names of single-file checkpoints."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (diffusers' annotations are narrower than its behaviour)

import json
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from avatar_gs.prior.loading import single_file
from tests import tiny

FAMILIES = ("sd15", "sd21")
FEW_WIDTHS = {16: "sd15", 32: "sd21"}
FEW = {
    "unet": {"block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4},
    "vae": {"block_out_channels": [4, 4, 8, 8], "norm_num_groups": 2},
    "controlnet": {"conditioning_embedding_out_channels": [4, 4, 8, 8]},
    "text_encoder": {"num_attention_heads": 2},
}
"""Replacements for the numbers of channels; everything else is unchanged."""


def layout(family: str, name: str) -> dict[str, Any]:
    """The packaged configuration of a component."""
    (file,) = (single_file.LAYOUTS / family / name).glob("*.json")
    return json.loads(file.read_text())


def with_few_channels(family: str, name: str, words: int) -> dict[str, Any]:
    """The configuration with few channels and a vocabulary of ``words`` tokens."""
    config = layout(family, name) | FEW.get(name, {})
    width = {layout: width for width, layout in FEW_WIDTHS.items()}[family]
    if name in ("unet", "controlnet"):
        heads = {"attention_head_dim": [1, 1, 2, 2] if family == "sd21" else 2}
        config |= FEW["unet"] | heads | {"cross_attention_dim": width}
    if name == "text_encoder":
        config |= {"hidden_size": width, "intermediate_size": 2 * width, "vocab_size": words}
    return config


def save_layouts(folder: Path, words: int) -> Path:
    """Save the packaged layouts with few channels."""
    for family in FAMILIES:
        for file in (single_file.LAYOUTS / family).glob("*/*.json"):
            target = folder / family / file.parent.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(with_few_channels(family, file.parent.name, words)))
    return folder


def networks(configs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Random networks from configurations; the ControlNet has an effect."""
    torch.manual_seed(0)
    made = {
        "text_encoder": CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])),
        "vae": AutoencoderKL.from_config(configs["vae"]),
        "unet": UNet2DConditionModel.from_config(configs["unet"]),
        "controlnet": ControlNetModel.from_config(configs["controlnet"]),
        "scheduler": DDIMScheduler.from_config(configs["scheduler"]),
    }
    with torch.no_grad():
        for parameter in made["controlnet"].parameters():
            if not parameter.is_meta and not parameter.any():
                parameter.normal_(0, 0.2)
    return made


def few(folder: Path, family: str, **changes: dict[str, Any]) -> dict[str, Any]:
    """All parts of a prior with few channels; ``changes`` override configurations by component."""
    tokenizer = tiny.save_tokenizer(folder / "tokenizer")
    names = ("text_encoder", "vae", "unet", "controlnet", "scheduler")
    configs = {name: with_few_channels(family, name, len(tokenizer)) | changes.get(name, {}) for name in names}
    configs["text_encoder"] |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos")}
    return {"tokenizer": tokenizer, **networks(configs)}


def whole(folder: Path, family: str, latent_size: int) -> dict[str, Any]:
    """All parts in full size (1.3 to 1.7 billion parameters), for images of 8 times ``latent_size``."""
    tokenizer = tiny.save_tokenizer(folder / "tokenizer")
    configs = {name: layout(family, name) for name in ("text_encoder", "vae", "unet", "controlnet", "scheduler")}
    configs["unet"]["sample_size"] = latent_size
    configs["text_encoder"] |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos")}
    return {"tokenizer": tokenizer, **networks(configs)}


# ---- names of the original implementation, from the public conversion tables

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    r"time_embedding\.linear_1\.": "time_embed.0.",
    r"time_embedding\.linear_2\.": "time_embed.2.",
    r"conv_in\.": "input_blocks.0.0.",
    r"conv_norm_out\.": "out.0.",
    r"conv_out\.": "out.2.",
    r"mid_block\.attentions\.0\.": "middle_block.1.",
}
_OPEN_CLIP = {
    r"embeddings\.token_embedding\.weight": "token_embedding.weight",
    r"embeddings\.position_embedding\.weight": "positional_embedding",
    r"final_layer_norm\.": "ln_final.",
    r"encoder\.layers\.": "transformer.resblocks.",
    r"layer_norm1\.": "ln_1.",
    r"layer_norm2\.": "ln_2.",
    r"mlp\.fc1\.": "mlp.c_fc.",
    r"mlp\.fc2\.": "mlp.c_proj.",
    r"self_attn\.out_proj\.": "attn.out_proj.",
}


def _replaced(key: str, table: dict[str, str]) -> str:
    for pattern, replacement in table.items():
        key = re.sub(f"(^|(?<=\\.)){pattern}", replacement, key)
    return key


def _block_key(key: str) -> str:
    """Key of a down, middle or up block: resnet (0), attention (1) and resampler have one index each in a flat list."""
    if match := re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", key):
        side, block, layer, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if layer == "downsamplers":
            return f"input_blocks.{3 * block + 3}.0.{rest.replace('conv.', 'op.')}"
        if layer == "upsamplers":
            return f"output_blocks.{3 * block + 2}.{1 if block == 0 else 2}.{rest}"
        place = 3 * block + index + 1 if side == "down" else 3 * block + index
        part = "0" if layer == "resnets" else "1"
        return f"{'input' if side == 'down' else 'output'}_blocks.{place}.{part}.{_resnet(layer, rest)}"
    if match := re.match(r"mid_block\.resnets\.(\d)\.(.*)", key):
        return f"middle_block.{2 * int(match[1])}.{_resnet('resnets', match[2])}"
    return _replaced(key, _UNET)


def _resnet(layer: str, rest: str) -> str:
    name, _, last = rest.rpartition(".")
    return f"{_RESNET[name]}.{last}" if layer == "resnets" else rest


def unet_to_ldm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {_block_key(key): value for key, value in state.items()}


def controlnet_to_ldm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    hints = {"conv_in": 0, **{f"blocks.{i}": 2 * i + 2 for i in range(6)}, "conv_out": 14}
    renamed = {}
    for key, value in state.items():
        if match := re.match(r"controlnet_cond_embedding\.(.*)\.(weight|bias)", key):
            key = f"input_hint_block.{hints[match[1]]}.{match[2]}"
        elif match := re.match(r"controlnet_down_blocks\.(\d+)\.(.*)", key):
            key = f"zero_convs.{match[1]}.0.{match[2]}"
        elif match := re.match(r"controlnet_mid_block\.(.*)", key):
            key = f"middle_block_out.0.{match[1]}"
        else:
            key = _block_key(key)
        renamed[key] = value
    return renamed


def vae_to_ldm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        key = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", key)
        key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
        key = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}", key)
        key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", key)
        key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
        key = key.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_shortcut", "nin_shortcut")
        key = key.replace("conv_norm_out", "norm_out").replace("group_norm", "norm").replace("to_out.0", "proj_out")
        key = re.sub(r"to_([qkv])\.", r"\1.", key)
        if "attn_1" in key and value.ndim == 2:
            value = value[:, :, None, None]
        renamed[key] = value
    return renamed


def text_to_ldm(state: dict[str, Tensor], family: str) -> dict[str, Tensor]:
    state = {key.removeprefix("text_model."): value for key, value in state.items()}
    if family == "sd15":
        renamed = {f"transformer.text_model.{key}": value for key, value in state.items()}
        return renamed | {"transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}
    renamed, parts = {}, {}
    for key, value in state.items():
        if match := re.match(r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", key):
            parts[int(match[1]), match[3], match[2]] = value
        else:
            renamed[f"model.{_replaced(key, _OPEN_CLIP)}"] = value
    for index, last in {(index, last) for index, last, _ in parts}:
        joint = torch.cat([parts[index, last, part] for part in "qkv"])
        renamed[f"model.transformer.resblocks.{index}.attn.in_proj_{last}"] = joint
    width = len(state["final_layer_norm.weight"])
    ignored = {f"model.transformer.resblocks.23.{name}": torch.zeros(width) for name in ("ln_1.weight", "ln_2.bias")}
    return renamed | ignored | {"model.text_projection": torch.eye(width), "model.logit_scale": torch.tensor(1.0)}


def checkpoint(parts: dict[str, Any], family: str) -> dict[str, Tensor]:
    """A complete single-file checkpoint, including entries that real ones have in addition to the weights."""
    named = {
        "unet": unet_to_ldm(parts["unet"].state_dict()),
        "vae": vae_to_ldm(parts["vae"].state_dict()),
        "text_encoder": text_to_ldm(parts["text_encoder"].state_dict(), family),
    }
    tensors = {
        f"{single_file.PREFIXES[name]}{key}": value for name, part in named.items() for key, value in part.items()
    }
    others = {
        "betas": torch.zeros(1000),
        "model_ema.decay": torch.tensor(0.9),
        "cond_stage_model.logvar": torch.zeros(1),
    }
    return {key: value.clone().contiguous() for key, value in (tensors | others).items()}
