"""The peak of memory in each phase of a run, measured."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from avatar_gs.body.model import Body
from avatar_gs.core.device import release_cached_memory
from avatar_gs.lab.benchmarks.steps import REFINE_EVERY, all_peak_memory_mib, refining
from avatar_gs.protocols import Prior
from avatar_gs.settings import Settings
from avatar_gs.training.reports import preview_sheet
from avatar_gs.training.scene import Scenes
from avatar_gs.training.step import Trainer


class PeakMeter:
    """Notes the peak of memory in MiB of what runs under a name: ``gpu`` (tensors) and ``gpu reserved`` (what torch's
    allocator has taken for them), or ``host`` (all that the process holds) on a CPU. Of several, the largest."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peaks: dict[str, dict[str, float]] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self._reset()
        yield
        known = self.peaks.setdefault(phase, {})
        known |= {name: max(size, known.get(name, 0.0)) for name, size in self._peak().items()}

    def _reset(self) -> None:
        if self.device.type == "cuda":
            release_cached_memory()
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        with suppress(OSError):  # where a system has no such file, a peak is that of the process so far
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak becomes what is held now

    def _peak(self) -> dict[str, float]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        host = all_peak_memory_mib(self.device)
        return {name: size for name, size in host.items() if name != "host"} or host


def measure_phases(settings: Settings, body: Body, prior: Prior) -> dict[str, dict[str, float]]:
    """Peaks in MiB (``PeakMeter``) of a run's phases: ``prompts``, ``scenes`` (the body's depth, pose maps),
    ``warm-up`` (where guidance has one), ``step``, ``densify`` (the step that refines) and ``preview``. Methods that
    edit have nothing to edit here."""
    config, prompts = refining(settings)
    meter = PeakMeter(prior.device)
    with meter("prompts"):
        trainer = Trainer.build(config, body, prior, prompts)
    state = trainer.first_state(body)
    with meter("scenes"):
        scenes = Scenes(body, config, prior.image_size)
        scene = scenes.make(0)
    total = config.optimize.steps
    for _ in range(2 if state.guidance.warming_up(1, total) else 0):
        with meter("warm-up"):
            trainer.step(state, scene)
    state.step = REFINE_EVERY * (round(state.guidance.method.warmup * total) // REFINE_EVERY + 1)
    for _ in range(REFINE_EVERY - 1):
        with meter("step"):
            trainer.step(state, scene)
    with meter("densify"):
        report = trainer.step(state, scene)
    with meter("preview"):
        preview_sheet(state.model, scenes.preview(), scene, report, prior)
    return meter.peaks
