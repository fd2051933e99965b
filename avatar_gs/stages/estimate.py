"""Estimates of a run's memory and time on a device, and the settings that would make it fit."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from avatar_gs.core.console import rounded_duration
from avatar_gs.core.device import available_memory, convolution_rate, resident_memory
from avatar_gs.core.errors import UserError
from avatar_gs.guidance.config import GuidanceConfig
from avatar_gs.guidance.methods.base import MethodConfig
from avatar_gs.identity.cross_init import ENCODE_BATCH
from avatar_gs.prior.compute import choose_dtype, choose_encoder_keeps, choose_vae_dtype
from avatar_gs.prior.config import Encoder, Precision, PriorConfig
from avatar_gs.prior.loading.hub import format_bytes
from avatar_gs.prior.memory_estimate import Architecture, Load, expected_flops, expected_peak
from avatar_gs.settings import Settings

PREVIEW_BATCH = 4
"""Views that previews show."""
MARGIN = 0.95
"""Fraction of the free memory that a run's estimate may take."""
ENGINE = 0.22e9
"""Host memory in bytes of body, renderer, kernels and few splats, in addition to the libraries (measured: 211 MiB)."""


class Task(Enum):
    """What is about to be done with a prior."""

    optimize = "optimize"
    preview = "preview"
    embed = "embed"


@dataclass(frozen=True)
class SingleImage:
    """Guidance of one image without splats, by one or more methods in turn."""

    methods: tuple[MethodConfig, ...]
    through_encoder: bool
    """Whether gradients pass the encoder, since colours are optimised and not latents."""


def memory_load(settings: Settings, device: str, task: Task | SingleImage) -> Load:
    """The prior's load in a task."""
    prior = settings.prior
    methods = task.methods if isinstance(task, SingleImage) else (settings.guidance.chosen,)
    short = prior.precision is not Precision.float32
    load = Load(
        batch=1,
        network_bytes=2 if short and not (device == "cpu" and prior.precision is Precision.float16) else 4,
        encode_chunk=prior.encode_chunk,
        checkpoint_encoder=prior.checkpoint_encoder,
        predict_chunk=prior.predict_chunk,
        offload_text=prior.offload_text and device == "cuda",
    )
    load = replace(load, **encoder_of(prior, device))
    if device == "cpu":
        load = replace(load, overhead=resident_memory() + ENGINE)
    if task is Task.preview:
        return replace(load, batch=PREVIEW_BATCH, predicted=2, decoded=PREVIEW_BATCH)
    if task is Task.embed:
        return replace(
            load,
            batch=settings.embed.resolved(prior.prompts.style).batch,
            predicted=0,
            previewed=PREVIEW_BATCH,
            encoded=min(ENCODE_BATCH, prior.encode_chunk or ENCODE_BATCH),
            through_networks=True,
            through_text=True,
        )
    if isinstance(task, SingleImage):
        through_networks = any(method.through_networks or method.through_adapter for method in methods)
        return replace(load, decoded=1, through_encoder=task.through_encoder, through_networks=through_networks)
    config, guidance = settings.optimize, settings.guidance
    return replace(
        load,
        batch=config.batch,
        supersample=config.supersample,
        splats=settings.density.max_splats,
        through_encoder=True,
        through_networks=guidance.chosen.through_networks,
        through_adapter=guidance.chosen.through_adapter,
        warms_up=guidance.chosen.warms_up,
        refits=guidance.inner_steps > 1,
        predicted=predictions(guidance),
        encoded=config.batch if guidance.edits else 0,
        decoded=config.batch if guidance.rgb_weight else 0,
        previewed=max(config.batch, PREVIEW_BATCH) if config.preview_every else 0,
    )


def encoder_of(prior: PriorConfig, device: str) -> dict[str, Any]:
    """The fields of ``Load`` about the encoder that a step differentiates."""
    tiny = prior.encoder is Encoder.tiny and prior.tiny_until >= 1
    keeps = "tiny" if tiny else choose_encoder_keeps(prior.encoder_keeps, device).name
    return {"vae_bytes": choose_vae_dtype(prior, device).itemsize, "encoder_keeps": keeps}


def predictions(guidance: GuidanceConfig) -> int:
    """Largest number of predictions per image in one call without gradients."""
    counted = guidance.chosen.predictions is not None
    return guidance.chosen.peak_predictions() + (counted and guidance.perp_neg > 0)


def fits(architecture: Architecture, load: Load, free: int) -> bool:
    """Whether a load should fit into ``free`` bytes (``free_memory``)."""
    return sum(expected_peak(architecture, load).values()) <= MARGIN * free


