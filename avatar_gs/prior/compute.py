"""How a prior computes: device, number formats and what saves memory."""

import logging
from dataclasses import dataclass, field

import torch

from avatar_gs.prior.config import EncoderKeeps, Precision, PriorConfig, VaePrecision

LOGGER = logging.getLogger(__name__)

DECODE_BATCH = 8
"""Images that a VAE decodes at once at most."""
DTYPES = {Precision.float32: torch.float32, Precision.float16: torch.float16, Precision.bfloat16: torch.bfloat16}


@dataclass(frozen=True)
class Compute:
    """Device, number formats, the ControlNet's factor, the tiny encoder's fraction of a run, and how memory is saved.

    Only chunks, ``checkpoint_encoder``, ``encoder_keeps`` and ``offload_text`` change no result.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    """Of UNet and ControlNet; the VAE's decoder and the text encoder always compute in float32."""
    encoder_dtype: torch.dtype = torch.float32
    """Of the image encoders."""
    control_scale: float = 1.0
    """Factor on the ControlNet's residuals; 0 leaves it out."""
    encode_chunk: int = 0
    """Images that the VAE encodes or decodes at once; 0: all."""
    predict_chunk: int = 0
    """Images that UNet and ControlNet see at once; 0: all."""
    checkpoint_encoder: bool = False
    """Whether the VAE's encoder is computed again in its backward pass."""
    encoder_keeps: EncoderKeeps = EncoderKeeps.auto
    tiny_until: float = 1.0
    """Fraction of a run's steps during which the tiny encoder, if there is one, encodes renders."""
    offload_text: bool = False
    """Whether the text encoder is on the CPU except while encoding prompts."""

    @classmethod
    def of(cls, config: PriorConfig, device: torch.device | str) -> "Compute":
        """The settings' choice on ``device``."""
        return cls(
            device=torch.device(device),
            dtype=choose_dtype(config.precision, device),
            encoder_dtype=choose_vae_dtype(config, device),
            control_scale=config.control_scale,
            encode_chunk=config.encode_chunk,
            predict_chunk=config.predict_chunk,
            checkpoint_encoder=config.checkpoint_encoder,
            encoder_keeps=config.encoder_keeps,
            tiny_until=config.tiny_until,
            offload_text=config.offload_text,
        )


def choose_dtype(precision: Precision, device: torch.device | str) -> torch.dtype:
    """The number format of UNet and ControlNet on ``device``."""
    if torch.device(device).type == "cpu" and precision is Precision.float16:
        LOGGER.warning("prior.precision=float16 is slow and inexact on a CPU: computing in float32")
        return torch.float32
    return DTYPES[precision]


def choose_vae_dtype(config: PriorConfig, device: torch.device | str) -> torch.dtype:
    """The number format of the image encoders on ``device``.

    ``auto`` takes float16 where the networks compute in either 16-bit format: bfloat16's 8 bits leave the image's
    gradient at a cosine of .9991 with float32's (SD's VAE with random weights, 256²), float16's 11 bits at .99999.
    """
    on_cpu = torch.device(device).type == "cpu"
    if config.vae_precision is VaePrecision.auto:
        return torch.float32 if on_cpu or config.precision is Precision.float32 else torch.float16
    if on_cpu and config.vae_precision is VaePrecision.float16:
        LOGGER.warning("prior.vae_precision=float16 is slow on a CPU: computing in float32")
        return torch.float32
    return DTYPES[Precision[config.vae_precision.name]]


def choose_encoder_keeps(keeps: EncoderKeeps, device: torch.device | str) -> EncoderKeeps:
    """The layers of the VAE's encoder on ``device``, with ``auto`` resolved."""
    if keeps is not EncoderKeeps.auto:
        return keeps
    return EncoderKeeps.least if torch.device(device).type == "cpu" else EncoderKeeps.convolutions
