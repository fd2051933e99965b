"""``stage=benchmark``: times the renderer and the dense reference, or whole steps and the cost of their prior alone."""

import platform
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch

from avatar_gs.core.console import progress, rounded_duration
from avatar_gs.core.device import choose_device
from avatar_gs.lab.benchmarks.renderers import time_renderers
from avatar_gs.lab.settings import LabSettings
from avatar_gs.render.rasterize import require_renderer

if TYPE_CHECKING:
    from avatar_gs.lab.benchmarks.steps import StepTimes

HEADER = (
    f"{'splats, px':>16}  {'renderer':<11}  {'min / median ms':>17}  {'forward':>8}  {'backward':>8}  {'CPU ms':>8}"
)


def run(settings: LabSettings) -> list[dict[str, Any]]:
    """Print a table; returns its rows as plain values (see ``time_renderers`` and ``time_steps``)."""
    device = choose_device(settings.device)
    return _steps(settings, device) if settings.lab.benchmark.step else _renderers(settings, device)


def _renderers(settings: LabSettings, device: str) -> list[dict[str, Any]]:
    print(f"RGB, alpha and depth with gradients on {device}, {torch.get_num_threads()} threads, seed {settings.seed}")
    print(HEADER)
    rows = []
    for row in time_renderers(settings.lab.benchmark, settings.seed, device):
        print(format_row(row), flush=True)
        rows.append(row)
    if device == "cpu":
        limit = settings.lab.benchmark.dense_limit
        print(f"The dense reference stores every splat at every pixel; it is timed up to {limit:,} of these.")
    return rows


def format_row(row: dict[str, Any]) -> str:
    """One line of the table."""
    size = f"{row['splats']:,}, {row['pixels']}²"
    times = f"{row['wall_min']:.1f} / {row['wall_median']:.1f}"
    return (
        f"{size:>16}  {row['renderer']:<11}  {times:>17}  {row['forward_min']:>8.1f}  {row['backward_min']:>8.1f}"
        f"  {row['cpu_min']:>8.1f}"
    )


def _steps(settings: LabSettings, device: str) -> list[dict[str, Any]]:
    """Steps of a run with random weights of the prior's architecture; nothing is downloaded."""
    from avatar_gs.body.model import load_body  # heavy, and the renderer's table does not need them
    from avatar_gs.lab.benchmarks.phases import measure_phases
    from avatar_gs.lab.benchmarks.random_weights import architecture_of, random_prior
    from avatar_gs.lab.benchmarks.steps import time_steps
    from avatar_gs.prior.memory_estimate import expected_by_phase, expected_peak
    from avatar_gs.stages import estimate

    require_renderer(device)
    architecture, task = architecture_of(settings.prior), estimate.Task.optimize
    load, free = estimate.memory_load(settings, device, task), estimate.free_memory(device)
    estimate.require_memory(architecture, load, device, task)
    at_once = replace(load, encode_chunk=0, checkpoint_encoder=False, predict_chunk=0)
    floor = free is None or estimate.fits(architecture, at_once, free)
    predicted = {part: round(size / 2**20, 1) for part, size in expected_peak(architecture, load).items()}
    with progress("make networks with random weights"):
        body, prior = load_body(settings.body, device), random_prior(settings.prior, device, settings.seed)
    optimize, size = settings.optimize, prior.image_size
    faster = prior.accelerate(settings.prior.compile, steps=optimize.steps, batch=optimize.batch)
    tiny = (
        f", the tiny encoder until {prior.codec.tiny_until:g} of the run"
        if prior.codec.tiny_encoder is not None
        else ""
    )
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU"
    print(
        f"{settings.guidance.method}, {optimize.batch} views of {size}² drawn at {size * optimize.supersample}², "
        f"{settings.splats.count:,} splats; {prior.name} with random weights, "
        f"networks in {str(prior.denoiser.dtype)[6:]}, "
        f"encoder in {str(prior.codec.vae_encoder.dtype)[6:]} (it keeps {prior.codec.encoder_keeps.name}){tiny}, "
        f"compile={faster.name}; {name}, {torch.get_num_threads()} threads"
    )
    print(f"expected peak of memory: {_mebibytes(predicted)}, {sum(predicted.values()):,.0f} MiB", flush=True)
    found = time_steps(settings, body, prior, settings.lab.benchmark.repeats, floor=floor)
    print(f"{'in the step':<44}{'ms':>10}")
    for part, seconds in found.parts.items():
        print(f"  {part:<42}{1e3 * seconds:>10.1f}")
    print(f"{optimize.steps:,} steps of {1e3 * found.step:.1f} ms: {rounded_duration(optimize.steps * found.step)}")
    print(f"calls of UNet and ControlNet in a step, in images: {_in_words(found.calls)}")
    if found.resting_calls:
        print(f"where y_con does not learn: {_in_words(found.resting_calls)}")
    _print_alone(found)
    print(f"measured: {_mebibytes(found.peak_memory_mib)}")
    phases = measure_phases(settings, body, prior)
    _print_phases(phases, expected_by_phase(architecture, load))
    return [asdict(found) | {"ratio": found.ratio, "predicted_mib": predicted, "phases_mib": phases}]


def _print_phases(measured: dict[str, dict[str, float]], expected: dict[str, int]) -> None:
    """Peak memory by phase: expected, with overhead, and measured."""
    names = list(measured["step"])
    print(f"{'peak of memory by phase, MiB':<34}{'expected':>10}" + "".join(f"{name:>14}" for name in names))
    for phase, sizes in measured.items():
        guess = f"{expected[phase] / 2**20:,.0f}" if phase in expected else ""
        print(f"  {phase:<32}{guess:>10}" + "".join(f"{sizes[name]:>14,.0f}" for name in names))


def _in_words(calls: tuple[tuple[int, bool], ...]) -> str:
    return ", ".join(f"{count}{' with a backward pass' if backward else ''}" for count, backward in calls)


def _print_alone(found: "StepTimes") -> None:
    """The parts of a step alone, and the step in relation to them."""
    from avatar_gs.lab.benchmarks.steps import FLOOR, NETWORKS, RASTERISER

    if not found.alone:
        print("no floor: the prior alone, with all images at once, does not fit into the free memory")
        return
    print(f"{'alone (* the floor: the prior by itself)':<44}{'ms':>10}")
    for part, seconds in found.alone.items():
        print(f"{'*' if part in FLOOR else ' '} {part:<42}{1e3 * seconds:>10.1f}")
    print(f"step {1e3 * found.step:.1f} ms, floor {1e3 * found.floor:.1f} ms: {found.ratio:.3f} floors a step")
    rasterised, networks = (sum(found.alone.get(part, 0.0) for part in parts) for parts in (RASTERISER, NETWORKS))
    ratio = f"{rasterised / networks:.3f} of UNet and ControlNet's time"
    print(f"rasterising {found.splats:,} splats, forward and backward: {ratio}")


def _mebibytes(sizes: dict[str, float]) -> str:
    return ", ".join(f"{name} {size:,.0f} MiB" for name, size in sizes.items())
