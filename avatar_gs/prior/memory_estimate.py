"""Estimates of a prior's memory and arithmetic, before anything is loaded.

A run has phases: guidance warms up; a step predicts, learns and goes backward; a preview is decoded. The estimate of a
phase is the sum of what is alive at once: weights, the graph of the VAE's encoder, what UNet, ControlNet or VAE use
meanwhile, renders and splats. The largest phase is the expected peak. Bytes and operations were counted op by op on the
true architectures, with attention that keeps no matrices (tests count them again), and are proportional to pixels,
channels, images and the bytes of a number. The program's other memory is a constant: on a GPU an allowance for CUDA's
context and the libraries' workspaces (not measured there), on a CPU the result of ``stages.estimate``.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from avatar_gs.prior.compute import DECODE_BATCH
from avatar_gs.prior.denoiser import POOLED
from avatar_gs.prior.loading import single_file
from avatar_gs.prior.loading.sources import WITH_WEIGHTS, Source, cached_file, config_file

PUBLISHED = {
    "sd15": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480, "controlnet": 361_279_120},
    "sd21": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840, "controlnet": 364_228_240},
    "sdxl": {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 817_720_320, "controlnet": 1_251_014_160},
}
"""Parameter counts of the presets, for before their files are here; both text encoders together."""
ENCODER_GRAPH = {"all": 3.18e9, "convolutions": 1.98e9, "least": 1.01e9, "tiny": 0.50e9}
ENCODER_WITHIN = {"all": 0.01e9, "convolutions": 0.02e9, "least": 0.20e9, "tiny": 0.01e9}
"""Bytes for one image of 512² in float32 that an encoder keeps for its backward pass, and that the pass needs in
addition; by ``EncoderKeeps``, and for TAESD's encoder (``tiny``)."""
ENCODER_CHECKPOINTS = {"all": 0.23e9, "convolutions": 0.22e9, "least": 0.21e9, "tiny": 0.50e9}
ENCODER_AGAIN = {"all": 1.82e9, "convolutions": 1.29e9, "least": 1.00e9, "tiny": 0.01e9}
"""The same for an encoder that is computed again in its backward pass."""
ENCODER_FORWARD, DECODER_FORWARD = 0.67e9, 0.81e9
"""Bytes in use within a forward pass of the VAE without a graph, in float32."""
TEXT_GRAPH, TEXT_GRAPH_PARAMETER = 0.022e9, 0.152
"""Bytes that the text encoder keeps for the backward pass of one prompt: a constant, and per parameter."""
RENDER_PIXEL, SHOWN_PIXEL, SPLAT, SPLAT_VIEW = 100, 20, 600, 250
"""Bytes per rendered pixel with its graph and without; per splat (parameters, gradient, Adam's moments, posed copies);
per splat and view (projection, its gradient, entries in tiles)."""
OVERHEAD = 0.8e9
"""On a GPU: a CUDA context, cuDNN's workspaces and the allocator's slack."""
RESERVED = 1.34
"""Bytes of an H100 that torch's allocator reserved per byte of tensors (20,838 for 15,599 MiB with SD 2.1, before
expandable segments were the default; not measured with them)."""
ENCODER_FLOPS = 1.12e12
"""Floating-point operations of the encoder's forward pass for one image of 512²; a backward pass takes as many."""
REFERENCE_PIXELS, REFERENCE_CHANNELS, REFERENCE_VAE_CHANNELS = 512**2, 320, 128


@dataclass(frozen=True)
class NetworksCost:
    """What UNet and ControlNet take in 16 bits for one image of 512², or for as many pixels of a larger one."""

    graph: float
    """Bytes kept for the backward pass."""
    within: float
    """Bytes that the backward pass needs in addition."""
    adapter: float
    """Bytes kept with the adapter of VSD."""
    forward: float
    """Bytes in use within a forward pass without a graph."""
    flops: float
    """Floating-point operations of a forward pass; a backward pass takes as many."""


SD = NetworksCost(graph=0.84e9, within=0.03e9, adapter=0.94e9, forward=0.09e9, flops=1.09e12)
"""Stable Diffusion 1.x and 2.x."""
SDXL = NetworksCost(graph=1.76e9, within=0.037e9, adapter=1.97e9, forward=0.057e9, flops=2.16e12)
"""Stable Diffusion XL, whose transformers are deeper and work on smaller maps; ``adapter`` in proportion to SD's."""


@dataclass(frozen=True)
class Architecture:
    """Inputs of the estimate: parameters by component, channels at full size, image side in pixels."""

    parameters: Mapping[str, int]
    channels: int = REFERENCE_CHANNELS
    vae_channels: int = REFERENCE_VAE_CHANNELS
    image_size: int = 512
    networks: NetworksCost = SD
    assumed: tuple[str, ...] = ()
    """Components that are not here and are assumed to be the preset's."""

    @property
    def reference_images(self) -> float:
        """Cost of one of its images, in images of 512²."""
        return self.image_size**2 / REFERENCE_PIXELS


