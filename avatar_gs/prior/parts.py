"""The components of a prior, and whether they belong together."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from avatar_gs.core.errors import UserError

OTHER_CONDITIONS = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type")
"""Settings of UNets that need more inputs than time and text."""
SCALING_FACTOR, SCALE_TOLERANCE = 0.18215, 0.01
"""Of the latents of Stable Diffusion 1.x and 2.x, and the relative tolerance of another VAE's."""


@dataclass(frozen=True)
class Parts:
    """The components of a Stable Diffusion prior.

    Raises:
        UserError: when made of components that do not belong together.
    """

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    unet: UNet2DConditionModel
    controlnet: ControlNetModel
    scheduler: DDIMScheduler
    tiny: AutoencoderTiny | None = None

    def __post_init__(self) -> None:
        _check_prediction_type(self.scheduler)
        _check_text_widths(self.text_encoder, self.unet, self.controlnet)
        _check_unet(self.unet)
        _check_vae(self.vae, self.unet)
        if self.tiny is not None:
            _check_tiny(self.tiny, self.vae)


def check_vae_scale(vae: Any, config: Path) -> None:
    """Check a VAE that replaces the prior's own.

    Args:
        vae: the replacement.
        config: the ``config.json`` of the prior's own VAE; it need not exist.

    Raises:
        UserError: if it scales its latents differently, as those of other models do.
    """
    content = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    expected, found = content.get("scaling_factor", SCALING_FACTOR), vae.config.scaling_factor
    if abs(found / expected - 1) > SCALE_TOLERANCE:
        raise UserError(
            f"prior.vae: it scales its latents by {found}, this prior's by {expected}: it belongs to another model "
            "(Stable Diffusion XL's is .13025); expected a VAE of Stable Diffusion 1.x or 2.x"
        )


def _check_prediction_type(scheduler: Any) -> None:
    prediction_type = scheduler.config.prediction_type
    if prediction_type not in ("epsilon", "v_prediction"):
        raise UserError(f"prior: prediction_type={prediction_type} in its scheduler: expected epsilon or v_prediction")


def _check_text_widths(text_encoder: Any, unet: Any, controlnet: Any) -> None:
    widths = {
        "text encoder": text_encoder.config.hidden_size,
        "UNet": unet.config.cross_attention_dim,
        "ControlNet": controlnet.config.cross_attention_dim,
    }
    if len(set(widths.values())) > 1:
        found = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise UserError(
            f"prior: its parts read text of different widths ({found}): give a ControlNet (prior.controlnet=…) that "
            "was made for this prior; Stable Diffusion 1.5 is 768 wide, 2.1 is 1024"
        )
    if _blocks(controlnet) != _blocks(unet):
        raise UserError(
            "prior: the ControlNet has other blocks than the UNet (channels, layers a block): give one with "
            "prior.controlnet=… that was made for this prior"
        )


def _blocks(network: Any) -> tuple[list[int], list[int]]:
    """Channels and layers of each of a UNet's downsampling blocks."""
    channels, layers = list(network.config.block_out_channels), network.config.layers_per_block
    return channels, [layers] * len(channels) if isinstance(layers, int) else list(layers)


def _check_unet(unet: Any) -> None:
    conditions = [name for name in OTHER_CONDITIONS if getattr(unet.config, name, None) is not None]
    if conditions or unet.config.out_channels != unet.config.in_channels:
        found = f"reads more than text ({', '.join(conditions)})" if conditions else "predicts more than the noise"
        raise UserError(f"prior: its UNet {found}: expected a text-to-image Stable Diffusion 1.x or 2.x")


def _check_vae(vae: Any, unet: Any) -> None:
    if getattr(vae.config, "latents_mean", None) is not None:
        raise UserError(
            "prior: its VAE shifts each channel of its latents (latents_mean), which Stable Diffusion 1.x and 2.x do "
            "not: give another with prior.vae=…"
        )
    if unet.config.in_channels != vae.config.latent_channels:
        raise UserError(
            f"prior: the UNet reads {unet.config.in_channels} channels, the VAE makes {vae.config.latent_channels}: "
            "inpainting models and foreign VAEs do not serve; expected a text-to-image model"
        )


def _check_tiny(tiny: Any, vae: Any) -> None:
    expected = int(vae.config.latent_channels), 2 ** (len(vae.config.block_out_channels) - 1)
    found = int(tiny.config.latent_channels), 2 ** (len(tiny.config.encoder_block_out_channels) - 1)
    if found != expected:
        raise UserError(
            f"prior.tiny_encoder: its latents have {found[0]} channels at 1/{found[1]} of the image's size, the VAE's "
            f"{expected[0]} at 1/{expected[1]}: expected an AutoencoderTiny distilled from this prior's VAE "
            "(madebyollin/taesd for Stable Diffusion 1.x and 2.x)"
        )
