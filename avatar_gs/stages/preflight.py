"""Checks before a run with a prior that is not packaged, in one table before anything is loaded: what is there, what is
missing and where to get it, and whether the run fits into memory."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from avatar_gs.body.files import FREE_BODY, find_body
from avatar_gs.core import gsplat_kernels, runs
from avatar_gs.core.device import choose_device, physical_cores
from avatar_gs.core.errors import UserError
from avatar_gs.identity.embedding import read_identity
from avatar_gs.identity.photos import find_photos
from avatar_gs.prior.loading import lora
from avatar_gs.prior.loading.hub import format_bytes
from avatar_gs.prior.loading.sources import Source, locate
from avatar_gs.prior.memory_estimate import (
    PUBLISHED,
    Architecture,
    Load,
    architecture_of,
    expected_peak,
    expected_reserved,
    largest_phase,
    packaged_architecture,
)
from avatar_gs.render.rasterize import require_renderer
from avatar_gs.settings import Settings
from avatar_gs.stages import estimate
from avatar_gs.stages.estimate import SingleImage, Task

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Line:
    """One part: what was found, and what is wrong with it ("" if nothing)."""

    part: str
    found: str
    wrong: str = ""


def preflight(settings: Settings, *tasks: Task | SingleImage) -> Mapping[str, Source] | None:
    """Log the table of the tasks (default: ``Task.optimize``); with the packaged prior, only device and renderer.

    Returns:
        The located files of the prior, for ``load_prior``; None for the packaged prior.

    Raises:
        UserError: for the first part that is missing, or if the run cannot fit into the free memory, with the
            overrides that would make it fit.
    """
    lines, sources = table(settings, *tasks)
    for line in lines:
        LOGGER.info("%-12s %s%s", line.part, line.found, f"  <- {line.wrong}" if line.wrong else "")
    wrong = [line for line in lines if line.wrong]
    if wrong:
        raise UserError(wrong[0].wrong)
    return sources


def table(settings: Settings, *tasks: Task | SingleImage) -> tuple[list[Line], Mapping[str, Source] | None]:
    """Lines and sources as ``preflight`` logs and returns them. Loads and downloads nothing; the device must exist."""
    tasks = tasks or (Task.optimize,)
    device, prior, sources = choose_device(settings.device), settings.prior, None
    renderer, identity = _renderer(device, draws=Task.optimize in tasks), _identity(settings, tasks)
    if not prior.path:
        return [*renderer, *identity], None
    lines = [_body(settings), *renderer, *map(_lora, prior.lora)]
    try:
        sources = locate(prior)
    except UserError as error:
        architecture = packaged_architecture(prior.name) if prior.name in PUBLISHED else None
        lines += [Line("prior", "not found", str(error))]
    else:
        architecture, absent = architecture_of(sources, prior.name)
        lines += [_prior("prior", sources["unet"], [part for part in absent if part != "controlnet"])]
        lines += [_prior("ControlNet", sources["controlnet"], [part for part in absent if part == "controlnet"])]
    lines += identity
    for task in tasks:
        lines += _costs(settings, architecture, device, task)
    return lines, sources


def _costs(settings: Settings, architecture: Architecture | None, device: str, task: Task | SingleImage) -> list[Line]:
    load = estimate.memory_load(settings, device, task)
    if architecture is None:
        presets = {name: sum(expected_peak(packaged_architecture(name), load).values()) for name in PUBLISHED}
        known = ", ".join(f"with {name} it would be about {format_bytes(size)}" for name, size in presets.items())
        return [Line("memory", f"unknown until the prior is here (stage=fetch); {known}")]
    memory = _memory(architecture, load, device, task)
    if architecture.assumed:
        basis = (
            f"{memory.found}; {', '.join(architecture.assumed)} not here: counted as packaged for {settings.prior.name}"
        )
        memory = replace(memory, found=basis)
    if task is not Task.optimize or memory.wrong:
        return [memory]
    return [memory, Line("time", estimate.least_time(settings, architecture, load, device))]


def _body(settings: Settings) -> Line:
    try:
        file = find_body(settings.body.path)
    except UserError as error:
        return Line("body", "not found", str(error))
    return Line("body", "the free body" if file == FREE_BODY else str(file))


def _renderer(device: str, draws: bool) -> list[Line]:
    if not draws:
        return [Line("device", device)]
    try:
        require_renderer(device)
    except UserError as error:
        return [Line("device", device), Line("renderer", "not usable", str(error))]
    if device == "cpu":
        return [Line("device", "cpu"), Line("renderer", "our own, for CPUs")]
    return [
        Line("device", device),
        Line("renderer", "gsplat"),
        Line("kernels", gsplat_kernels.find_kernels(physical_cores()).status),
    ]


def _prior(part: str, source: Source, absent: list[str]) -> Line:
    place = f"{source.name}/{source.subfolder}" if source.subfolder and part == "ControlNet" else source.name
    if not absent:
        return Line(part, f"{place} ({'file' if source.layout else 'folder' if source.is_local else 'in the cache'})")
    if source.offline:
        wrong = (
            f"{place}: {', '.join(absent)} not in the cache, and the hub cannot be reached: stage=fetch completes it"
        )
        return Line(part, f"{place} (incomplete)", wrong)
    return Line(part, f"{place} (loading downloads {', '.join(absent)}; stage=fetch does it beforehand)")


def _lora(entry: str) -> Line:
    """Whether a LoRA file can be read; loading the prior checks whether it fits."""
    try:
        found = lora.read(entry)
    except UserError as error:
        return Line("LoRA", entry, str(error))
    return Line("LoRA", f"{found.file}, scale {found.scale:g}, {len(found.layers)} layers")


def _identity(settings: Settings, tasks: Sequence[Task | SingleImage]) -> list[Line]:
    """The identity's file, or the photos that will be read."""
    learned = settings.folder / runs.IDENTITY_FILE
    try:
        if settings.identity:
            vectors = read_identity(Path(settings.identity)).vectors
            return [Line("identity", f"{settings.identity}, {vectors.shape[0]} embeddings of width {vectors.shape[1]}")]
        if settings.photos and (Task.embed in tasks or not learned.exists()):  # else they are not read
            files = len(find_photos(settings.photos))
            return [Line("identity", f"to be learned from {settings.photos}, {files} file{'s' * (files != 1)}")]
        return []
    except UserError as error:
        return [Line("identity", "not readable", str(error))]


def _memory(architecture: Architecture, load: Load, device: str, task: Task | SingleImage) -> Line:
    peak, free = expected_peak(architecture, load), estimate.free_memory(device)
    parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in peak.items())
    found = (
        f"about {format_bytes(sum(peak.values()))} ({parts}), most in the phase “{largest_phase(architecture, load)}”"
    )
    if device == "cuda":
        found += f"; torch's allocator may hold {format_bytes(expected_reserved(peak))} for it"
    if free is None:
        return Line("memory", found)
    found += f"; {format_bytes(free)} free"
    if estimate.fits(architecture, load, free):
        return Line("memory", found)
    return Line("memory", found, estimate.advice(architecture, load, device, task, free))