@dataclass(frozen=True)
class Load:
    """What a run does with a prior; counts are of images at once. ``supersample`` 0: nothing is rendered."""

    batch: int
    network_bytes: int
    vae_bytes: int = 4
    """Per number in the encoder that a step differentiates; decoders compute in float32."""
    encoder_keeps: str = "least"
    """Key of ``ENCODER_GRAPH``."""
    supersample: int = 0
    splats: int = 0
    through_encoder: bool = False
    """Whether a step differentiates the VAE's encoder …"""
    through_networks: bool = False
    """… through UNet and ControlNet …"""
    through_text: bool = False
    """… and through the text encoder."""
    through_adapter: bool = False
    """Whether the adapter of VSD learns."""
    warms_up: bool = False
    """Whether the run begins with steps in which only guidance learns."""
    refits: bool = False
    """Whether a step has several updates."""
    predicted: int = 4
    """Predictions per image in one call without gradients."""
    encoded: int = 0
    decoded: int = 0
    """Images that the VAE encodes or decodes at once without gradients, while a step's graph is alive."""
    previewed: int = 0
    """Images that are decoded between steps, and as many rendered views."""
    encode_chunk: int = 0
    checkpoint_encoder: bool = False
    predict_chunk: int = 0
    offload_text: bool = False
    overhead: float = OVERHEAD
    """Bytes of the program other than weights, graphs and renders."""


def expected_phases(architecture: Architecture, load: Load) -> dict[str, dict[str, int]]:
    """Expected bytes by phase of a run and by user: weights, VAE, networks, renders, overhead.

    The sum of a phase is its expected peak. Phases that a load does not have are absent.
    """
    count, images, batch = architecture.parameters, architecture.reference_images, load.batch
    text = 4 * count["text_encoder"]
    weights = load.network_bytes * (count["unet"] + count["controlnet"]) + 4 * count["vae"]
    held = weights + (0 if load.offload_text and not load.through_text else text)
    of_vae = images * architecture.vae_channels / REFERENCE_VAE_CHANNELS
    of_encoder = of_vae * load.vae_bytes / 4
    of_networks = images * architecture.channels / REFERENCE_CHANNELS * load.network_bytes / 2
    pixels, splats = architecture.image_size**2 * batch, load.splats * (SPLAT + batch * SPLAT_VIEW)
    rendered = pixels * load.supersample**2 * RENDER_PIXEL + splats if load.supersample else 0
    shown = pixels * load.supersample**2 * SHOWN_PIXEL

    chunk = min(load.encode_chunk or batch, batch)
    twice = load.checkpoint_encoder
    kept = batch * (ENCODER_CHECKPOINTS if twice else ENCODER_GRAPH)[load.encoder_keeps] * of_encoder
    within = chunk * (ENCODER_AGAIN if twice else ENCODER_WITHIN)[load.encoder_keeps] * of_encoder
    graph = kept if load.through_encoder else 0
    at_once = min(load.predict_chunk or batch, batch)
    cost = architecture.networks
    learned = at_once * (cost.graph + cost.within) * of_networks
    adapted = at_once * (cost.adapter + cost.within) * of_networks
    predicted = load.predicted * batch
    forward = min(load.predict_chunk or predicted, predicted) * cost.forward * of_networks
    views = load.previewed * architecture.image_size**2 * RENDER_PIXEL
    if load.through_text:
        learned += batch * (TEXT_GRAPH + TEXT_GRAPH_PARAMETER * count["text_encoder"])

    def encoded(count: int) -> float:
        return min(count, load.encode_chunk or count) * ENCODER_FORWARD * of_vae

    def decoded(count: int) -> float:
        return min(count, DECODE_BATCH, load.encode_chunk or count) * DECODER_FORWARD * of_vae

    sizes = {
        "prompts": (weights + text, 0, 0, 0) if load.offload_text else None,
        "warm-up": (held, 0, max(learned, encoded(batch) * load.vae_bytes / 4), rendered) if load.warms_up else None,
        "predictions": (held, graph, forward, rendered),
        "learning": (held, graph, learned, rendered) if load.through_networks else None,
        "adapter": (held, graph, adapted, rendered) if load.through_adapter else None,
        "encoding": (held, graph, encoded(load.encoded), rendered) if load.encoded else None,
        "decoding": (held, graph, decoded(load.decoded), rendered) if load.decoded else None,
        "backward": (held, kept, within, rendered) if load.through_encoder else None,
        "refit": (held, kept, within, rendered + shown) if load.refits else None,
        "densify": (held, 0, 0, 3 * load.splats * SPLAT) if load.supersample else None,
        "preview": (held, 0, decoded(load.previewed), splats + views + shown) if load.previewed else None,
    }
    names = ("weights", "VAE", "networks", "renders", "overhead")
    return {
        phase: {name: round(size) for name, size in zip(names, (*parts, load.overhead), strict=True) if size}
        for phase, parts in sizes.items()
        if parts is not None
    }


BETWEEN_STEPS = ("prompts", "warm-up", "densify", "preview")
"""Phases outside ordinary steps."""


