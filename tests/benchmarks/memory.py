"""What the phases of a run take of memory, measured on a short run with random weights, beside what is expected.

``steps.py --memory`` prints it. On a GPU: the peaks of torch's tensors (allocated) and of its allocator (reserved); on
a CPU, where no peak can be reset, the resident memory at the end of a phase.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import wraps
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch

from avatar_gs.body.model import load_body
from avatar_gs.device import choose_device
from avatar_gs.guidance.config import Method
from avatar_gs.io import RunFolder
from avatar_gs.prior import memory
from avatar_gs.prior.prompts import bucket_prompts
from avatar_gs.prior.random_weights import architecture_of, random_prior
from avatar_gs.settings import Settings
from avatar_gs.splats.density import DistillationStrategy
from avatar_gs.stages import forecast
from avatar_gs.training import loop
from avatar_gs.training.step import Report

STEPS = 10
WARM_UP = 3
"""Of the steps; in a run whose guidance warms up."""
MIB = 2**20


class Peaks:
    """The largest ``(allocated, reserved)`` bytes of every phase. A phase within another is no part of that one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.found: dict[str, tuple[int, int]] = {}
        self._open: list[str] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._take()
        self._open.append(name)
        try:
            yield
        finally:
            self._take()
            self._open.pop()

    def within(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, every call of which is the phase ``name``."""

        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            with self.phase(name):
                return function(*arguments, **named)

        return call

    def _take(self) -> None:
        """Count what has been since the last time to the innermost phase, and begin again."""
        if self._open:
            name = self._open[-1]
            before = self.found.get(name, (0, 0))
            allocated, reserved = self._now()
            self.found[name] = max(before[0], allocated), max(before[1], reserved)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def _now(self) -> tuple[int, int]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return torch.cuda.max_memory_allocated(self.device), torch.cuda.max_memory_reserved(self.device)
        return forecast.resident(), 0


def rows(settings: Settings) -> dict[str, str]:
    """By phase, in MiB: expected (of tensors, on a GPU) / allocated / reserved; on a CPU expected / resident."""
    device = choose_device(settings.device.value)
    sizes = expected(settings, device)
    found = measured(settings, device)
    cells = {phase: [sizes.get(phase, 0), *(size for size in peak if size)] for phase, peak in found.items()}
    return {phase: " / ".join(f"{size / MIB:,.0f}" for size in cell) for phase, cell in cells.items()}


def expected(settings: Settings, device: str) -> dict[str, int]:
    """Expected peaks in bytes by phase, without what is no tensor on a GPU; where only the whole run's is known, that
    one as the step's."""
    load = forecast.load_of(settings, device, forecast.Task.optimize)
    if device == "cuda":
        load = replace(load, overhead=0)
    architecture = architecture_of(settings.prior)
    by_phase = getattr(memory, "expected_by_phase", None)
    return (
        by_phase(architecture, load) if by_phase else {"step": sum(memory.expected_peak(architecture, load).values())}
    )


def short(settings: Settings) -> Settings:
    """The same run in ``STEPS`` steps: a warm-up if it has one, two refinements, a preview at the end."""
    guidance = settings.guidance
    if guidance.method is Method.de_sds and guidance.de_sds.warmup:
        guidance = replace(guidance, de_sds=replace(guidance.de_sds, warmup=WARM_UP / STEPS))
    return replace(
        settings,
        guidance=guidance,
        optimize=replace(settings.optimize, steps=STEPS, preview_every=STEPS, checkpoint_every=0),
        density=replace(settings.density, start=0.0, stop=1.0, prune_stop=1.0, every=STEPS // 2),
    )


def measured(settings: Settings, device: str) -> dict[str, tuple[int, int]]:
    """The peaks of a short run by phase: warm-up, step, densify, preview."""
    settings = short(settings)
    body, prior = load_body(settings.body, device), random_prior(settings.prior, device, settings.seed)
    peaks, phases = Peaks(prior.device), {"train_step": "step", "preview_sheet": "preview"}
    prompts = bucket_prompts("a person", "", settings.prior.prompts)

    def on_step(_: object, report: Report) -> None:
        if report.distilled.warming_up:
            peaks.found["warm-up"] = max(peaks.found.get("warm-up", (0, 0)), peaks.found.pop("step"))

    with ExitStack() as stack:
        for name, phase in phases.items():
            stack.enter_context(patch.object(loop, name, peaks.within(phase, getattr(loop, name))))
        after_step = peaks.within("densify", DistillationStrategy.after_step)
        stack.enter_context(patch.object(DistillationStrategy, "after_step", after_step))
        run = RunFolder(stack.enter_context(TemporaryDirectory()))
        loop.optimize(settings, body, prior, prompts, run, on_step=on_step)
    return peaks.found
