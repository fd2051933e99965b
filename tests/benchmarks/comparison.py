"""Shared by ``compare_with_threestudio`` and ``compare_with_gaussianip``: the command, our guidance, timing, the table.

A step starts from images and ends with the gradient on them: VAE encoding, noise, UNet, the loss and its backward
pass. The table also shows how many images each network sees.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from avatar_gs.core.device import choose_device
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.distill import build_guidance
from avatar_gs.guidance.methods.base import StepInputs
from avatar_gs.guidance.presets import named_preset
from avatar_gs.lab.benchmarks.random_weights import random_prior
from avatar_gs.prior.compute import Compute
from avatar_gs.prior.config import Precision, PriorConfig
from avatar_gs.prior.loading.components import quiet
from avatar_gs.prior.parts import Parts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.types import BucketPrompt
from tests import full
from tests.benchmarks.threestudio_fork import find_guidance

PROMPT, NEGATIVE, BUCKET = "a person", "blurry", "body/front"
SIZE = 512
"""Side of the images in pixels."""
WARM_UP = 2
NETWORKS = ("UNet", "ControlNet", "encoder", "decoder")


@dataclass(frozen=True)
class Side:
    """One of the compared implementations."""

    step: Callable[[Tensor], None]
    """Computes the gradient on images ``[B, 512, 512, 3]``."""
    networks: Mapping[str, nn.Module]
    """By ``NETWORKS``."""


@dataclass
class Calls:
    """Images that a network saw in a step, and how many of them with a backward pass."""

    images: int = 0
    backward: int = 0


@dataclass(frozen=True)
class Row:
    """The measurement of one side."""

    name: str
    seconds: float
    """Median of a step."""
    calls: Mapping[str, Calls]
    """By ``NETWORKS``."""


def command(
    description: str | None,
    peer: str,
    module: str,
    default_prior: str,
    sides: Callable[[Path, StableDiffusionPrior, int], Mapping[str, Side]],
) -> None:
    """Read the command line, time the sides, and print the table.

    Args:
        description: of the command.
        peer: name of the compared program.
        module: the peer's guidance module, which is checked first.
        default_prior: architecture without ``--prior``.
        sides: from checkout, prior and batch to the sides by name; times are divided by the first.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help=f"{peer}'s repository")
    parser.add_argument("--prior", choices=full.FAMILIES, default=default_prior)
    parser.add_argument("--few-channels", action="store_true", help="a test run: all layers, few channels")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    options = parser.parse_args()
    find_guidance(options.checkout, peer, module)
    prior = make_prior(options.prior, choose_device(options.device), few_channels=options.few_channels)
    rows = measure(sides(options.checkout, prior, options.batch), options.batch, prior.device, options.repeats)
    weights = f"random weights in {str(prior.denoiser.dtype)[6:]}" + (", few channels" if options.few_channels else "")
    print(f"{options.prior} with {weights}; batch {options.batch}, images of {SIZE}², {prior.device.type}")
    print("\n".join(table(rows, peer, options.batch)))
    if options.json:
        options.json.write_text(json.dumps([as_plain(row, rows[0], options.batch) for row in rows]), encoding="utf-8")


def as_plain(row: Row, first: Row, batch: int) -> dict[str, Any]:
    """A row as plain values: milliseconds, the ratio to the first row, and each network's images per image of the
    batch."""
    calls = {name: _formatted(row.calls.get(name, Calls()), batch) for name in NETWORKS}
    return {"side": row.name, "step ms": round(1e3 * row.seconds, 1), "ratio": row.seconds / first.seconds, **calls}


def make_prior(name: str, device: str, *, few_channels: bool) -> StableDiffusionPrior:
    """SD 1.5 or 2.1 with random weights, on a GPU in 16 bits."""
    precision = Precision.float16 if device == "cuda" else Precision.float32
    if not few_channels:
        return random_prior(PriorConfig(name=name, precision=precision), device)
    with tempfile.TemporaryDirectory() as folder:
        parts = full.few(Path(folder), name)
    with quiet():
        return StableDiffusionPrior(Parts(**parts), Compute(torch.device(device), dtype=getattr(torch, precision.name)))


