"""``stage=benchmark``, and that the renderer stays far ahead of the dense reference."""

import json

import pytest
import torch

from avatar_gs.core.errors import UserError
from avatar_gs.lab.benchmarks.config import BenchmarkConfig
from avatar_gs.lab.benchmarks.renderers import person_scene, time_renderers
from avatar_gs.lab.stages import benchmark
from avatar_gs.render.rasterize import rasterize
from avatar_gs.types import Cameras, Gaussians, Render
from tests.lab.settings import lab_settings


def test_the_renderer_takes_a_small_fraction_of_the_dense_references_cpu_time() -> None:
    ours, dense = time_renderers(BenchmarkConfig(splats=[1000], pixels=[64], repeats=3))
    assert (ours["renderer"], dense["renderer"]) == ("avatar_gs", "dense torch")
    assert ours["cpu_min"] * 20 < dense["cpu_min"]


def test_other_renderers_are_timed_on_the_same_scene() -> None:
    seen = []

    def other(splats: Gaussians, cameras: Cameras) -> Render:
        seen.append((splats.means.detach(), cameras.K))
        return rasterize(splats, cameras)

    config = BenchmarkConfig(splats=[50], pixels=[16], repeats=2, dense_limit=0)
    rows = list(time_renderers(config, seed=3, others={"other": other}))
    assert [row["renderer"] for row in rows] == ["avatar_gs", "other"]
    assert all(0 < row["cpu_min"] <= row["cpu_median"] for row in rows)
    scene = person_scene(50, 16, seed=3)
    assert len(seen) == 3  # one to warm up
    assert all(torch.equal(means, scene.splats.means) and torch.equal(K, scene.cameras.K) for means, K in seen)


def test_the_stage_prints_a_line_for_each_row_of_plain_values(capsys: pytest.CaptureFixture) -> None:
    config = BenchmarkConfig(splats=[100, 3000], pixels=[32, 64], repeats=2, dense_limit=200_000)
    rows = benchmark.run(lab_settings(device="cpu", benchmark=config))
    assert [(row["splats"], row["renderer"]) for row in rows] == [
        (100, "avatar_gs"),
        (100, "dense torch"),
        (3000, "avatar_gs"),
    ]
    assert json.loads(json.dumps(rows)) == rows
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and "3,000, 64²" in lines[4] and "timed up to 200,000" in lines[5]
    assert all(0 < row["wall_min"] <= row["wall_median"] for row in rows)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"splats": [1], "pixels": [8, 8]}, "two lists of one length"),
        ({"splats": [], "pixels": []}, "two lists of one length"),
        ({"splats": [0], "pixels": [8]}, r"benchmark.splats=\[0\]"),
        ({"splats": [1], "pixels": [100_000]}, r"benchmark.pixels=\[100000\]"),
        ({"repeats": 0}, "benchmark.repeats=0"),
    ],
)
def test_wrong_settings_are_named(wrong: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        BenchmarkConfig(**wrong)
