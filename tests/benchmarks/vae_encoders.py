"""Times encoders of renders, forward and backward, and compares their gradients with float32's.

    python tests/benchmarks/vae_encoders.py --few-channels          # a test run of all layers on a CPU
    python tests/benchmarks/vae_encoders.py --device cuda           # Stable Diffusion's VAE at 512², batch 4

The weights are random; nothing is downloaded. Passes of the rows alternate, so that other load affects all alike;
ratios are to the first row. ``compare`` is the same as a function.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor
from torch.nn import functional as F

from avatar_gs.core.device import allow_tf32, choose_device
from avatar_gs.prior.accelerate import AFTER, Accelerated, captured, compiled
from avatar_gs.prior.config import EncoderKeeps
from avatar_gs.prior.image_encoder import ImageEncoder, vae_mean
from avatar_gs.prior.low_memory_layers import use_low_memory_convolutions, use_low_memory_norms
from avatar_gs.prior.memory_estimate import packaged_config

FEW: dict[str, Any] = {"block_out_channels": [4, 4, 8, 8], "norm_num_groups": 2}
FEW_TINY: dict[str, Any] = {"encoder_block_out_channels": (4,) * 4, "decoder_block_out_channels": (4,) * 4}
SHORT = {"cuda": torch.float16, "cpu": torch.bfloat16}


@dataclass(frozen=True)
class Row:
    """One encoder."""

    name: str
    milliseconds: float
    """Median of forward and backward."""
    ratio: float
    cosine: float | None
    """Cosine similarity of the images' gradient with the first row's; None for another network."""
    gigabytes: float | None
    """Peak of a GPU's tensors."""


def compare(
    device: str, *, few_channels: bool = False, batch: int = 4, size: int = 512, repeats: int = 10, make: bool = False
) -> list[Row]:
    """The rows of the table.

    Args:
        few_channels: all layers, few channels.
        make: also compiled and, on a GPU, as a CUDA graph; compiling takes minutes.
    """
    allow_tf32(True)  # as for a prior in 16 bits
    random = torch.Generator().manual_seed(0)
    images = (torch.rand(batch, 3, size, size, generator=random) * 2 - 1).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    cotangent = torch.randn(batch, 4, size // 8, size // 8, generator=random).to(device)
    rows = encoders(device, few_channels, make)
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    gradients, peaks = {}, {}
    for index in range(AFTER + 1 + repeats):  # the first ones choose kernels, and compile
        for name, encode in rows.items():
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            took, gradients[name] = _timed(encode, images, cotangent)
            if device == "cuda":
                peaks[name] = torch.cuda.max_memory_allocated() / 1e9
            if index > AFTER:
                seconds[name].append(took)
    first = next(iter(rows))
    return [
        Row(
            name,
            1e3 * median(each),
            median(each) / median(seconds[first]),
            None if name.startswith("tiny") else _cosine(gradients[name], gradients[first]),
            peaks.get(name),
        )
        for name, each in seconds.items()
    ]


def encoders(device: str, few_channels: bool, make: bool) -> dict[str, Callable[[Tensor], Tensor]]:
    """Encoders by row name."""
    short = SHORT[device]
    word = str(short)[6:]
    torch.manual_seed(0)
    config = packaged_config("vae", "sd15") | (FEW if few_channels else {})
    weights = AutoencoderKL.from_config(config).state_dict()  # pyright: ignore[reportAttributeAccessIssue]

    def vae(keeps: EncoderKeeps, dtype: torch.dtype) -> ImageEncoder:
        network: Any = AutoencoderKL.from_config(config)
        network.load_state_dict(weights)
        network.decoder = None
        if keeps is not EncoderKeeps.all:
            use_low_memory_convolutions(network)
        if keeps is EncoderKeeps.least:
            use_low_memory_norms(network.encoder)
        network.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)
        return ImageEncoder(vae_mean(network), [network.encoder, network.quant_conv], dtype, "the VAE's encoder")

    def tiny(dtype: torch.dtype) -> ImageEncoder:
        network: Any = AutoencoderTiny(**(FEW_TINY if few_channels else {})).encoder.requires_grad_(False).eval()
        use_low_memory_convolutions(network)
        network.to(device).to(memory_format=torch.channels_last)
        return ImageEncoder(network, [network], dtype, "the tiny encoder")

    rows: dict[str, Callable[[Tensor], Tensor]] = {
        f"VAE float32, keeps {keeps.name}": vae(keeps, torch.float32)
        for keeps in (EncoderKeeps.least, EncoderKeeps.convolutions, EncoderKeeps.all)
    }
    rows |= {
        f"VAE {word}, keeps {keeps.name}": vae(keeps, short)
        for keeps in (EncoderKeeps.least, EncoderKeeps.convolutions, EncoderKeeps.all)
    }
    makers = {"compiled": compiled, "CUDA graph": captured} if device == "cuda" else {"compiled": compiled}
    for how, maker in makers.items() if make else ():
        encoder = vae(EncoderKeeps.all, short)
        encoder.encode = Accelerated(encoder.encode, maker, short, f"VAE {word}, {how}")
        rows[f"VAE {word}, {how}"] = encoder
    return rows | {"tiny float32": tiny(torch.float32), f"tiny {word}": tiny(short)}


def _timed(encode: Callable[[Tensor], Tensor], images: Tensor, cotangent: Tensor) -> tuple[float, Tensor]:
    leaf = images.detach().requires_grad_()
    began = _now(images.device)
    (gradient,) = torch.autograd.grad(encode(leaf), leaf, cotangent)
    return _now(images.device) - began, gradient


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(F.cosine_similarity(one.double().flatten(), other.double().flatten(), dim=0))


def table(rows: list[Row]) -> list[str]:
    """One line per row."""
    lines = [f"{'encode, forward and backward':<34}{'ms':>10}{'of the first':>14}{'cosine':>11}{'peak GB':>9}"]
    for row in rows:
        cosine = "" if row.cosine is None else f"{row.cosine:.6f}"
        peak = "" if row.gigabytes is None else f"{row.gigabytes:.1f}"
        lines.append(f"{row.name:<34}{row.milliseconds:>10.1f}{row.ratio:>14.3f}{cosine:>11}{peak:>9}")
    return lines


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few-channels", action="store_true", help="a trial: all layers, but only a few channels wide")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=512, help="pixels of a side of the images")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true", help="also compiled and, on a GPU, as a CUDA graph: minutes")
    parser.add_argument("--json", type=Path, help="a file for the rows")
    options = parser.parse_args(arguments)
    device = choose_device(options.device)
    rows = compare(
        device,
        few_channels=options.few_channels,
        batch=options.batch,
        size=options.size,
        repeats=options.repeats,
        make=options.compile,
    )
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    width = "a few channels wide" if options.few_channels else "of the true size"
    print(f"Stable Diffusion's VAE {width}, random weights; batch {options.batch}, images of {options.size}²; {name}")
    print("\n".join(table(rows)))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