def as_trained(loss_of: Callable[[Tensor], Tensor], prior: StableDiffusionPrior) -> Callable[[Tensor], None]:
    """A peer's step as its trainer runs it (Lightning's ``precision: 16-mixed``): the loss under autocast, scaled, then
    its backward pass. Without autocast a loss of 16-bit latents and a float32 target has no backward pass in torch
    2.11. In float32 neither is used.

    Args:
        loss_of: from images ``[B, H, W, 3]`` to the peer's scalar loss.
        prior: determines device and precision.
    """
    device = prior.device.type
    short = prior.denoiser.dtype is not torch.float32
    scaler = torch.amp.GradScaler(device, enabled=prior.denoiser.dtype is torch.float16)

    def step(images: Tensor) -> None:
        with torch.autocast(device, dtype=prior.denoiser.dtype if short else None, enabled=short):
            loss = loss_of(images)
        scaler.scale(loss).backward()

    return step


def networks_of(owner: Any) -> dict[str, nn.Module]:
    """The UNet, the ControlNet and both halves of the VAE of an object with attributes like a prior's."""
    return {
        "UNet": owner.unet,
        "ControlNet": owner.controlnet,
        "encoder": owner.vae.encoder,
        "decoder": owner.vae.decoder,
    }


def ours(prior: StableDiffusionPrior, batch: int, preset: str, *, control: bool = True) -> Side:
    """Encoding, guidance after its warm-up, and backward, as in ``training.step``."""
    conditions = TextConditions.encode(prior, {BUCKET: BucketPrompt(PROMPT, NEGATIVE)})
    guidance = build_guidance(named_preset(preset), prior, conditions)
    pose_maps = torch.rand(batch, prior.image_size, prior.image_size, 3, device=prior.device) if control else None
    buckets, total = [BUCKET] * batch, 1000
    every = guidance.config.de_sds.update_every
    at = every * (round(guidance.method.warmup * total) // every + 1)  # y_con learns: the most expensive step

    def step(images: Tensor) -> None:
        inputs = StepInputs(
            conditions=conditions.batch(buckets),
            buckets=buckets,
            step=at,
            total=total,
            generator=torch.Generator().manual_seed(0),
            control=pose_maps,
        )
        latents = prior.encode_images(images)
        out = guidance.step(latents, inputs)
        out.loss.backward()

    return Side(step, networks_of(prior))


def measure(compared: Mapping[str, Side], batch: int, device: torch.device, repeats: int) -> list[Row]:
    """Count the calls of each side's first step, then time the steps, which alternate so that other load affects all
    sides alike."""
    images = torch.rand(batch, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0)).to(device)
    calls = {}
    for name, side in compared.items():
        with _counted(side.networks) as calls[name]:
            _time(name, side, images)
    seconds: dict[str, list[float]] = {name: [] for name in compared}
    for index in range(WARM_UP + repeats):
        for name, side in compared.items():
            took = _time(name, side, images)
            if index >= WARM_UP:
                seconds[name].append(took)
    return [Row(name, median(each), calls[name]) for name, each in seconds.items()]


def table(rows: list[Row], peer: str, batch: int) -> list[str]:
    """One line per row, with the ratio to the first."""
    head = "".join(f"{name:>12}" for name in NETWORKS)
    lines = [f"{'(calls per image; + with a backward pass)':<44}{head}{'step':>13}"]
    for row in rows:
        cells = "".join(f"{_formatted(row.calls.get(name, Calls()), batch):>12}" for name in NETWORKS)
        ratio = row.seconds / rows[0].seconds
        lines.append(f"{row.name:<44}{cells}{1e3 * row.seconds:>10.1f} ms{ratio:>8.2f} of {peer}'s")
    return lines


def _formatted(calls: Calls, batch: int) -> str:
    plain, backward = (calls.images - calls.backward) / batch, calls.backward / batch
    counts = [f"{plain:g}"] if plain or not backward else []
    return " ".join([*counts, *([f"+{backward:g}"] if backward else [])])


def _time(name: str, side: Side, images: Tensor) -> float:
    leaf = images.clone().requires_grad_()
    began = _now(images.device)
    side.step(leaf)
    took = _now(images.device) - began
    assert leaf.grad is not None and bool(leaf.grad.any()), f"{name}: no gradient reached the images"
    return took


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def _counted(networks: Mapping[str, nn.Module]) -> Iterator[dict[str, Calls]]:
    """Counts the images that each network sees within the context."""
    calls = {name: Calls() for name in networks}
    with ExitStack() as hooks:
        for name, network in networks.items():
            hooks.callback(network.register_forward_pre_hook(_counter(calls[name]), with_kwargs=True).remove)
        yield calls


def _counter(calls: Calls) -> Callable[[nn.Module, tuple, dict], None]:
    def count(_: nn.Module, arguments: tuple, named: dict) -> None:
        tensors = [value for value in (*arguments, *named.values()) if isinstance(value, Tensor)]
        calls.images += len(tensors[0])
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            calls.backward += len(tensors[0])

    return count
