"""How much memory and arithmetic a prior and a run with it will take, before anything is loaded.

A run has phases: guidance warms up, a step predicts, learns, goes backward, a preview is decoded. Of each, the estimate
is the sum of what is alive at once: weights, the VAE encoder's graph, what UNet, ControlNet or VAE use meanwhile, the
renders and the splats. The largest phase is the expected peak. Bytes and arithmetic were counted op by op on the true
architectures, attention without matrices (tests count them again), and grow in proportion to pixels, channels, images
and bytes of a number. What the program holds besides is a lump sum: on a GPU an allowance for CUDA's context and the
libraries' workspaces (it was not measured there), on a CPU what ``estimate`` finds.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open

from avatar_gs.prior.loading import single_file
from avatar_gs.prior.loading.sources import CONFIGS, WITH_WEIGHTS, Source, weight_files

PUBLISHED = {
    "sd15": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480, "controlnet": 361_279_120},
    "sd21": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840, "controlnet": 364_228_240},
}
"""Parameters of the presets, known before they are here."""
ENCODER_GRAPH = {"all": 3.18e9, "convolutions": 1.98e9, "least": 1.01e9, "tiny": 0.50e9}
ENCODER_WITHIN = {"all": 0.01e9, "convolutions": 0.02e9, "least": 0.20e9, "tiny": 0.01e9}
"""Bytes for one image of 512² in float32: what an encoder keeps for its backward pass, and what that pass needs beyond
it. ``all``: as torch's layers keep; ``convolutions``: those keep no input; ``least``: nor does GroupNorm with SiLU keep
more than its own; ``tiny``: TAESD's encoder."""
ENCODER_CHECKPOINTS = {"all": 0.23e9, "convolutions": 0.22e9, "least": 0.21e9, "tiny": 0.50e9}
ENCODER_AGAIN = {"all": 1.82e9, "convolutions": 1.29e9, "least": 1.00e9, "tiny": 0.01e9}
"""The same where the encoder is computed a second time."""
NETWORKS_GRAPH, NETWORKS_WITHIN, ADAPTER_GRAPH = 0.84e9, 0.03e9, 0.94e9
"""Bytes that UNet and ControlNet keep for the backward pass, in 16 bits, and need beyond it; what they keep with the
adapter of VSD."""
NETWORKS_FORWARD, ENCODER_FORWARD, DECODER_FORWARD = 0.09e9, 0.67e9, 0.81e9
"""Bytes in use within a forward pass without a graph: 16-bit networks, VAE in float32."""
TEXT_GRAPH, TEXT_GRAPH_PARAMETER = 0.022e9, 0.152
"""Bytes that the text encoder keeps for the backward pass of one prompt: some, and more for each of its parameters."""
RENDER_PIXEL, SHOWN_PIXEL, SPLAT, SPLAT_VIEW = 100, 20, 600, 250
"""Bytes for a rendered pixel with its graph, and without; for a splat: its parameters, gradient, Adam's two moments,
posed copies; and for a splat in a view: its projection, that one's gradient, and its places in tiles."""
DECODE_BATCH = 8
"""Images that the VAE decodes at once at most."""
OVERHEAD = 0.8e9
"""On a GPU: a CUDA context, cuDNN's workspaces and the allocator's slack."""
RESERVED = 1.34
"""What torch's allocator took of an H100 for each byte of tensors (20,838 of 15,599 MiB, with SD 2.1, before
expandable segments were the default; with them it was not measured)."""
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
    vae_bytes: int = 4
    """Of a number in the encoder that a step goes backward through; decoders compute in float32."""
    encoder_keeps: str = "least"
    """What that encoder keeps (``ENCODER_GRAPH``)."""
    supersample: int = 0
    splats: int = 0
    through_encoder: bool = False
    """Whether a step goes backward through the VAE's encoder …"""
    through_networks: bool = False
    """… through UNet and ControlNet …"""
    through_text: bool = False
    """… and through the text encoder."""
    through_adapter: bool = False
    """Whether the adapter of VSD learns from all pictures at once."""
    warms_up: bool = False
    """Whether the run begins with steps that only guidance learns from."""
    refits: bool = False
    """Whether a step has several updates."""
    predicted: int = 4
    """Predictions that a step asks for at once without gradients, of each picture."""
    encoded: int = 0
    decoded: int = 0
    """Pictures that the VAE encodes or decodes at once without gradients, while a step's graph is alive."""
    previewed: int = 0
    """Pictures that are decoded between steps, and as many views drawn."""
    encode_chunk: int = 0
    checkpoint_encoder: bool = False
    predict_chunk: int = 0
    offload_text: bool = False
    overhead: float = OVERHEAD
    """Bytes that the program holds beside weights, graphs and renders."""


