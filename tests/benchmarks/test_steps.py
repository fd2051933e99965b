"""The row of a recipe's steps, and the memory of a run's phases."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avatar_gs.guidance.config import Method
from avatar_gs.prior.config import PriorConfig
from avatar_gs.settings import Device
from tests import tiny
from tests.benchmarks import memory, steps
from tests.training.conftest import small_settings


def test_the_row_is_flat_and_of_tensors_where_a_gpu_is_measured() -> None:
    found = {
        "step": 0.2,
        "floor": 0.1,
        "ratio": 2.0,
        "splats": 7,
        "parts": {"render": 0.01},
        "predicted_mib": {"weights": 100.0, "overhead": 50.0},
        "peak_memory_mib": {"host": 900.4, "gpu": 101.0},
    }
    row = {"step ms": 200.0, "floor ms": 100.0, "ratio": 2.0, "splats": 7}
    row |= {"expected MiB": 100, "host MiB": 900, "gpu MiB": 101, "render ms": 10.0}
    assert steps.flat(found) == row
    on_a_cpu = steps.flat(found | {"peak_memory_mib": {"host": 900.4}, "ratio": None, "floor": 0})
    assert on_a_cpu["expected MiB"] == 150 and on_a_cpu["ratio"] is None and on_a_cpu["floor ms"] is None


def test_the_networks_are_asked_for_in_the_settings_own_words() -> None:
    for networks in ("eager", "compiled"):
        settings = steps.composed([steps.compile_override(networks)])
        assert settings.benchmark.step and settings.stage.name == "benchmark"


@pytest.mark.parametrize("method", [Method.de_sds, Method.sds])
def test_every_phase_of_a_run_is_measured(tmp_path: Path, method: Method) -> None:
    settings = small_settings()
    settings.guidance.method = method
    prior = PriorConfig(name="custom", path=str(tiny.save_prior(tmp_path)))
    found = memory.rows(replace(settings, prior=prior, device=Device.cpu))
    assert set(found) == {"step", "densify", "preview", *(["warm-up"] if method is Method.de_sds else [])}
    assert all(" / " in cell for cell in found.values())


def test_a_phase_within_another_is_counted_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = iter([5, 9, 3])
    monkeypatch.setattr(memory.forecast, "resident", lambda: next(levels))
    peaks = memory.Peaks(torch.device("cpu"))
    with peaks.phase("outer"), peaks.phase("inner"):
        pass
    assert peaks.found == {"outer": (5, 0), "inner": (9, 0)}
