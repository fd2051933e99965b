"""What a run with a prior of one's own will meet, in one table, before anything is loaded: what is there, what is
missing and where to get it, and whether it will fit into memory."""

import importlib.util
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from avatar_gs.body.files import FREE_BODY, find_body
from avatar_gs.device import choose_device
from avatar_gs.errors import UserError
from avatar_gs.guidance.config import Method
from avatar_gs.identity.embedding import read_identity
from avatar_gs.prior.config import Precision
from avatar_gs.prior.fetch import readable
from avatar_gs.prior.folder import Source, locate
from avatar_gs.prior.memory import Architecture, Load, architecture_of, expected_peak
from avatar_gs.render.rasterize import require_renderer
from avatar_gs.settings import Settings

LOGGER = logging.getLogger(__name__)

THROUGH_NETWORKS = (Method.de_sds, Method.l_diff, Method.vsd)
"""Methods that go backward through the UNet."""
PREVIEW_BATCH = 4
MARGIN = 0.95
"""The share of the free memory that a run may be expected to take."""


@dataclass(frozen=True)
class Line:
    """One part: what was found, and what is wrong with it ("" if nothing is)."""

    part: str
    found: str
    wrong: str = ""


def preflight(settings: Settings, *, sampling: bool = False) -> None:
    """Logs the table of a run (``sampling``: of a preview) with a prior that is not packaged.

    Raises:
        UserError: for the first thing that is missing, or if the run cannot fit into the memory that is free; it names
            the overrides that would make it fit.
    """
    if not settings.prior.path:
        return
    lines = check(settings, sampling=sampling)
    for line in lines:
        LOGGER.info("%-12s %s%s", line.part, line.found, f"  <- {line.wrong}" if line.wrong else "")
    wrong = [line for line in lines if line.wrong]
    if wrong:
        raise UserError(wrong[0].wrong)


def check(settings: Settings, *, sampling: bool = False) -> list[Line]:
    """The table. The device must exist; nothing is loaded and nothing downloaded."""
    device = choose_device(settings.device.name)
    lines = [_body(settings), *_renderer(device, sampling)]
    try:
        prior = settings.prior
        sources = locate(prior.path, prior.controlnet, prior.vae, prior.tokenizer)
    except UserError as error:
        return [*lines, Line("prior", "not found", str(error))]
    architecture, absent = architecture_of(sources, prior.name)
    lines += [_prior("prior", sources["unet"], [part for part in absent if part != "controlnet"])]
    lines += [_prior("ControlNet", sources["controlnet"], [part for part in absent if part == "controlnet"])]
    lines += [_embedding(settings)]
    if architecture is None:
        return [*lines, Line("memory", "unknown until the prior is here (stage=fetch)")]
    return [*lines, _memory(settings, architecture, device, sampling)]


def _body(settings: Settings) -> Line:
    try:
        file = find_body(settings.body.path)
    except UserError as error:
        return Line("body", "not found", str(error))
    return Line("body", "the free body" if file == FREE_BODY else str(file))


def _renderer(device: str, sampling: bool) -> list[Line]:
    if sampling:
        return [Line("device", device)]
    try:
        require_renderer(device)
    except UserError as error:
        return [Line("device", device), Line("renderer", "not usable", str(error))]
    if device == "cpu":
        return [Line("device", "cpu"), Line("renderer", "our own, for CPUs")]
    built = importlib.util.find_spec("gsplat.csrc") is not None
    kernels = "gsplat, kernels compiled" if built else "gsplat; nvcc is here, the first use compiles for some minutes"
    return [Line("device", device), Line("renderer", kernels)]


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


def _embedding(settings: Settings) -> Line:
    if settings.identity:
        try:
            rows = read_identity(Path(settings.identity)).vectors
        except UserError as error:
            return Line("embedding", "not readable", str(error))
        return Line("embedding", f"{settings.identity}, {rows.shape[0]} rows of width {rows.shape[1]}")
    return Line(
        "embedding", f"to be learned from {settings.photos}" if settings.photos else "none: nobody in particular"
    )


def _memory(settings: Settings, architecture: Architecture, device: str, sampling: bool) -> Line:
    load = _load(settings, device, sampling)
    peak = expected_peak(architecture, load)
    total, free = sum(peak.values()), free_memory(device)
    parts = ", ".join(f"{name} {readable(size)}" for name, size in peak.items())
    found = f"about {readable(total)} ({parts})"
    if free is None:
        return Line("memory", found)
    found += f" of {readable(free)} free"
    if total <= MARGIN * free:
        return Line("memory", found)
    return Line("memory", found, _advice(architecture, load, device, total, free))


def _load(settings: Settings, device: str, sampling: bool) -> Load:
    short = settings.prior.precision is not Precision.float32
    on_cpu = device == "cpu" and settings.prior.precision is Precision.float16  # which computes in float32 there
    method = settings.guidance.method
    return Load(
        batch=PREVIEW_BATCH if sampling else settings.optimize.batch,
        supersample=0 if sampling else settings.optimize.supersample,
        splats=settings.density.max_splats,
        network_bytes=2 if short and not on_cpu else 4,
        through_networks=method in THROUGH_NETWORKS,
    )


def _advice(architecture: Architecture, load: Load, device: str, total: int, free: int) -> str:
    """What would fit, at the least cost to the result: 16 bits, then fewer views a step, then smaller renders."""

    def fits(changed: Load) -> bool:
        return sum(expected_peak(architecture, changed).values()) <= MARGIN * free

    need = f"this needs about {readable(total)} of memory, and {readable(free)} are free on device={device}"
    shorter = [load, replace(load, network_bytes=2)] if device == "cuda" and load.network_bytes == 4 else [load]
    batches = range(load.batch, 0, -1) if load.supersample else [load.batch]
    for supersample in range(load.supersample, min(load.supersample, 1) - 1, -1):
        for batch in batches:
            for kept in shorter:
                changed = replace(kept, batch=batch, supersample=supersample)
                if fits(changed):
                    return f"{need}: {_words(load, changed)} would fit"
    other = ", a machine with more memory" + (" or device=cpu" if device == "cuda" else "")
    return f"{need}: no batch, resolution or precision makes it fit; free some{other}"


def _words(load: Load, changed: Load) -> str:
    words = ["prior.precision=float16"] if changed.network_bytes != load.network_bytes else []
    words += [f"optimize.batch={changed.batch}"] if changed.batch != load.batch else []
    words += [f"optimize.supersample={changed.supersample}"] if changed.supersample != load.supersample else []
    return " ".join(words)


def free_memory(device: str) -> int | None:
    """Bytes that a new program can take on a device; None where the system does not say."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