def expected_phases(architecture: Architecture, load: Load) -> dict[str, dict[str, int]]:
    """Bytes by phase of a run and by what takes them: weights, VAE, networks, renders, overhead. The sum of a phase is
    its expected peak. Phases that a load does not have are left out."""
    count, pictures, batch = architecture.parameters, architecture.pictures, load.batch
    text = 4 * count["text_encoder"]
    weights = load.network_bytes * (count["unet"] + count["controlnet"]) + 4 * count["vae"]
    held = weights + (0 if load.offload_text and not load.through_text else text)
    of_vae = pictures * architecture.vae_channels / REFERENCE_VAE_CHANNELS
    of_encoder = of_vae * load.vae_bytes / 4
    of_networks = pictures * architecture.channels / REFERENCE_CHANNELS * load.network_bytes / 2
    pixels, splats = architecture.image_size**2 * batch, load.splats * (SPLAT + batch * SPLAT_VIEW)
    drawn = pixels * load.supersample**2 * RENDER_PIXEL + splats if load.supersample else 0
    shown = pixels * load.supersample**2 * SHOWN_PIXEL

    chunk = min(load.encode_chunk or batch, batch)
    again = load.checkpoint_encoder
    kept = batch * (ENCODER_CHECKPOINTS if again else ENCODER_GRAPH)[load.encoder_keeps] * of_encoder
    within = chunk * (ENCODER_AGAIN if again else ENCODER_WITHIN)[load.encoder_keeps] * of_encoder
    graph = kept if load.through_encoder else 0
    learned = min(load.predict_chunk or batch, batch) * (NETWORKS_GRAPH + NETWORKS_WITHIN) * of_networks
    adapted = batch * (ADAPTER_GRAPH + NETWORKS_WITHIN) * of_networks
    asked = load.predicted * batch
    if load.through_text:
        learned += batch * (TEXT_GRAPH + TEXT_GRAPH_PARAMETER * count["text_encoder"])

    def encoded(images: int) -> float:
        return min(images, load.encode_chunk or images) * ENCODER_FORWARD * of_vae

    def decoded(images: int) -> float:
        return min(images, DECODE_BATCH, load.encode_chunk or images) * DECODER_FORWARD * of_vae

    sizes = {
        "prompts": (weights + text, 0, 0, 0) if load.offload_text else None,
        "warm-up": (held, 0, max(learned, encoded(batch) * load.vae_bytes / 4), drawn) if load.warms_up else None,
        "predictions": (held, graph, min(load.predict_chunk or asked, asked) * NETWORKS_FORWARD * of_networks, drawn),
        "learning": (held, graph, learned, drawn) if load.through_networks else None,
        "adapter": (held, graph, adapted, drawn) if load.through_adapter else None,
        "encoding": (held, graph, encoded(load.encoded), drawn) if load.encoded else None,
        "decoding": (held, graph, decoded(load.decoded), drawn) if load.decoded else None,
        "backward": (held, kept, within, drawn) if load.through_encoder else None,
        "refit": (held, kept, within, drawn + shown) if load.refits else None,
        "densify": (held, 0, 0, 3 * load.splats * SPLAT) if load.supersample else None,
        "preview": (
            held,
            0,
            decoded(load.previewed),
            splats + load.previewed * architecture.image_size**2 * RENDER_PIXEL + shown,
        )
        if load.previewed
        else None,
    }
    names = ("weights", "VAE", "networks", "renders", "overhead")
    return {
        phase: {name: round(size) for name, size in zip(names, (*parts, load.overhead), strict=True) if size}
        for phase, parts in sizes.items()
        if parts is not None
    }


BETWEEN_STEPS = ("prompts", "warm-up", "densify", "preview")
"""The phases that are no part of an ordinary step."""


def expected_by_phase(architecture: Architecture, load: Load) -> dict[str, int]:
    """Expected peaks in bytes, the phases of an ordinary step as one: ``step``."""
    sums = {phase: sum(parts.values()) for phase, parts in expected_phases(architecture, load).items()}
    step = max(size for phase, size in sums.items() if phase not in BETWEEN_STEPS)
    return {phase: size for phase, size in sums.items() if phase in BETWEEN_STEPS} | {"step": step}


def largest_phase(architecture: Architecture, load: Load) -> str:
    """The phase whose expected peak is the run's."""
    phases = expected_phases(architecture, load)
    return max(phases, key=lambda phase: sum(phases[phase].values()))


def expected_peak(architecture: Architecture, load: Load) -> dict[str, int]:
    """Bytes of the largest phase by what takes them. The sum is the expected peak."""
    return expected_phases(architecture, load)[largest_phase(architecture, load)]


def expected_reserved(peak: Mapping[str, int]) -> int:
    """What torch's allocator is expected to take of a GPU for the tensors of a phase."""
    return round(RESERVED * (sum(peak.values()) - peak.get("overhead", 0)))


def expected_flops(
    architecture: Architecture, load: Load, forward: int | float, backward: int | float
) -> dict[str, float]:
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
    found = {component: weight_files(component, sources[component]) for component in WITH_WEIGHTS}
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
        image_size=(configs["unet"].get("sample_size") or 64) * 2 ** (len(blocks) - 1),
        assumed=assumed,
    )


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
        sized = {"sample_size": source.latent_size} if source.latent_size else {}
        return packaged_config(component, source.layout) | sized
    name = CONFIGS.get(component, "config.json")
    if source.is_local:
        file: Path | None = Path(source.name) / source.subfolder / name
    else:
        file = _cached(source, name)
    return json.loads(file.read_text(encoding="utf-8")) if file else {}