def require_memory(architecture: Architecture, load: Load, device: str, task: Task | SingleImage) -> None:
    """Raise UserError for a load that exceeds the free memory, with the settings that would make it fit."""
    free = free_memory(device)
    if free is not None and not fits(architecture, load, free):
        raise UserError(advice(architecture, load, device, task, free))


def advice(architecture: Architecture, load: Load, device: str, task: Task | SingleImage, free: int) -> str:
    """The cheapest settings that fit: first those that change no result, then 16 bits, fewer views, smaller renders."""
    total = sum(expected_peak(architecture, load).values())
    need = f"this needs about {format_bytes(total)} of memory, and {format_bytes(free)} are free on device={device}"
    for changed in cheaper(load, device, task):
        if fits(architecture, changed, free):
            return f"{need}: {overrides_between(load, changed, task)} would fit"
    other = ", or use a machine with more memory" + (" or device=cpu" if device == "cuda" else "")
    return f"{need}: no chunks, batch, resolution or precision make it fit; free some memory{other}"


def cheaper(load: Load, device: str, task: Task | SingleImage) -> Iterator[Load]:
    """Smaller loads for the same task, the least costly first."""
    shorter = [load, replace(load, network_bytes=2)] if device == "cuda" and load.network_bytes == 4 else [load]
    batches = range(load.batch, 0, -1) if task in (Task.optimize, Task.embed) else [load.batch]
    for supersample in range(load.supersample, min(load.supersample, 1) - 1, -1):
        for batch in batches:
            for kept in shorter:
                smaller = replace(kept, batch=batch, supersample=supersample)
                if task is Task.optimize:
                    smaller = replace(smaller, encoded=min(load.encoded, batch), decoded=min(load.decoded, batch))
                yield from _exact(smaller, device)


def _exact(load: Load, device: str) -> Iterator[Load]:
    """The same results with less memory and more time, in increasing order of time."""
    yield load
    if device == "cuda" and not load.through_text:
        load = replace(load, offload_text=True)
        yield load
    if max(load.encoded, load.decoded, load.previewed, load.batch if load.through_encoder else 0) > 1:
        load = replace(load, encode_chunk=1, encoded=min(load.encoded, 1))
        yield load
    if load.through_encoder:
        if load.encoder_keeps not in ("least", "tiny"):
            load = replace(load, encoder_keeps="least")
            yield load
        load = replace(load, checkpoint_encoder=True)
        yield load
    for chunk in (2, 1):
        if chunk < load.batch * max(load.predicted, 1):
            yield replace(load, predict_chunk=min(load.predict_chunk or chunk, chunk))


def overrides_between(load: Load, changed: Load, task: Task | SingleImage) -> str:
    """The overrides that change one load to the other."""
    found = []
    if changed.network_bytes != load.network_bytes:
        found.append("prior.precision=float16")
    if isinstance(task, Task) and changed.batch != load.batch:
        found.append(f"{task.value}.batch={changed.batch}")
    if changed.supersample != load.supersample:
        found.append(f"optimize.supersample={changed.supersample}")
    for name in ("offload_text", "encode_chunk", "encoder_keeps", "checkpoint_encoder", "predict_chunk"):
        value = getattr(changed, name)
        if value != getattr(load, name):
            found.append(f"prior.{name}={str(value).lower()}")
    return " ".join(found)


def least_time(settings: Settings, architecture: Architecture, load: Load, device: str) -> str:
    """A lower bound of the time: the networks' arithmetic alone, at the rate measured on this device."""
    if settings.guidance.chosen.predictions is None:
        return f"no estimate for guidance={settings.guidance.method}"
    flops = expected_flops(architecture, load, *settings.guidance.chosen.mean_predictions())
    flops["VAE"] *= settings.guidance.inner_steps
    short = settings.prior.precision is not Precision.float32
    rates = {
        "VAE": convolution_rate(
            device, str(choose_vae_dtype(settings.prior, device)).removeprefix("torch."), tf32=short
        ),
        "networks": convolution_rate(
            device, str(choose_dtype(settings.prior.precision, device)).removeprefix("torch.")
        ),
    }
    seconds = sum(flops[part] / rates[part] for part in flops)
    counted = ", ".join(f"{part} {flops[part] / 1e12:.2f} Tflop at {rates[part] / 1e12:.2f} Tflop/s" for part in flops)
    steps = settings.optimize.steps
    step, run = rounded_duration(seconds), rounded_duration(seconds * steps)
    return f"estimated at least {step} a step, {run} for {steps} steps ({counted})"


def free_memory(device: str) -> int | None:
    """Bytes that the program can use on a device: free memory, and what the process (host) or torch's allocator (GPU)
    already holds; None if unknown."""
    if device == "cuda":
        import torch

        unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0]) + unused
    return available_memory() + resident_memory()
