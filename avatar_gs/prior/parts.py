"""The components of a prior, and whether they belong together."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from avatar_gs.core.errors import UserError
from avatar_gs.prior.denoiser import POOLED, pooled_width

OTHER_CONDITIONS = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type")
"""Settings of UNets that need more inputs than time and text. Stable Diffusion XL has the first of them."""
SCALING_FACTOR, SCALE_TOLERANCE = 0.18215, 0.01
"""Of the latents of Stable Diffusion 1.x and 2.x, and the relative tolerance of another VAE's."""


@dataclass(frozen=True)
class Parts:
    """The components of a Stable Diffusion prior; those of Stable Diffusion XL have a second tokenizer and encoder.

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
    tokenizer_2: CLIPTokenizer | None = None
    text_encoder_2: CLIPTextModelWithProjection | None = None

    def __post_init__(self) -> None:
        text, unet, controlnet, vae = (
            part.config for part in (self.text_encoder, self.unet, self.controlnet, self.vae)
        )
        second = None if self.text_encoder_2 is None else self.text_encoder_2.config
        _check_scheduler_and_unet(self.scheduler.config, unet, second)
        _check_text_and_blocks(text, unet, controlnet, second)
        _check_vae(vae, unet)
        if self.tiny is not None:
            _check_tiny(self.tiny.config, vae)


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


def _check_scheduler_and_unet(scheduler: Any, unet: Any, second: Any) -> None:
    if scheduler.prediction_type not in ("epsilon", "v_prediction"):
        raise UserError(
            f"prior: prediction_type={scheduler.prediction_type} in its scheduler: expected epsilon or v_prediction"
        )
    conditions = [name for name in OTHER_CONDITIONS if getattr(unet, name, None) is not None]
    if second is not None and unet.addition_embed_type == POOLED:
        conditions.remove("addition_embed_type")
    if conditions or unet.out_channels != unet.in_channels:
        found = f"reads more than text ({', '.join(conditions)})" if conditions else "predicts more than the noise"
        raise UserError(
            f"prior: its UNet {found}: expected text-to-image: Stable Diffusion 1.x, 2.x or XL (base, with the folders "
            "text_encoder_2 and tokenizer_2)"
        )


def _check_text_and_blocks(text: Any, unet: Any, controlnet: Any, second: Any) -> None:
    widths = {
        "text encoder": text.hidden_size + (second.hidden_size if second is not None else 0),
        "UNet": unet.cross_attention_dim,
        "ControlNet": controlnet.cross_attention_dim,
    }
    if len(set(widths.values())) > 1:
        found = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise UserError(
            f"prior: its parts read text of different widths ({found}): give a ControlNet (prior.controlnet=…) that "
            "was made for this prior; Stable Diffusion 1.5 is 768 wide, 2.1 is 1024, XL is 2048"
        )
    pooled = 0 if second is None else int(second.projection_dim)
    if {pooled_width(unet), pooled_width(controlnet)} != {pooled}:
        raise UserError(
            "prior: text encoders, UNet and ControlNet read different pooled texts "
            f"({pooled}, {pooled_width(unet)} and {pooled_width(controlnet)} numbers): give a ControlNet "
            "(prior.controlnet=…) that was made for this prior"
        )
    if _blocks(controlnet) != _blocks(unet):
        raise UserError(
            "prior: the ControlNet has other blocks than the UNet (channels, layers a block): give one with "
            "prior.controlnet=… that was made for this prior"
        )


def _blocks(unet: Any) -> tuple[list[int], list[int]]:
    """Channels and layers of each of a UNet's downsampling blocks."""
    channels, layers = list(unet.block_out_channels), unet.layers_per_block
    return channels, [layers] * len(channels) if isinstance(layers, int) else list(layers)


def _check_vae(vae: Any, unet: Any) -> None:
    if getattr(vae, "latents_mean", None) is not None:
        raise UserError(
            "prior: its VAE shifts each channel of its latents (latents_mean), which Stable Diffusion 1.x and 2.x do "
            "not: give another with prior.vae=…"
        )
    if unet.in_channels != vae.latent_channels:
        raise UserError(
            f"prior: the UNet reads {unet.in_channels} channels, the VAE makes {vae.latent_channels}: "
            "inpainting models and foreign VAEs are not supported; expected a text-to-image model"
        )


def _check_tiny(tiny: Any, vae: Any) -> None:
    expected = int(vae.latent_channels), 2 ** (len(vae.block_out_channels) - 1)
    found = int(tiny.latent_channels), 2 ** (len(tiny.encoder_block_out_channels) - 1)
    if found != expected:
        raise UserError(
            f"prior.tiny_encoder: its latents have {found[0]} channels at 1/{found[1]} of the image's size, the VAE's "
            f"{expected[0]} at 1/{expected[1]}: expected an AutoencoderTiny distilled from this prior's VAE "
            "(madebyollin/taesd for Stable Diffusion 1.x and 2.x)"
        )