def expected_by_phase(architecture: Architecture, load: Load) -> dict[str, int]:
    """Expected peaks in bytes, with the phases of an ordinary step merged as ``step``."""
    sums = {phase: sum(parts.values()) for phase, parts in expected_phases(architecture, load).items()}
    step = max(size for phase, size in sums.items() if phase not in BETWEEN_STEPS)
    return {phase: size for phase, size in sums.items() if phase in BETWEEN_STEPS} | {"step": step}


def largest_phase(architecture: Architecture, load: Load) -> str:
    """The phase whose expected peak is the run's."""
    phases = expected_phases(architecture, load)
    return max(phases, key=lambda phase: sum(phases[phase].values()))


def expected_peak(architecture: Architecture, load: Load) -> dict[str, int]:
    """Bytes of the largest phase by user; the sum is the expected peak."""
    return expected_phases(architecture, load)[largest_phase(architecture, load)]


def expected_reserved(peak: Mapping[str, int]) -> int:
    """Bytes of a GPU that torch's allocator is expected to reserve for the tensors of a phase."""
    return round(RESERVED * (sum(peak.values()) - peak.get("overhead", 0)))


def expected_flops(
    architecture: Architecture, load: Load, forward: int | float, backward: int | float
) -> dict[str, float]:
    """Floating-point operations of a step's networks: those in float32 (VAE), and those of UNet and ControlNet.

    Args:
        forward: predictions per image without gradients.
        backward: predictions per image with a backward pass.
    """
    images, twice = load.batch * architecture.reference_images, 0 < load.predict_chunk < load.batch
    passes = (2 + load.checkpoint_encoder) if load.through_encoder else 0
    of_vae = (architecture.vae_channels / REFERENCE_VAE_CHANNELS) ** 2
    of_networks = (architecture.channels / REFERENCE_CHANNELS) ** 2
    return {
        "VAE": images * ENCODER_FLOPS * passes * of_vae,
        "networks": images * architecture.networks.flops * (forward + (2 + twice) * backward) * of_networks,
    }


def architecture_of(sources: Mapping[str, Source], name: str) -> tuple[Architecture | None, list[str]]:
    """The architecture of a located prior, from its configurations and the headers of its weights.

    Args:
        sources: result of ``locate``.
        name: of the prior; a preset's architecture is known without files.

    Returns:
        ``(architecture, absent)``: None if it is not known yet; ``absent`` are the components whose weights are not on
        this machine.
    """
    found = {name: sources[name].weight_files(name) for name in WITH_WEIGHTS if name in sources}
    absent = [component for component, files in found.items() if not files]
    if absent and name not in PUBLISHED:
        return None, absent
    counts = {
        component: _parameters(component, sources[component], files) if files else PUBLISHED[name][component]
        for component, files in found.items()
    }
    counts["text_encoder"] += counts.pop("text_encoder_2", 0)
    configs = {
        component: component_config(component, sources[component])
        or (packaged_config(component, name) if name in PUBLISHED else {})
        for component in ("unet", "vae")
    }
    return _architecture(counts, configs, tuple(absent)), absent


def packaged_architecture(name: str) -> Architecture:
    """A preset's architecture (sd15 or sd21), without its files."""
    configs = {component: packaged_config(component, name) for component in ("unet", "vae")}
    return _architecture(PUBLISHED[name], configs, tuple(part for part in WITH_WEIGHTS if part in PUBLISHED[name]))


def _architecture(
    parameters: Mapping[str, int], configs: Mapping[str, Mapping[str, Any]], assumed: tuple[str, ...]
) -> Architecture:
    blocks = configs["vae"].get("block_out_channels", [REFERENCE_VAE_CHANNELS] * 4)
    return Architecture(
        parameters,
        channels=configs["unet"].get("block_out_channels", [REFERENCE_CHANNELS])[0],
        vae_channels=blocks[0],
        image_size=(configs["unet"].get("sample_size") or 64) * 2 ** (len(blocks) - 1),
        networks=SDXL if configs["unet"].get("addition_embed_type") == POOLED else SD,
        assumed=assumed,
    )


def _parameters(component: str, source: Source, files: list[Path]) -> int:
    """Count from the files' headers."""
    total = 0
    for file in files:
        with safe_open(file, "pt") as tensors:
            names = list(tensors.keys())
            if source.layout:
                prefix = single_file.PREFIXES.get(component, "")
                names = [name for name in names if name.startswith(prefix)] or names
            for name in names:
                total += math.prod(tensors.get_slice(name).get_shape())
    return total


def packaged_config(component: str, layout: str) -> dict[str, Any]:
    """The configuration of a component in a packaged layout, sd15 or sd21."""
    file = single_file.LAYOUTS / layout / component / config_file(component)
    return json.loads(file.read_text(encoding="utf-8"))


def component_config(component: str, source: Source) -> dict[str, Any]:
    """The configuration of a component; empty if it is not here yet."""
    if source.layout:
        sized = {"sample_size": source.latent_size} if source.latent_size else {}
        return packaged_config(component, source.layout) | sized
    name = config_file(component)
    if source.is_local:
        file: Path | None = Path(source.name) / source.subfolder / name
    else:
        file = cached_file(source.name, source.subfolder, name)
    return json.loads(file.read_text(encoding="utf-8")) if file else {}
