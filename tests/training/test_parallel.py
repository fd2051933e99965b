"""A run on two processes makes the avatar that one makes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed as dist

from avatar_gs import cli
from avatar_gs.core import device
from avatar_gs.core.errors import UserError
from avatar_gs.core.runs import RunFolder
from avatar_gs.render import shading
from avatar_gs.render.config import ShadingConfig
from avatar_gs.render.rasterize import rasterize
from avatar_gs.training import parallel, rendering, step
from avatar_gs.training.config import Background, EnvironmentConfig, PoseMode
from avatar_gs.training.loop import optimize
from tests.plain import plain_guidance
from tests.training.conftest import ColorPrior, color_prompts, small_settings

REPOSITORY = Path(__file__).parents[2]
STEPS = 8


def plain_settings():
    """DE-SDS with three views a step, one of them too many for two equal parts, and density control at work."""
    settings = small_settings(steps=STEPS, batch=3, checkpoint_every=5)
    settings.guidance = plain_guidance(method="de_sds")
    settings.guidance.de_sds.warmup = 0.1
    return settings


def lit_settings():
    """Every view is lit and drawn by itself, in random poses before a learned background; each step is taken twice."""
    settings = plain_settings()
    settings.guidance.inner_steps = 2
    settings.optimize.shading = ShadingConfig(probability=1.0, textureless=0.3, warmup=0.0)
    settings.optimize.poses = PoseMode.random
    settings.optimize.background = Background.learned
    settings.optimize.environment = EnvironmentConfig(learning_rate=0.02, random_share=0.3, width=8, octaves=1)
    return settings


SETTINGS = {"plain": plain_settings, "lit": lit_settings, "at odds": lit_settings}


class Counting(ColorPrior):
    """Knows how many images it was given, by itself."""

    encoded = 0

    def encode_images(self, images):
        self.encoded += len(images)
        return super().encode_images(images)


def add_in_no_fixed_order():
    """Makes gradients of screen positions differ between processes, as those of a GPU do, only much more. The noise of
    one process is the other's with its sign turned, so that the mean of two is exact."""
    sign, random = (0, 1, -1)[0 if parallel.count() == 1 else 1 + dist.get_rank()], torch.Generator().manual_seed(7)

    def rasterized(*arguments, **options):
        render = rasterize(*arguments, **options)
        positions = render.info["means2d"]
        if sign and positions.requires_grad:
            factor = 1 + 0.5 * sign * (2 * torch.rand(positions.shape, generator=random) - 1)
            positions.register_hook(lambda gradient: gradient * factor)
        return render

    rendering.rasterize = shading.rasterize = rasterized


ALL_GRADIENTS = step.gradients


def without_screen_gradients(state, render):
    """All gradients but those that densification goes by."""
    return ALL_GRADIENTS(state, replace(render, info=render.info | {"means2d": torch.zeros(())}))


def run(body, folder, which):
    """What every process does."""
    torch.set_num_threads(1)
    prior, sky, grown = Counting(), {}, []

    def watch(state, report):
        grown.append(report.refinement.duplicated + report.refinement.split)
        sky.update(state.background.state_dict() if state.background else {})

    add_in_no_fixed_order()
    shared = parallel.SharedPrior(prior) if parallel.count() > 1 else prior
    result = optimize(SETTINGS[which]().training, body, shared, color_prompts(), RunFolder(folder), on_step=watch)
    figures = {"calls": prior.calls, "encoded": prior.encoded, "all": shared.calls, "grown": sum(grown)}
    return figures, result.model.tensors() | {f"sky.{name}": value.clone() for name, value in sky.items()}


MAIN = """
import json, os
from pathlib import Path
from avatar_gs.body.config import BodyConfig
from avatar_gs.body.model import load_body
from safetensors.torch import save_file
from avatar_gs.training import parallel, step
from tests.training import test_parallel

body, rank = load_body(BodyConfig()), os.environ["RANK"]
with parallel.joined("cpu"):
    figures = test_parallel.answers_of_others()
    for which in test_parallel.SETTINGS:
        if which == "at odds":
            step.gradients = test_parallel.without_screen_gradients
        figures[which], tensors = test_parallel.run(body, Path(which), which)
        save_file(tensors, f"{which}_{rank}.safetensors")
Path(f"figures_{rank}.json").write_text(json.dumps(figures))
"""


