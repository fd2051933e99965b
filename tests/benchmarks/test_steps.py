"""The row of a recipe's steps, and the memory of a run's phases."""

from pathlib import Path

import pytest

from avatar_gs.lab.benchmarks.config import BenchmarkConfig
from avatar_gs.lab.stages import benchmark
from avatar_gs.prior.config import PriorConfig
from tests import tiny
from tests.benchmarks import steps
from tests.lab.settings import lab_settings
from tests.plain import plain_guidance
from tests.training.conftest import small_settings


def test_the_row_is_flat() -> None:
    found = {
        "step": 0.2,
        "floor": 0.1,
        "ratio": 2.0,
        "splats": 7,
        "parts": {"render": 0.01},
        "phases_mib": {"step": {"gpu": 1010.0, "gpu reserved": 1300.0}, "scenes": {"gpu": 5.0, "gpu reserved": 6.0}},
    }
    row = {"step ms": 200.0, "floor ms": 100.0, "ratio": 2.0, "splats": 7}
    row |= {"step MiB": "1,000 / 1,010 / 1,300", "scenes MiB": "? / 5 / 6", "render ms": 10.0}
    assert steps.flat(found, {"step": 1000.0}) == row
    without = steps.flat(found | {"ratio": None, "floor": 0}, {})
    assert without["ratio"] is None and without["floor ms"] is None


@pytest.mark.parametrize("networks", steps.NETWORKS)
def test_networks_are_mapped_to_the_setting(networks: str) -> None:
    settings = steps.composed([steps.compile_override(networks), "experiment=sd21"])
    assert settings.lab.benchmark.step and settings.stage == "benchmark"
    assert settings.prior.compile.name == steps.NETWORKS[networks] and settings.prior.name == "sd21"


def test_a_row_holds_the_benchmarks_result(tmp_path: Path) -> None:
    settings = small_settings(steps=30, preview_every=10)
    settings.guidance = plain_guidance(method="de_sds")
    settings.guidance.de_sds.warmup = 0.2
    prior = PriorConfig(name="custom", path=str(tiny.save_prior(tmp_path)))
    settings = lab_settings(settings, prior=prior, device="cpu", benchmark=BenchmarkConfig(step=True, repeats=1))
    (found,) = benchmark.run(settings)
    row = steps.flat(found, steps.expected(settings))
    assert {"step ms", "floor ms", "ratio", "step MiB", "warm-up MiB", "densify MiB", "preview MiB"} <= set(row)
    assert all(" / " in row[name] and row[name][0] != "?" for name in ("step MiB", "warm-up MiB", "preview MiB"))
