"""The mini prior's networks and their joint training: text encoder, UNet and ControlNet at once.

The loss of a time step is weighted by ``min(1/ᾱ, 8) · min(1, 5/SNR)``; without it, colours in prompts have no effect
until late in the training.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from diffusers import ControlNetModel, DDPMScheduler, ModelMixin, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, PreTrainedModel

from avatar_gs.lab.train_prior.autoencoder import LATENTS
from avatar_gs.lab.train_prior.config import DiffusionConfig
from avatar_gs.lab.train_prior.training import OnStep, Training, cosine_rate

WIDTH, TEXT_LAYERS = 128, 3
CHANNELS = (64, 96, 160)
EMA_DECAY = 0.999


@dataclass(frozen=True)
class Networks:
    """The networks that are trained together."""

    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    controlnet: ControlNetModel

    def modules(self) -> dict[str, PreTrainedModel | ModelMixin]:
        """The networks by component name."""
        return {"text_encoder": self.text_encoder, "unet": self.unet, "controlnet": self.controlnet}

    def parameters(self) -> dict[str, nn.Parameter]:
        """All parameters by component and name."""
        return {
            f"{part}.{name}": value
            for part, module in self.modules().items()
            for name, value in module.named_parameters()
        }


@dataclass(frozen=True)
class LatentSet:
    """The encoded training set: P images with three captions each, of V views (P = V x recolourings)."""

    latents: Float[Tensor, "P 8 16 16"]
    controls: UInt8[Tensor, "V 128 128 3"]
    foreground: Float[Tensor, "V 16 16"]
    details: Float[Tensor, "V 16 16"]
    tokens: Int[Tensor, "P 3 64"]


def build_networks(tokenizer: CLIPTokenizer, seed: int = 0) -> Networks:
    """The untrained networks; residual blocks and the UNet's output start at zero."""
    torch.manual_seed(seed)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            num_hidden_layers=TEXT_LAYERS,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            hidden_act="quick_gelu",
            eos_token_id=cast(int, tokenizer.eos_token_id),
            bos_token_id=cast(int, tokenizer.bos_token_id),
            pad_token_id=cast(int, tokenizer.pad_token_id),
            projection_dim=WIDTH,
        )
    )
    nn.init.normal_(cast(nn.Embedding, text_encoder.get_input_embeddings()).weight, std=0.05)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENTS,
        out_channels=LATENTS,
        layers_per_block=1,
        block_out_channels=CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=(2, 4, 4),  # pyright: ignore[reportArgumentType]  # annotated as a tuple of one
        norm_num_groups=16,
    )
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(cast(Tensor, module.conv2.bias))
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(cast(Tensor, unet.conv_out.bias))
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 64, 64))
    nn.init.kaiming_normal_(controlnet.controlnet_cond_embedding.conv_out.weight)
    for network in (unet, controlnet):
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # its wrapper hides self
    return Networks(text_encoder, unet, controlnet)


def noise_schedule() -> DDPMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDPMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )


def train_diffusion(
    config: DiffusionConfig,
    data: LatentSet,
    tokenizer: CLIPTokenizer,
    checkpoint: Path,
    packaged: Path,
    on_step: OnStep,
) -> Networks:
    """Train, or resume from ``checkpoint``; returns the networks with the averaged (EMA) weights.

    Args:
        packaged: folder of the prior to start from with ``config.from_packaged``.
    """
    networks = build_networks(tokenizer)
    parameters = networks.parameters()
    if config.from_packaged and not checkpoint.exists():
        _load_packaged(networks, packaged)
    adam = torch.optim.AdamW(parameters.values(), lr=config.lr, betas=(0.9, 0.99), weight_decay=1e-3)
    empty = torch.tensor(tokenizer("", padding="max_length", truncation=True).input_ids)
    scheduler = noise_schedule()
    weights = time_weights(scheduler.alphas_cumprod)
    if config.compiled:
        for network in (networks.unet, networks.controlnet):
            network.compile()

    def loss_of(step: int) -> Float[Tensor, ""]:
        generator = torch.Generator().manual_seed(1_000_003 * 7 + step)
        # the flash kernel's backward pass costs more than a quarter of a step at these small sizes on a CPU
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            return _loss(networks, data, empty, scheduler, weights, config, generator)

    training = Training(
        config.steps,
        cosine_rate(config.lr, config.steps, warmup=50, hold=0.4, floor=0.02),
        checkpoint,
        config.checkpoint_every,
        on_step,
        average=lambda step: 1 - min(EMA_DECAY, (1 + step) / (10 + step)),
    )
    average = training.run(parameters, adam, loss_of)
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(average[name])
    return networks


