"""The networks of both worlds' priors and their joint training: text encoder, UNet and ControlNet at once.

The loss of a timestep is weighted by ``min(1/ᾱ, 8) · min(1, 5/SNR)``; without it, colours in prompts have no effect
until late in the training.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import torch
from diffusers import ControlNetModel, DDPMScheduler, ModelMixin, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, PreTrainedModel

from avatar_gs.core.errors import UserError, first_line
from avatar_gs.lab.train_prior.autoencoder import LATENTS
from avatar_gs.lab.train_prior.config import DenoiserConfig
from avatar_gs.lab.train_prior.training import OnStep, Training, cosine_rate

WIDTH, TEXT_LAYERS = 128, 3
EMA_DECAY = 0.999
WEIGHT_FILES = {"text_encoder": "model.safetensors"}
"""Names of weight files, where they are not ``diffusion_pytorch_model.safetensors``."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of UNet and ControlNet."""

    latent_size: int
    """Side of the latents."""
    channels: tuple[int, ...]
    """Widths of the levels, from fine to coarse."""
    heads: tuple[int, ...]
    """Attention heads of the levels."""
    attention_levels: int
    """Number of the coarsest levels that have attention."""
    control_channels: tuple[int, ...]
    """Widths of the pose map's embedding, whose side is halved between two of them."""


MINI = Architecture(16, (64, 96, 160), (2, 4, 4), 2, (16, 32, 64, 64))


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
class Batch:
    """Encoded images with pose maps and captions."""

    latents: Float[Tensor, "B 8 h w"]
    controls: UInt8[Tensor, "B S S 3"]
    foreground: Float[Tensor, "B h w"]
    """Fraction of each latent cell covered by the person."""
    details: Float[Tensor, "B h w"]
    """The same for details."""
    tokens: Int[Tensor, "B C L"]
    """Token ids of each image's captions."""

    def to(self, device: torch.device) -> "Batch":
        """The batch on another device."""
        return replace(self, **{entry.name: getattr(self, entry.name).to(device) for entry in fields(self)})


@runtime_checkable
class TrainingSet(Protocol):
    """An encoded training set."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def batch(self, picks: Int[Tensor, " B"]) -> Batch:
        """The images with these indices."""
        ...


@dataclass(frozen=True)
class LatentSet:
    """The mini world's encoded training set: P images of V views (P = V x recolourings)."""

    latents: Float[Tensor, "P 8 16 16"]
    controls: UInt8[Tensor, "V 128 128 3"]
    foreground: Float[Tensor, "V 16 16"]
    details: Float[Tensor, "V 16 16"]
    tokens: Int[Tensor, "P C 64"]

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, picks: Int[Tensor, " B"]) -> Batch:
        """The images with these indices."""
        views = picks // (len(self.latents) // len(self.controls))
        covers = self.foreground[views].float(), self.details[views].float()
        return Batch(self.latents[picks].float(), self.controls[views], *covers, self.tokens[picks].long())


def build_networks(tokenizer: CLIPTokenizer, architecture: Architecture = MINI, seed: int = 0) -> Networks:
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
    levels = len(architecture.channels)
    attention = [level >= levels - architecture.attention_levels for level in range(levels)]
    unet = UNet2DConditionModel(
        sample_size=architecture.latent_size,
        in_channels=LATENTS,
        out_channels=LATENTS,
        layers_per_block=1,
        block_out_channels=architecture.channels,
        # diffusers annotates these as tuples of fixed lengths
        down_block_types=tuple("CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attention),  # pyright: ignore[reportArgumentType]
        up_block_types=tuple("CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attention)),  # pyright: ignore[reportArgumentType]
        cross_attention_dim=WIDTH,
        attention_head_dim=architecture.heads,  # pyright: ignore[reportArgumentType]
        norm_num_groups=16,
    )
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(cast(Tensor, module.conv2.bias))
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(cast(Tensor, unet.conv_out.bias))
    embedding = architecture.control_channels
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=embedding)  # pyright: ignore[reportArgumentType]
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
    config: DenoiserConfig,
    networks: Networks,
    data_at: Callable[[int], TrainingSet],
    tokenizer: CLIPTokenizer,
    checkpoint: Path,
    on_step: OnStep,
    first_batch: int = 0,
    on_checkpoint: Callable[[Networks, int], object] | None = None,
) -> Networks:
    """Train the networks in place, or resume from ``checkpoint``; they end with the averaged (EMA) weights.

    Args:
        networks: on the device to train on.
        data_at: the training set of a step.
        on_checkpoint: called with the networks, which then have the averaged weights, and the number of steps done,
            after every checkpoint.
        first_batch: index of the first step's random batch, so that a training that continues another one sees other
            batches.
    """
    parameters = networks.parameters()
    device = networks.unet.device
    adam = torch.optim.AdamW(parameters.values(), lr=config.lr, betas=(0.9, 0.99), weight_decay=1e-3)
    empty = torch.tensor(tokenizer("", padding="max_length", truncation=True).input_ids)
    scheduler = noise_schedule()
    weights = time_weights(scheduler.alphas_cumprod)
    if config.compiled:
        for network in (networks.unet, networks.controlnet):
            network.compile()
    # the flash kernel's backward pass costs more than a quarter of a step at these small sizes on a CPU
    attention = partial(sdpa_kernel, SDPBackend.MATH) if device.type == "cpu" else nullcontext

    def loss_of(step: int) -> Float[Tensor, ""]:
        generator = torch.Generator().manual_seed(1_000_003 * 7 + first_batch + step)
        data = data_at(step)  # autocast has no rules for float16
        with attention(), torch.autocast(device.type, torch.bfloat16, enabled=config.bfloat16):
            return _loss(networks, data, empty, scheduler, weights, config, generator)

    def use(average: Mapping[str, Tensor], done: int) -> None:
        if on_checkpoint is not None:
            current = {name: value.detach().clone() for name, value in parameters.items()}
            on_checkpoint(_with_weights(networks, average), done)
            _with_weights(networks, current)

    training = Training(
        config.steps,
        cosine_rate(config.lr, config.steps, warmup=50, hold=0.4, floor=0.02),
        checkpoint,
        config.checkpoint_every,
        on_step,
        average=lambda step: 1 - min(EMA_DECAY, (1 + step) / (10 + step)),
        on_checkpoint=use,
    )
    return _with_weights(networks, training.run(parameters, adam, loss_of))


