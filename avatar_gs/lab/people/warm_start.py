"""The lifelike prior's networks with the mini prior's weights inside: the same levels below one finer level.

A latent cell covers the same part of the image at the mini prior's level k and at level k + 1 here, so that what the
mini prior knows of words, colours and poses can be kept. The new level starts as an average over 2 x 2 cells on the
way down and as a repetition on the way up; its residual blocks start at zero.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTokenizer

from avatar_gs.lab.train_prior.diffusion import WEIGHT_FILES, Architecture, Networks

ARCHITECTURE = Architecture(32, (64, 64, 96, 160), (2, 2, 4, 4), 2, (8, 16, 32, 64))
"""The mini prior's levels, a finer one, and a thin embedding of pose maps, since theirs is costly at 256 pixels."""
TOKEN_EMBEDDING = "embeddings.token_embedding.weight"
SIMILAR = {
    "jeans": "trousers", "leggings": "trousers", "jacket": "shirt", "coat": "shirt", "blouse": "shirt",
    "sweater": "shirt", "turtleneck": "shirt", "t": "shirt", "tank": "shirt", "crop": "shirt", "suit": "shirt",
    "dress": "skirt", "braid": "long", "braided": "long", "ponytail": "long", "bob": "short", "middle": "old",
    "aged": "old", "hand": "body",
}  # fmt: skip
"""Words that the mini prior was trained on, which words that it was not trained on start from."""
_DOWN, _CONTROL = re.compile(r"^down_blocks\.(\d+)\."), re.compile(r"^controlnet_down_blocks\.(\d+)\.")


@torch.no_grad()
def start_from_mini(networks: Networks, tokenizer: CLIPTokenizer, mini: Path) -> None:
    """Copy the mini prior's weights into ``networks`` of ``ARCHITECTURE``, in place.

    Args:
        mini: folder of the mini prior.
    """
    unet, controlnet = networks.unet, networks.controlnet
    for part, module in (("unet", unet), ("controlnet", controlnet)):
        module.load_state_dict(_inner_levels(_weights(mini, part)), strict=False)
        state = module.state_dict()
        average, centre = torch.zeros(3, 3), torch.zeros(3, 3)
        average[1:, 1:], centre[1, 1] = 0.25, 1.0
        _set_identity(state, "down_blocks.0.downsamplers.0.conv", average)
        if part == "unet":
            _set_identity(state, "up_blocks.2.upsamplers.0.conv", centre)
            for block in (0, 1):
                _set_identity(state, f"up_blocks.3.resnets.{block}.conv_shortcut", torch.ones(1, 1))
    text = _weights(mini, "text_encoder")
    known = CLIPTokenizer.from_pretrained(str(mini / "tokenizer")).get_vocab()
    own = networks.text_encoder.state_dict()
    prefix = next(name for name in own if name.endswith(TOKEN_EMBEDDING))
    for name, value in own.items():
        if name != prefix:
            value.copy_(text[name])
    for token, row in tokenizer.get_vocab().items():
        word, end = token.removesuffix("</w>"), "</w>" if token.endswith("</w>") else ""
        source = known.get(SIMILAR.get(word, word) + end)
        if source is not None:
            own[prefix][row] = text[prefix][source] + (0.2 * own[prefix][row] if word in SIMILAR else 0)


def _weights(folder: Path, part: str) -> dict[str, Tensor]:
    file = folder / part / WEIGHT_FILES.get(part, "diffusion_pytorch_model.safetensors")
    return {name: value.float() for name, value in load_file(file).items()}


def _inner_levels(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mini prior's weights by the names that they have below a finer level."""
    renamed = {}
    for name, value in weights.items():
        if name.startswith("controlnet_cond_embedding."):
            continue
        name = _DOWN.sub(lambda match: f"down_blocks.{int(match[1]) + 1}.", name)
        renamed[_CONTROL.sub(lambda match: f"controlnet_down_blocks.{int(match[1]) + 2}.", name)] = value
    return renamed


def _set_identity(state: Mapping[str, Tensor], name: str, kernel: Tensor) -> None:
    """Make a convolution filter its first channels by ``kernel``, in place; further input channels have no effect."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    weight.zero_()
    bias.zero_()
    for channel in range(weight.shape[0]):
        weight[channel, channel] = kernel