def answers_of_others():
    """What the functions of ``parallel`` say in this process of two."""
    rank, cpu = dist.get_rank(), torch.device("cpu")
    mask = torch.tensor([rank == 0, rank == 1])
    with parallel.first_alone():
        alone = not Path("second").exists()
        if rank == 1:
            Path("second").touch()
    parallel.require_same(cpu, splats=7)
    with pytest.raises(UserError) as error:
        parallel.require_same(cpu, steps=5, splats=100 + rank)
    followed = [torch.full((3,), float(rank)), torch.arange(4).view(2, 2).t() * rank]
    parallel.follow_first(followed)
    return {
        "first": parallel.is_first(),
        "alone": alone,
        "mask": parallel.from_first(mask).tolist(),
        "followed": [value.tolist() for value in followed],
        "error": str(error.value),
    }


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder in which two processes have run."""
    folder = tmp_path_factory.mktemp("together")
    (folder / "main.py").write_text(MAIN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "main.py"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture
def renderer_stays():
    """``run`` replaces the renderer of this process too."""
    yield
    rendering.rasterize = shading.rasterize = rasterize


def tensors_of(folder, which):
    return [load_file(folder / f"{which}_{rank}.safetensors") for rank in (0, 1)]


def figures_of(folder):
    return [json.loads((folder / f"figures_{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.usefixtures("renderer_stays")
@pytest.mark.parametrize("which", ["plain", "lit"])
def test_two_processes_make_the_avatar_of_one(body, together, tmp_path, which):
    figures, alone = run(body, tmp_path, which)
    first, second = tensors_of(together, which)
    assert all(torch.equal(first[name], second[name]) for name in first), "the avatars drifted apart"
    assert figures["grown"] > 0 and len(alone["means"]) != plain_settings().splats.count, "density control at work"
    assert first.keys() == alone.keys() and ("sky.2.weight" in alone) == (which == "lit")
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, atol=1e-4, rtol=1e-3)
    processes = [process[which] for process in figures_of(together)]
    assert [3 * process["encoded"] for process in processes] == [2 * figures["encoded"], figures["encoded"]]
    assert all(process["all"] == figures["calls"] > process["calls"] for process in processes)
    assert sum(process["calls"] for process in processes) == figures["calls"]
    written = {path.relative_to(together / which) for path in (together / which).rglob("*")}
    assert written == {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}


def test_processes_with_different_screen_gradients_grow_the_same_splats(together):
    first, second = tensors_of(together, "at odds")
    assert all(torch.equal(first[name], second[name]) for name in first), "the avatars drifted apart"
    assert figures_of(together)[0]["at odds"]["grown"] > 0


def test_processes_agree(together):
    first, second = figures_of(together)
    assert [first["first"], second["first"]] == [True, False]
    assert first["alone"] and second["alone"], "the second waits for the first"
    assert first["mask"] == second["mask"] == [True, False]
    assert first["followed"] == second["followed"] == [[0.0] * 3, [[0, 0], [0, 0]]]
    assert first["error"] == second["error"]
    assert first["error"].startswith("torchrun: its processes have from 100 to 101 splats, expected the same in all")


@pytest.mark.parametrize(("visible", "expected"), [(None, ["0", "1", "2"]), ("4,7", ["4", "7", "4"])])
def test_every_process_has_its_own_gpu(monkeypatch, visible, expected):
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


def test_a_single_process_communicates_nothing():
    gradient = torch.ones(3)
    with parallel.joined("cpu"):
        parallel.average([gradient, None])
        parallel.wait()
        assert parallel.count() == 1 and parallel.is_first()
        assert parallel.anywhere(True, torch.device("cpu")) and not parallel.anywhere(False, torch.device("cpu"))
    assert torch.equal(gradient, torch.ones(3))


def test_other_stages_refuse_several_processes(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["stage=benchmark"]) == 1
    assert "stage=optimize only" in capsys.readouterr().err
