"""The mini prior's autoencoder: a stock AutoencoderKL, trained from an exact linear thumbnail.

Started at random, so small a VAE learns colours late or never on a CPU. The linear start copies colours through
± channel pairs (``silu(x) - silu(-x) = x``) and a constant ±K pair that pins GroupNorm's scale; downsamplers average,
upsamplers smooth, and three latents begin as RGB.
"""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.downsampling import Downsample2D
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from avatar_gs.lab.train_prior.checkpoint import restore, save
from avatar_gs.lab.train_prior.config import AutoencoderConfig

CHANNELS = (16, 16, 32, 64)
LATENTS = 8
"""Four carry colours and little more: faces of 60 pixels stay smeared."""
COLOURS = range(6)
"""Channels that carry +RGB and -RGB in the linear start; the next two carry the constant."""
CONSTANT, LATENT_SCALE = 3.0, 2.0
DETAIL_STD = 0.7
"""Spread of the latents beside the colours, which have 1: smaller, and guidance would not see details until its end."""
KL_WEIGHT, DETAIL_WEIGHT = 1e-5, 16.0
Progress = Callable[[int, int, float], None]
"""Called with (steps done, steps in all, loss)."""


def build_autoencoder(seed: int = 0, size: int = 128) -> AutoencoderKL:
    """An AutoencoderKL (f=8, 8 latents) at the linear start: decoding an encoding gives a smooth thumbnail."""
    torch.manual_seed(seed)
    levels = len(CHANNELS)
    vae = AutoencoderKL(
        sample_size=size,
        # diffusers annotates these three as tuples of one
        down_block_types=("DownEncoderBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
        block_out_channels=CHANNELS,  # pyright: ignore[reportArgumentType]
        layers_per_block=1,
        latent_channels=LATENTS,
        norm_num_groups=CHANNELS[0] // 8,
        mid_block_add_attention=False,
    )
    _initialise(vae)
    with torch.no_grad():
        _linear_start(vae)
    return vae.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # its wrapper hides self


def posterior(vae: AutoencoderKL, images: Float[Tensor, "B 3 H W"]) -> DiagonalGaussianDistribution:
    """The distribution of the (unscaled) latents of images in [-1, 1]."""
    return cast(AutoencoderKLOutput, vae.encode(images)).latent_dist


def decode(vae: AutoencoderKL, latents: Float[Tensor, "B 8 h w"]) -> Float[Tensor, "B 3 H W"]:
    """The images, near [-1, 1], of unscaled latents."""
    decoded = vae.decode(latents)  # pyright: ignore[reportArgumentType]  # says FloatTensor, takes any Tensor
    return cast(DecoderOutput, decoded).sample


@torch.no_grad()
def balance_latents(vae: AutoencoderKL, mean: Float[Tensor, " c"], std: Float[Tensor, " c"]) -> None:
    """Moves latents of this ``mean`` and ``std`` (of each channel) to mean 0 and spread 1 (colours) or ``DETAIL_STD``,
    inside the 1x1 convolutions around them: what the autoencoder makes of a picture stays the same."""
    assert vae.quant_conv is not None and vae.post_quant_conv is not None
    wanted = torch.where(torch.arange(LATENTS) < 3, 1.0, DETAIL_STD)
    scale = wanted / std
    weight, bias = vae.quant_conv.weight, _bias(vae.quant_conv)
    weight[:LATENTS] *= scale[:, None, None, None]
    bias[:LATENTS] = (bias[:LATENTS] - mean) * scale
    bias[LATENTS:] += 2 * scale.log()
    _bias(vae.post_quant_conv).add_(vae.post_quant_conv.weight[:, :, 0, 0] @ mean)
    vae.post_quant_conv.weight /= scale[None, :, None, None]


def _initialise(vae: AutoencoderKL) -> None:
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(_bias(module))
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
    assert vae.quant_conv is not None
    with torch.no_grad():
        vae.decoder.conv_out.weight *= 0.3
        vae.quant_conv.weight[LATENTS:] *= 0.05
        _bias(vae.quant_conv)[LATENTS:] = -6.0


def _linear_start(vae: AutoencoderKL) -> None:
    size = vae.config["sample_size"]
    assert vae.quant_conv is not None and vae.post_quant_conv is not None
    for conv, scale in ((vae.encoder.conv_in, 1.0), (vae.decoder.conv_in, 1 / LATENT_SCALE)):
        conv.weight[:8] = 0
        for channel in range(3):
            conv.weight[channel, channel, 1, 1] = scale
            conv.weight[channel + 3, channel, 1, 1] = -scale
        _bias(conv)[6], _bias(conv)[7] = CONSTANT, -CONSTANT
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight[:LATENTS] *= 0.1
        for latent in range(LATENTS):
            conv.weight[latent, latent] = 1.0
    average, identity = torch.zeros(3, 3), torch.ones(1, 1)
    average[:2, :2] = 0.25
    smooth = torch.outer(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.25, 0.5, 0.25]))
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            module.conv1.weight[:, 6:8] = 0
            if module.conv_shortcut is not None:
                _pass_through(module.conv_shortcut, identity)
        elif isinstance(module, Downsample2D):
            _pass_through(cast(nn.Conv2d, module.conv), average)
        elif isinstance(module, Upsample2D):
            _pass_through(cast(nn.Conv2d, module.conv), smooth)
    probe = torch.rand(16, 3, 4, 4).mul(2).sub(1).repeat_interleave(size // 4, 2).repeat_interleave(size // 4, 3)
    encoder_out = _normalised_scale(vae.encoder.conv_norm_out, lambda: vae.encode(probe))
    out = vae.encoder.conv_out
    out.weight[:, 6:8] = 0
    out.weight[:3], _bias(out)[:] = 0, 0
    _read_colours(out, encoder_out * LATENT_SCALE)
    latents = posterior(vae, probe).mean
    decoder_out = _normalised_scale(vae.decoder.conv_norm_out, lambda: decode(vae, latents))
    out = vae.decoder.conv_out
    out.weight *= 0.1
    out.weight[:, :8] = 0
    _read_colours(out, decoder_out)


def _pass_through(conv: nn.Conv2d, kernel: Tensor) -> None:
    """Makes a convolution carry the first eight channels by ``kernel`` and the constant by its bias."""
    conv.weight[:, 6:8] = 0
    conv.weight[:8] = 0
    for channel in COLOURS:
        conv.weight[channel, channel] = kernel
    bias = _bias(conv)
    bias[:8] = 0
    bias[6], bias[7] = CONSTANT, -CONSTANT


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def _read_colours(conv: nn.Conv2d, scale: float) -> None:
    for channel in range(3):
        conv.weight[channel, channel, 1, 1] = scale
        conv.weight[channel, channel + 3, 1, 1] = -scale


def _normalised_scale(norm: nn.Module, run: Callable[[], object]) -> float:
    """The factor that undoes a GroupNorm for the colour pairs, measured while ``run`` passes pictures through it."""
    seen: dict[str, Tensor] = {}

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.update(before=inputs[0], after=output)

    hook = norm.register_forward_hook(keep)
    run()
    hook.remove()
    pair = seen["after"][:, :3] - seen["after"][:, 3:6]
    return float(2 * (seen["before"][:, :3] * pair).sum() / pair.square().sum())


def train_autoencoder(
    config: AutoencoderConfig,
    pictures: UInt8[np.ndarray, "P 128 128 3"],
    foreground: Float[np.ndarray, "P 16 16"],
    checkpoint: Path,
    on_step: Progress,
) -> AutoencoderKL:
    """Trains from ``checkpoint`` if it is there, else from the linear start; returns the averaged (EMA) weights."""
    vae = build_autoencoder()
    parameters = dict(vae.named_parameters())
    average = {name: value.detach().clone() for name, value in parameters.items()}
    adam = torch.optim.AdamW(parameters.values(), lr=config.lr, betas=(0.9, 0.98), weight_decay=1e-4)
    first = restore(checkpoint, parameters, adam, average)
    for step in range(first, config.steps):
        rng = np.random.default_rng([1, step])
        rate = _rate(step, config)
        for group in adam.param_groups:
            group["lr"] = rate
        index = rng.integers(len(pictures), size=config.batch)
        loss = _loss(vae, *_batch(pictures, foreground, index, rng), torch.Generator().manual_seed(step))
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        adam.step()
        weight = max(0.01, 1 / (step + 2))
        with torch.no_grad():
            for name, value in parameters.items():
                average[name].lerp_(value, weight)
        on_step(step + 1, config.steps, float(loss.detach()))
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            save(checkpoint, step + 1, parameters, adam, average)
    vae.load_state_dict(average)
    return vae.eval().requires_grad_(False)


def _rate(step: int, config: AutoencoderConfig) -> float:
    """A short warm-up, then constant, then a cosine to 3 % over the second half."""
    share = step / config.steps
    decay = 1.0 if share < 0.5 else 0.03 + 0.97 * 0.5 * (1 + np.cos(np.pi * (share - 0.5) / 0.5))
    return config.lr * min(1.0, (step + 1) / 60) * float(decay)


def _batch(
    pictures: np.ndarray, foreground: np.ndarray, index: np.ndarray, rng: np.random.Generator
) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B 1 H W"]]:
    """Pictures in [-1, 1] (mirrored half the time) and the weight of their pixels: the person, edges and most of all
    small details (eyes, brows, stripes) count."""
    images = torch.from_numpy(pictures[index]).permute(0, 3, 1, 2).float() / 127.5 - 1
    covered = torch.from_numpy(foreground[index].astype(np.float32))[:, None]
    flip = torch.from_numpy(rng.random(len(index)) < 0.5)[:, None, None, None]
    images, covered = torch.where(flip, images.flip(3), images), torch.where(flip, covered.flip(3), covered)
    down = nn.functional.pad((images[:, :, 1:] - images[:, :, :-1]).abs().amax(1, keepdim=True), (0, 0, 0, 1))
    across = nn.functional.pad((images[..., 1:] - images[..., :-1]).abs().amax(1, keepdim=True), (0, 1, 0, 0))
    edges = nn.functional.max_pool2d((down + across).clamp(max=1), 3, 1, 1)
    scale = images.shape[-1] // covered.shape[-1]
    around = nn.functional.avg_pool2d(nn.functional.pad(images, (4, 4, 4, 4), mode="replicate"), 9, 1)
    details = nn.functional.max_pool2d((images - around).abs().amax(1, keepdim=True).clamp(max=1), 3, 1, 1)
    weight = 0.5 + 4 * nn.functional.interpolate(covered, scale_factor=scale) + 2 * edges + DETAIL_WEIGHT * details
    return images.contiguous(memory_format=torch.channels_last), weight / weight.mean()


def _loss(vae: AutoencoderKL, images: Tensor, weight: Tensor, generator: torch.Generator) -> Float[Tensor, ""]:
    latents = posterior(vae, images)
    noise = torch.randn(latents.mean.shape, generator=generator)
    error = decode(vae, latents.mean + latents.std * noise) - images
    divergence = -0.5 * (1 + latents.logvar - latents.mean.square() - latents.logvar.exp()).mean()
    return (weight * (error.abs() + error.square())).mean() + KL_WEIGHT * divergence