@torch.no_grad()
def _with_weights(networks: Networks, weights: Mapping[str, Tensor]) -> Networks:
    for name, value in networks.parameters().items():
        value.copy_(weights[name])
    return networks


def time_weights(alphas_cumprod: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    """Loss weight of each timestep; the mean is 1."""
    snr = alphas_cumprod / (1 - alphas_cumprod)
    weights = (1 / alphas_cumprod).clamp(max=8) * (5 / snr).clamp(max=1)
    return weights / weights.mean()


def place_weights(foreground: Float[Tensor, "B h w"], details: Float[Tensor, "B h w"]) -> Float[Tensor, "B h w"]:
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
    data: TrainingSet,
    empty: Int[Tensor, " 64"],
    scheduler: DDPMScheduler,
    weights: Float[Tensor, " T"],
    config: DenoiserConfig,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Weighted noise-prediction error; timesteps are stratified over the batch."""
    size, device = config.batch, networks.unet.device
    picks = torch.randint(len(data), (size,), generator=generator)
    batch = data.batch(picks).to(device)
    chosen = torch.randint(batch.tokens.shape[1], (size,), generator=generator)
    dropped = torch.rand(size, generator=generator) < config.caption_dropout
    kept = (torch.rand(size, generator=generator) >= config.control_dropout).float()[:, None, None, None]
    t = ((torch.arange(size) + torch.rand(size, generator=generator)) / size * 1000).long().clamp(0, 999)
    noise = torch.randn(batch.latents.shape, generator=generator)
    chosen, dropped, kept, t, noise = (value.to(device) for value in (chosen, dropped, kept, t, noise))
    tokens = torch.where(dropped[:, None], empty.to(device), batch.tokens[torch.arange(size, device=device), chosen])
    noisy = scheduler.add_noise(batch.latents, noise, t)  # pyright: ignore[reportArgumentType]  # says IntTensor, takes long
    noisy = noisy.contiguous(memory_format=torch.channels_last)
    control = batch.controls.permute(0, 3, 1, 2).float() / 255
    text = networks.text_encoder(tokens).last_hidden_state
    down, middle = networks.controlnet(noisy, t, encoder_hidden_states=text, controlnet_cond=control, return_dict=False)
    predicted = networks.unet(
        noisy,
        t,
        encoder_hidden_states=text,
        down_block_additional_residuals=[residual * kept for residual in down],
        mid_block_additional_residual=middle * kept,
    ).sample
    where = place_weights(batch.foreground, batch.details)[:, None]
    error = (predicted.float() - noise).square() * where
    return (error.mean((1, 2, 3)) * weights.to(device)[t]).mean()


def load_networks(networks: Networks, folder: Path) -> None:
    """Load a packaged prior's weights in place.

    Raises:
        UserError: if a file is missing, or its weights are of another architecture.
    """
    for part, module in networks.modules().items():
        path = folder / part / WEIGHT_FILES.get(part, "diffusion_pytorch_model.safetensors")
        try:
            module.load_state_dict({name: value.float() for name, value in load_file(path).items()})
        except (OSError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{path}: expected weights of this prior's {part}; {first_line(error)}") from error
