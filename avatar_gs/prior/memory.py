"""How much memory a prior and a run with it will take, before anything is loaded.

The estimate is the sum of what is certain to be alive at once: all weights; the graphs kept for the backward passes of
the VAE and, where a method needs it, of UNet and ControlNet; the renders and the splats. Graphs were counted as the
bytes that autograd keeps on the true architectures without attention matrices (a test counts them again), and grow in
proportion to pixels, channels and pictures. All else is a rough allowance, and nothing was measured on a GPU: what the
allocator and cuDNN keep for themselves is a lump sum.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open

from avatar_gs.prior import single_file
from avatar_gs.prior.folder import WITH_WEIGHTS, Source, weights_stem

PUBLISHED = {
    "sd15": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480, "controlnet": 361_279_120},
    "sd21": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840, "controlnet": 364_228_240},
}
"""Parameters of the presets, known before they are here."""
VAE_GRAPH, NETWORKS_GRAPH = 3.18e9, 0.98e9
"""Bytes kept for the backward pass of one picture of 512²: VAE encoder in float32; UNet and ControlNet in 16 bits."""
NETWORKS_FORWARD, DECODER_FORWARD = 0.1e9, 0.8e9
"""Bytes in use within a forward pass without a graph, for one picture of 512²: 16-bit networks, VAE decoder."""
RENDER_PIXEL, SPLAT = 100, 600
"""Bytes for a rendered pixel, and for a splat: its parameters, gradient, Adam's two moments, posed copies."""
OVERHEAD = 0.8e9
"""A CUDA context, cuDNN's workspaces and the allocator's slack; on a CPU the libraries."""
CONDITIONS = 4
"""Predictions that a step asks for at once, of each picture: text, negative, consistent, empty."""
REFERENCE_PIXELS, REFERENCE_CHANNELS, REFERENCE_VAE_CHANNELS = 512**2, 320, 128


@dataclass(frozen=True)
class Architecture:
    """What the estimate must know: parameters of each component, channels at full size, pixels of a side."""

    parameters: Mapping[str, int]
    channels: int = REFERENCE_CHANNELS
    vae_channels: int = REFERENCE_VAE_CHANNELS
    image_size: int = 512


@dataclass(frozen=True)
class Load:
    """What a run does with a prior. ``supersample`` 0: nothing is rendered or optimised, pictures are sampled."""

    batch: int
    supersample: int
    splats: int
    network_bytes: int
    through_networks: bool
    """Whether a step goes backward through UNet and ControlNet."""


def expected_peak(architecture: Architecture, load: Load) -> dict[str, int]:
    """Bytes by what takes them: weights, VAE, networks, renders, overhead. The sum is the expected peak."""
    count = architecture.parameters
    weights = load.network_bytes * (count["unet"] + count["controlnet"]) + 4 * (count["vae"] + count["text_encoder"])
    pixels = architecture.image_size**2
    of_vae = load.batch * pixels / REFERENCE_PIXELS * architecture.vae_channels / REFERENCE_VAE_CHANNELS
    of_networks = load.batch * pixels / REFERENCE_PIXELS * architecture.channels / REFERENCE_CHANNELS
    of_networks *= load.network_bytes / 2
    forward = NETWORKS_FORWARD * CONDITIONS * of_networks
    if load.supersample:
        graph = NETWORKS_GRAPH * of_networks if load.through_networks else 0.0
        renders = load.batch * pixels * load.supersample**2 * RENDER_PIXEL + load.splats * SPLAT
        parts = {"VAE": VAE_GRAPH * of_vae, "networks": max(graph, forward), "renders": renders}
    else:
        parts = {"VAE": DECODER_FORWARD * of_vae, "networks": forward}
    return {name: round(size) for name, size in {"weights": weights, **parts, "overhead": OVERHEAD}.items()}


def architecture_of(sources: Mapping[str, Source], name: str) -> tuple[Architecture | None, list[str]]:
    """``(architecture, absent)`` of a located prior: None where it cannot be known yet; ``absent`` are the components
    that the cache does not hold."""
    found = {component: _weight_files(component, sources[component]) for component in WITH_WEIGHTS}
    absent = [component for component, files in found.items() if not files]
    counts = {component: _parameters(component, sources[component], files) for component, files in found.items()}
    known = PUBLISHED.get(name, {})
    for component in absent:
        if component not in known:
            return None, absent
        counts[component] = known[component]
    unet, vae = (_config(component, sources[component]) for component in ("unet", "vae"))
    blocks = vae.get("block_out_channels", [REFERENCE_VAE_CHANNELS] * 4)
    return Architecture(
        counts,
        channels=unet.get("block_out_channels", [REFERENCE_CHANNELS])[0],
        vae_channels=blocks[0],
        image_size=unet.get("sample_size", 64) * 2 ** (len(blocks) - 1),
    ), absent


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


def _config(component: str, source: Source) -> dict[str, Any]:
    if source.layout:
        file: Path | None = single_file.LAYOUTS / source.layout / component / "config.json"
    elif source.is_local:
        file = Path(source.name) / source.subfolder / "config.json"
    else:
        file = _cached(source, "config.json")
    return json.loads(file.read_text(encoding="utf-8")) if file else {}
