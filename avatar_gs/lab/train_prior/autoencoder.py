"""The autoencoder of both worlds' priors: a stock AutoencoderKL, initialised as an exact linear thumbnail.

With random initialisation, a VAE this small learns colours late or never on a CPU. The linear start copies colours
through ± channel pairs (``silu(x) - silu(-x) = x``) and a constant ±K pair that fixes GroupNorm's scale; downsamplers
average, upsamplers smooth, and three latents start as RGB.
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
from torch.nn import functional

from avatar_gs.lab.train_prior.config import AutoencoderConfig
from avatar_gs.lab.train_prior.training import OnStep, Training, cosine_rate

CHANNELS = (16, 16, 32, 64)
LATENTS = 8
"""Latent channels. With four, faces of 60 pixels stay blurred."""
COLOURS = range(6)
"""Channels of +RGB and -RGB in the linear start; the next two hold the constant."""
CONSTANT, LATENT_SCALE = 3.0, 2.0
DETAIL_STD = 0.7
"""Standard deviation of latents other than the colours (1): smaller, and guidance would not see details until late."""
KL_WEIGHT, DETAIL_WEIGHT = 1e-5, 16.0


def build_autoencoder(seed: int = 0, size: int = 128) -> AutoencoderKL:
    """An AutoencoderKL (f=8, 8 latents) at the linear start, which reconstructs a smooth thumbnail."""
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
    """Normalise latents of this ``mean`` and ``std`` (per channel) to mean 0 and standard deviation 1 (colours) or
    ``DETAIL_STD``, by the 1x1 convolutions next to them: reconstructions stay the same."""
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
    """Make a convolution pass the first eight channels on: colours by ``kernel``, the constant by its bias."""
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
    """The factor that inverts a GroupNorm for the colour pairs, measured while ``run`` passes images through it."""
    seen: dict[str, Tensor] = {}

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.update(before=inputs[0], after=output)

    hook = norm.register_forward_hook(keep)
    run()
    hook.remove()
    pair = seen["after"][:, :3] - seen["after"][:, 3:6]
    return float(2 * (seen["before"][:, :3] * pair).sum() / pair.square().sum())


def train_autoencoder(
    vae: AutoencoderKL,
    training: Training,
    batch_of: Callable[[np.random.Generator], tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B 1 H W"]]],
    *,
    lr: float,
    seed: int,
    gradient_weight: float = 0.0,
    bfloat16: bool = False,
) -> AutoencoderKL:
    """Train an autoencoder, or resume; returns it with the averaged (EMA) weights, frozen.

    Args:
        vae: its frozen parameters stay as they are.
        batch_of: images in [-1, 1] and weights of their pixels from a random generator.
        seed: of the batches.
        gradient_weight: weight of the L1 error of image gradients at three scales.
        bfloat16: mixed precision.
    """
    parameters = {name: value for name, value in vae.named_parameters() if value.requires_grad}
    adam = torch.optim.AdamW(parameters.values(), lr=lr, betas=(0.9, 0.98), weight_decay=1e-4)

    def loss_of(step: int) -> Float[Tensor, ""]:
        batch = batch_of(np.random.default_rng([seed, step]))
        return _loss(vae, *batch, torch.Generator().manual_seed(step), gradient_weight, bfloat16)

    vae.load_state_dict(training.run(parameters, adam, loss_of), strict=False)
    return vae.eval().requires_grad_(False)


def _loss(
    vae: AutoencoderKL,
    images: Tensor,
    weights: Tensor,
    generator: torch.Generator,
    gradient_weight: float,
    bfloat16: bool,
) -> Float[Tensor, ""]:
    """Weighted L1 + L2 of the reconstruction, L1 of its gradients, and a small KL divergence."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        latents = posterior(vae, images)
        mean, logvar = latents.mean.float(), latents.logvar.float()
        noise = torch.randn(mean.shape, generator=generator)
        error = decode(vae, mean + (0.5 * logvar).exp() * noise).float() - images
    loss = (weights * (error.abs() + error.square())).mean()
    for scale in range(3 if gradient_weight else 0):
        if scale:
            error, weights = functional.avg_pool2d(error, 2), functional.avg_pool2d(weights, 2)
        across = (weights[..., 1:] * (error[..., 1:] - error[..., :-1]).abs()).mean()
        down = (weights[:, :, 1:] * (error[:, :, 1:] - error[:, :, :-1]).abs()).mean()
        loss = loss + gradient_weight * (across + down)
    return loss - 0.5 * KL_WEIGHT * (1 + logvar - mean.square() - logvar.exp()).mean()


def edges_and_details(
    images: Float[Tensor, "B 3 H W"],
) -> tuple[Float[Tensor, "B 1 H W"], Float[Tensor, "B 1 H W"]]:
    """Where images in [-1, 1] have edges, and details smaller than 9 pixels; both in [0, 1]."""
    across = functional.pad((images[..., 1:] - images[..., :-1]).abs().amax(1, keepdim=True), (0, 1))
    down = functional.pad((images[:, :, 1:] - images[:, :, :-1]).abs().amax(1, keepdim=True), (0, 0, 0, 1))
    edges = functional.max_pool2d((across + down).clamp(max=1), 3, 1, 1)
    around = functional.avg_pool2d(functional.pad(images, (4, 4, 4, 4), mode="replicate"), 9, 1)
    details = functional.max_pool2d((images - around).abs().amax(1, keepdim=True).clamp(max=1), 3, 1, 1)
    return edges, details


def as_batch(images: UInt8[np.ndarray, "B H W 3"]) -> Float[Tensor, "B 3 H W"]:
    """Images in [-1, 1], channels last in memory."""
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return batch.contiguous(memory_format=torch.channels_last)


def train_mini_autoencoder(
    config: AutoencoderConfig,
    images: UInt8[np.ndarray, "P 128 128 3"],
    foreground: Float[np.ndarray, "P 16 16"],
    checkpoint: Path,
    on_step: OnStep,
) -> AutoencoderKL:
    """Train the mini world's autoencoder from the linear start, or resume.

    Args:
        foreground: fraction of each latent cell covered by the person.
    """

    def batch_of(rng: np.random.Generator) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B 1 H W"]]:
        index = rng.integers(len(images), size=config.batch)
        return _batch(images[index], foreground[index], rng)

    rate = cosine_rate(config.lr, config.steps, hold=0.5, floor=0.03)
    training = Training(
        config.steps, rate, checkpoint, config.checkpoint_every, on_step, lambda step: max(0.01, 1 / (step + 2))
    )
    return train_autoencoder(build_autoencoder(), training, batch_of, lr=config.lr, seed=1)


def _batch(
    images: np.ndarray, foreground: np.ndarray, rng: np.random.Generator
) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B 1 H W"]]:
    """Images in [-1, 1], mirrored half of the time, and weights of pixels: the person, edges and most of all small
    details (eyes, brows, stripes) count more."""
    batch = as_batch(images)
    covered = torch.from_numpy(foreground.astype(np.float32))[:, None]
    flip = torch.from_numpy(rng.random(len(images)) < 0.5)[:, None, None, None]
    batch, covered = torch.where(flip, batch.flip(3), batch), torch.where(flip, covered.flip(3), covered)
    edges, details = edges_and_details(batch)
    scale = batch.shape[-1] // covered.shape[-1]
    weight = 0.5 + 4 * functional.interpolate(covered, scale_factor=scale) + 2 * edges + DETAIL_WEIGHT * details
    return batch.contiguous(memory_format=torch.channels_last), weight / weight.mean()
