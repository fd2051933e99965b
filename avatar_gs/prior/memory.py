"""How much memory and arithmetic a prior and a run with it will take, before anything is loaded.

The estimate is the sum of what is certain to be alive at once: all weights; the graph kept for the backward pass of the
VAE's encoder; the larger of what UNet and ControlNet hold meanwhile and what that backward pass itself needs; the
renders and the splats. Bytes and arithmetic were counted op by op on the true architectures, attention without
matrices (tests count them again), and grow in proportion to pixels, channels and pictures. What the program holds
beside them is a lump sum: on a GPU an allowance (nothing was measured there), on a CPU what ``forecast`` finds.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open

from avatar_gs.prior import single_file
from avatar_gs.prior.folder import CONFIGS, WITH_WEIGHTS, Source, weights_stem

PUBLISHED = {
    "sd15": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480, "controlnet": 361_279_120},
    "sd21": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840, "controlnet": 364_228_240},
}
"""Parameters of the presets, known before they are here."""
ENCODER_GRAPH, ENCODER_WITHIN = 1.01e9, 0.20e9
"""Bytes for one picture of 512² in float32: what the VAE's encoder keeps for its backward pass, and what that pass
needs beside it."""
ENCODER_CHECKPOINTS, ENCODER_AGAIN = 0.21e9, 1.00e9
"""The same where the encoder is computed a second time."""
NETWORKS_GRAPH = 0.85e9
"""Bytes that UNet and ControlNet keep for the backward pass, in 16 bits."""
NETWORKS_FORWARD, ENCODER_FORWARD, DECODER_FORWARD = 0.09e9, 0.67e9, 0.81e9
"""Bytes in use within a forward pass without a graph: 16-bit networks, VAE in float32."""
TEXT_GRAPH = 0.1e9
"""Bytes that the text encoder keeps for the backward pass of one prompt: an allowance."""
RENDER_PIXEL, SPLAT = 100, 600
"""Bytes for a rendered pixel, and for a splat: its parameters, gradient, Adam's two moments, posed copies."""
OVERHEAD = 0.8e9
"""On a GPU: a CUDA context, cuDNN's workspaces and the allocator's slack."""
ENCODER_FLOPS, NETWORKS_FLOPS = 1.12e12, 1.09e12
"""Floating-point operations of one forward pass for one picture of 512²; a backward pass takes as many."""
REFERENCE_PIXELS, REFERENCE_CHANNELS, REFERENCE_VAE_CHANNELS = 512**2, 320, 128


@dataclass(frozen=True)
class Architecture:
    """What the estimate must know: parameters of each component, channels at full size, pixels of a side."""

    parameters: Mapping[str, int]
    channels: int = REFERENCE_CHANNELS
    vae_channels: int = REFERENCE_VAE_CHANNELS
    image_size: int = 512
    assumed: tuple[str, ...] = ()
    """The components that are not here, and are taken to be as the preset has them."""

    @property
    def pictures(self) -> float:
        """How many pictures of 512² one of its own is worth."""
        return self.image_size**2 / REFERENCE_PIXELS


@dataclass(frozen=True)
class Load:
    """What a run does with a prior, in pictures at once. ``supersample`` 0: nothing is rendered."""

    batch: int
    network_bytes: int
    supersample: int = 0
    splats: int = 0
    through_encoder: bool = False
    """Whether a step goes backward through the VAE's encoder …"""
    through_networks: bool = False
    """… through UNet and ControlNet …"""
    through_text: bool = False
    """… and through the text encoder."""
    predicted: int = 4
    """Predictions that a step asks for at once without gradients, of each picture."""
    encoded: int = 0
    decoded: int = 0
    """Pictures that the VAE encodes or decodes at once without gradients."""
    encode_chunk: int = 0
    checkpoint_encoder: bool = False
    predict_chunk: int = 0
    offload_text: bool = False
    overhead: float = OVERHEAD
    """Bytes that the program holds beside weights, graphs and renders."""


def expected_peak(architecture: Architecture, load: Load) -> dict[str, int]:
    """Bytes by what takes them: weights, VAE, networks, renders, overhead. The sum is the expected peak."""
    count, pictures = architecture.parameters, architecture.pictures
    text = 0 if load.offload_text and not load.through_text else count["text_encoder"]
    weights = load.network_bytes * (count["unet"] + count["controlnet"]) + 4 * (count["vae"] + text)
    of_vae = pictures * architecture.vae_channels / REFERENCE_VAE_CHANNELS
    of_networks = pictures * architecture.channels / REFERENCE_CHANNELS * load.network_bytes / 2

    kept = within = 0.0
    if load.through_encoder:
        at_once = min(load.encode_chunk or load.batch, load.batch)
        each, again = (
            (ENCODER_CHECKPOINTS, ENCODER_AGAIN) if load.checkpoint_encoder else (ENCODER_GRAPH, ENCODER_WITHIN)
        )
        kept, within = load.batch * each * of_vae, at_once * again * of_vae
    within = max(within, load.encoded * ENCODER_FORWARD * of_vae, load.decoded * DECODER_FORWARD * of_vae)

    asked = load.predicted * load.batch
    forward = min(load.predict_chunk or asked, asked) * NETWORKS_FORWARD * of_networks
    graph = min(load.predict_chunk or load.batch, load.batch) * NETWORKS_GRAPH * of_networks
    held = max(graph if load.through_networks else 0.0, forward)
    if load.through_text:
        held += load.batch * TEXT_GRAPH * count["text_encoder"] / PUBLISHED["sd21"]["text_encoder"]
    parts = {"weights": weights, "VAE": kept, "networks": max(held, within)}
    if load.supersample:
        pixels = load.batch * architecture.image_size**2 * load.supersample**2
        parts["renders"] = pixels * RENDER_PIXEL + load.splats * SPLAT
    return {name: round(size) for name, size in {**parts, "overhead": load.overhead}.items() if size}