def time_weights(alphas_cumprod: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    """Loss weight of each time step; the mean is 1."""
    snr = alphas_cumprod / (1 - alphas_cumprod)
    weights = (1 / alphas_cumprod).clamp(max=8) * (5 / snr).clamp(max=1)
    return weights / weights.mean()


def place_weights(foreground: Float[Tensor, "B 16 16"], details: Float[Tensor, "B 16 16"]) -> Float[Tensor, "B 16 16"]:
    """Loss weight of each latent cell; the mean of an image is 1. The person weighs three times as much as the
    background, hair, hats, faces, stripes and shoes six times.

    Both are dilated by one cell, so that the two sides of an outline have the same weight; otherwise the network learns
    outlines that are too wide.
    """
    person, small = (functional.max_pool2d(cover, 3, stride=1, padding=1) for cover in (foreground, details))
    weights = 1 + 2 * person + 3 * small
    return weights / weights.mean((1, 2), keepdim=True)


def _loss(
    networks: Networks,
    data: LatentSet,
    empty: Int[Tensor, " 64"],
    scheduler: DDPMScheduler,
    weights: Float[Tensor, " T"],
    config: DiffusionConfig,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Weighted noise-prediction error; time steps are stratified over the batch."""
    batch = config.batch
    picks = torch.randint(len(data.latents), (batch,), generator=generator)
    views = picks // (len(data.latents) // len(data.controls))
    tokens = data.tokens[picks, torch.randint(data.tokens.shape[1], (batch,), generator=generator)].long()
    dropped = torch.rand(batch, generator=generator) < config.caption_dropout
    tokens = torch.where(dropped[:, None], empty, tokens)
    kept = (torch.rand(batch, generator=generator) >= config.control_dropout).float()[:, None, None, None]
    t = ((torch.arange(batch) + torch.rand(batch, generator=generator)) / batch * 1000).long().clamp(0, 999)
    latents = data.latents[picks].float()
    noise = torch.randn(latents.shape, generator=generator)
    noisy = scheduler.add_noise(latents, noise, t)  # pyright: ignore[reportArgumentType]  # says IntTensor, takes long
    noisy = noisy.contiguous(memory_format=torch.channels_last)
    control = data.controls[views].permute(0, 3, 1, 2).float() / 255
    text = networks.text_encoder(tokens).last_hidden_state
    down, middle = networks.controlnet(noisy, t, encoder_hidden_states=text, controlnet_cond=control, return_dict=False)
    predicted = networks.unet(
        noisy,
        t,
        encoder_hidden_states=text,
        down_block_additional_residuals=[residual * kept for residual in down],
        mid_block_additional_residual=middle * kept,
    ).sample
    where = place_weights(data.foreground[views].float(), data.details[views].float())[:, None]
    error = (predicted.float() - noise).square() * where
    return (error.mean((1, 2, 3)) * weights[t]).mean()


def _load_packaged(networks: Networks, folder: Path) -> None:
    files = {"text_encoder": "model.safetensors"}
    for part, module in networks.modules().items():
        path = folder / part / files.get(part, "diffusion_pytorch_model.safetensors")
        module.load_state_dict({name: value.float() for name, value in load_file(path).items()})
