"""gsplat's kernels are compiled by one process at a time. gsplat's own build script runs here; nvcc does not."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from avatar_gs.render.rasterize import prepare_renderer

REPOSITORY = Path(__file__).parents[2]
PROCESSES = 2

PROCESS = """
import sys, time
from pathlib import Path
from types import SimpleNamespace

from torch.utils import cpp_extension

here = Path.cwd()

def compile_slowly(name, sources, *arguments, **options):
    folder = Path(arguments[4])  # after four lists of compiler arguments
    library = folder / f"{name}.so"
    if not library.exists():
        with (here / "compiled").open("a") as log:
            log.write("once\\n")
        (folder / "object.o").write_text("")
        time.sleep(1.5)
        (folder / "object.o").rename(library)  # fails where another process has removed the folder
    return SimpleNamespace(path=library)

cpp_extension._jit_compile = compile_slowly
import gsplat
from avatar_gs.render.rasterize import prepare_renderer

(here / f"ready_{sys.argv[1]}").touch()
while len(list(here.glob("ready_*"))) < int(sys.argv[2]):
    time.sleep(0.01)
prepare_renderer("cuda")
print(Path(__import__("gsplat.cuda._backend", fromlist=["_C"])._C.path).exists())
"""


def test_processes_that_start_together_compile_once(tmp_path):
    if importlib.util.find_spec("gsplat.csrc") is not None:
        pytest.skip("this gsplat came with its kernels")
    nvcc = tmp_path / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.touch()
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "CUDA_HOME": str(tmp_path / "cuda"),
        "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions"),
        "OMP_NUM_THREADS": "1",
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(index), str(PROCESSES)],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(PROCESSES)
    ]  # fmt: skip
    done = [(process.communicate(timeout=120), process.returncode) for process in running]
    assert [code for _, code in done] == [0] * PROCESSES, done
    assert [output.splitlines()[-1] for (output, _), _ in done] == ["True"] * PROCESSES
    assert (tmp_path / "compiled").read_text().count("once") == 1


def test_a_cpu_needs_no_kernels(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    prepare_renderer("cpu")
    assert not list(tmp_path.iterdir())
