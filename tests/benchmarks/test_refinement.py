"""The benchmark of a refinement runs, and its methods agree."""

import json

import torch

from avatar_gs.splats.neighbours import Points
from tests.benchmarks import refinement


def test_every_part_is_timed_with_every_method(tmp_path):
    before, threads = Points.nearest, torch.get_num_threads()
    refinement.main(["--splats", "400", "--device", "cpu", "--repeats", "1", "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["part"] for row in rows] == [
        "detached splats",
        "nearest points of the surface",
        "neighbours for smoothing",
        "refinement",
    ]
    for row in rows:
        assert len(row["milliseconds"]) == len(refinement.methods(torch.device("cpu")))
        assert all(value > 0 for value in row["milliseconds"].values())
    assert Points.nearest is before and torch.get_num_threads() == threads