def expected_flops(architecture: Architecture, load: Load, forward: int, backward: int) -> dict[str, float]:
    """Floating-point operations of a step's networks: those in float32 (VAE), and those of UNet and ControlNet.

    Args:
        forward: predictions without gradients, for each picture.
        backward: predictions that a backward pass follows.
    """
    pictures, again = load.batch * architecture.pictures, bool(load.predict_chunk and load.predict_chunk < load.batch)
    passes = (2 + load.checkpoint_encoder) if load.through_encoder else 0
    of_vae = (architecture.vae_channels / REFERENCE_VAE_CHANNELS) ** 2
    of_networks = (architecture.channels / REFERENCE_CHANNELS) ** 2
    return {
        "VAE": pictures * ENCODER_FLOPS * passes * of_vae,
        "networks": pictures * NETWORKS_FLOPS * (forward + (2 + again) * backward) * of_networks,
    }


def architecture_of(sources: Mapping[str, Source], name: str) -> tuple[Architecture | None, list[str]]:
    """``(architecture, absent)`` of a located prior: None where it cannot be known yet; ``absent`` are the components
    that the cache does not hold, which a preset is known to have all the same."""
    found = {component: _weight_files(component, sources[component]) for component in WITH_WEIGHTS}
    absent = [component for component, files in found.items() if not files]
    if absent and name not in PUBLISHED:
        return None, absent
    counts = {
        component: _parameters(component, sources[component], files) if files else PUBLISHED[name][component]
        for component, files in found.items()
    }
    configs = {
        component: component_config(component, sources[component])
        or (packaged_config(component, name) if name in PUBLISHED else {})
        for component in ("unet", "vae")
    }
    return _architecture(counts, configs, tuple(absent)), absent


def packaged_architecture(name: str) -> Architecture:
    """A preset's, sd15 or sd21, of which nothing need be here."""
    configs = {component: packaged_config(component, name) for component in ("unet", "vae")}
    return _architecture(PUBLISHED[name], configs, WITH_WEIGHTS)


def _architecture(
    parameters: Mapping[str, int], configs: Mapping[str, Mapping[str, Any]], assumed: tuple[str, ...]
) -> Architecture:
    blocks = configs["vae"].get("block_out_channels", [REFERENCE_VAE_CHANNELS] * 4)
    return Architecture(
        parameters,
        channels=configs["unet"].get("block_out_channels", [REFERENCE_CHANNELS])[0],
        vae_channels=blocks[0],
        image_size=configs["unet"].get("sample_size", 64) * 2 ** (len(blocks) - 1),
        assumed=assumed,
    )


def _weight_files(component: str, source: Source) -> list[Path]:
    if source.layout:
        return [Path(source.name)]
    stem = weights_stem(component) + (f".{source.variant}" if source.variant else "")
    if source.is_local:
        folder = Path(source.name) / source.subfolder
        return (
            [folder / f"{stem}.safetensors"]
            if (folder / f"{stem}.safetensors").is_file()
            else sorted(folder.glob(f"{stem}-*-of-*.safetensors"))
        )
    cached = _cached(source, f"{stem}.safetensors")
    return [cached] if cached else []


def _cached(source: Source, file: str) -> Path | None:
    place = try_to_load_from_cache(source.name, f"{source.subfolder}/{file}" if source.subfolder else file)
    return Path(place) if isinstance(place, str) else None


def _parameters(component: str, source: Source, files: list[Path]) -> int:
    """From the files' headers alone."""
    total = 0
    for file in files:
        with safe_open(file, "pt") as tensors:
            names = list(tensors.keys())
            if source.layout:
                prefix = single_file.PREFIXES.get(component, "")
                names = [name for name in names if name.startswith(prefix)] or names
            for name in names:
                size = 1
                for length in tensors.get_slice(name).get_shape():
                    size *= length
                total += size
    return total


def packaged_config(component: str, layout: str) -> dict[str, Any]:
    """The configuration of a component in a packaged layout, sd15 or sd21."""
    file = single_file.LAYOUTS / layout / component / CONFIGS.get(component, "config.json")
    return json.loads(file.read_text(encoding="utf-8"))


def component_config(component: str, source: Source) -> dict[str, Any]:
    """The configuration of a component; empty where it is not here yet."""
    if source.layout:
        return packaged_config(component, source.layout)
    name = CONFIGS.get(component, "config.json")
    if source.is_local:
        file: Path | None = Path(source.name) / source.subfolder / name
    else:
        file = _cached(source, name)
    return json.loads(file.read_text(encoding="utf-8")) if file else {}
