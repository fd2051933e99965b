"""A run on two processes makes the avatar that one makes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from avatar_gs import cli, device
from avatar_gs.guidance.config import GuidanceConfig, Method
from avatar_gs.io import RunFolder
from avatar_gs.training import parallel
from avatar_gs.training.loop import optimize
from tests.training.conftest import ColorPrior, color_prompts, small_settings

REPOSITORY = Path(__file__).parents[2]
STEPS = 8


def settings():
    """DE-SDS with three views a step, one of them too many for two equal shares, and density control at work."""
    settings = small_settings(steps=STEPS, batch=3, checkpoint_every=5)
    settings.guidance = GuidanceConfig(method=Method.de_sds)
    settings.guidance.de_sds.warmup = 0.1
    return settings


class Counting(ColorPrior):
    """Knows how many pictures it was given, by itself."""

    encoded = 0

    def encode_images(self, images):
        self.encoded += len(images)
        return super().encode_images(images)


def run(body, folder):
    """What every process does."""
    torch.set_num_threads(1)
    prior = Counting()
    with parallel.joined("cpu"):
        shared = parallel.SharedPrior(prior) if parallel.count() > 1 else prior
        result = optimize(settings(), body, shared, color_prompts(), RunFolder(folder))
        figures = {"calls": prior.calls, "encoded": prior.encoded, "all": shared.calls, "first": parallel.is_first()}
        tensors = result.model.tensors()
    return figures, tensors


MAIN = """
import json, os, sys
from pathlib import Path
from avatar_gs.body.config import BodyConfig
from avatar_gs.body.model import load_body
from safetensors.torch import save_file
from tests.training.test_parallel import run

figures, tensors = run(load_body(BodyConfig()), Path("run"))
rank = os.environ["RANK"]
save_file(tensors, f"splats_{rank}.safetensors")
Path(f"figures_{rank}.json").write_text(json.dumps(figures))
"""


def test_two_processes_make_the_avatar_of_one(body, tmp_path):
    figures, alone = run(body, tmp_path / "alone")
    (tmp_path / "main.py").write_text(MAIN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "main.py"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (load_file(tmp_path / f"splats_{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first), "the avatars drifted apart"
    assert len(alone["means"]) != settings().splats.count, "density control should have been at work"
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, atol=1e-4, rtol=1e-3)
    shares = [json.loads((tmp_path / f"figures_{rank}.json").read_text()) for rank in (0, 1)]
    assert [share["first"] for share in shares] == [True, False]
    assert [share["encoded"] for share in shares] == [2 * STEPS, STEPS] and figures["encoded"] == 3 * STEPS
    assert all(share["all"] == figures["calls"] > share["calls"] for share in shares)
    assert sum(share["calls"] for share in shares) == figures["calls"]
    written = {path.relative_to(tmp_path / "run") for path in (tmp_path / "run").rglob("*")}
    assert written == {path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("*")}


@pytest.mark.parametrize(("visible", "expected"), [(None, ["0", "1", "2"]), ("4,7", ["4", "7", "4"])])
def test_every_process_has_a_gpu_of_its_own(monkeypatch, visible, expected):
    for name in ("OMP_WAIT_POLICY", "TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        monkeypatch.setenv(name, os.environ.get(name, "error"))  # comes back as it was
    found = []
    for rank in range(3):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        device.prepare_environment()
        found.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert found == expected


def test_one_process_alone_shares_nothing():
    gradient = torch.ones(3)
    with parallel.joined("cpu"):
        parallel.average([gradient, None])
        parallel.wait()
        assert parallel.count() == 1 and parallel.is_first()
        assert parallel.anywhere(True, torch.device("cpu")) and not parallel.anywhere(False, torch.device("cpu"))
    assert torch.equal(gradient, torch.ones(3))


def test_other_stages_are_for_one_process(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["stage=benchmark"]) == 1
    assert "stage=optimize only" in capsys.readouterr().err
