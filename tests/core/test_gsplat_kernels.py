"""What gsplat's kernels need is looked for before a run: nvcc of torch's CUDA, a C++ compiler, ninja."""

import sys

import pytest
import torch
from torch.utils import cpp_extension

from avatar_gs.core import gsplat_kernels
from avatar_gs.core.errors import UserError
from avatar_gs.render.rasterize import require_renderer


def program(path, answer=""):
    """An executable that prints a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\nprint({answer!r})\n")
    path.chmod(0o755)
    return path


def nvcc_of(path, version):
    return program(path / "nvcc", f"Cuda compilation tools, release {version}, V{version}.48")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with torch for CUDA 13.0, a C++ compiler and ninja, no CUDA toolkit; returns the folder on its PATH."""
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "built"))
    for name in ("CXX", "MAX_JOBS"):
        monkeypatch.delenv(name, raising=False)
    find = gsplat_kernels.importlib.util.find_spec
    monkeypatch.setattr(
        gsplat_kernels.importlib.util, "find_spec", lambda name: None if name == "gsplat.csrc" else find(name)
    )
    for name in ("c++", "ninja"):
        program(tmp_path / "bin" / name)
    return tmp_path / "bin"


def test_without_nvcc(machine):
    assert (
        "found no nvcc" in gsplat_kernels.find_kernels().problem
        and "install the CUDA toolkit" in gsplat_kernels.find_kernels().problem
    )
    with pytest.raises(UserError, match=r"device=cuda: found no nvcc.*device=cpu") as error:
        require_renderer("cuda")
    assert "\n" not in str(error.value)


def test_tools_and_time_of_a_build_are_reported(machine, monkeypatch):
    nvcc = nvcc_of(machine, "13.2")
    found = gsplat_kernels.find_kernels(16)
    assert not found.problem
    assert f"not compiled yet: the first use builds them with {nvcc} (CUDA 13.2), c++ and ninja" in found.status
    assert "an estimated 114 s with 10 jobs" in found.status
    assert "an estimated 10 min with 2 jobs" in gsplat_kernels.find_kernels(2).status
    monkeypatch.setenv("MAX_JOBS", "13")
    assert "an estimated 88 s with 13 jobs" in gsplat_kernels.find_kernels(16).status
    require_renderer("cuda")


def test_cuda_home_goes_before_the_path(machine, monkeypatch, tmp_path):
    nvcc_of(machine, "12.8")
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(tmp_path / "cuda"))
    assert "12.8" in gsplat_kernels.find_kernels().problem
    nvcc_of(tmp_path / "cuda" / "bin", "13.0")
    assert not gsplat_kernels.find_kernels().problem


def test_an_nvcc_of_another_cuda_than_torchs(machine):
    nvcc_of(machine, "12.8")
    wrong = gsplat_kernels.find_kernels().problem
    assert "CUDA 12.8" in wrong and "torch was built with CUDA 13.0" in wrong and "install CUDA toolkit 13.0" in wrong
    with pytest.raises(UserError, match=r"device=cuda: .*CUDA 12\.8.*device=cpu"):
        require_renderer("cuda")


def test_an_nvcc_that_does_not_answer(machine):
    program(machine / "nvcc", "no version")
    assert "names no CUDA release" in gsplat_kernels.find_kernels().problem


@pytest.mark.parametrize("name", ["c++", "ninja"])
def test_without_a_compiler_or_ninja(machine, name, monkeypatch):
    nvcc_of(machine, "13.0")
    (machine / name).unlink()
    assert f"found no {name}" in gsplat_kernels.find_kernels().problem
    if name == "c++":
        program(machine / "g++-14")
        monkeypatch.setenv("CXX", "g++-14")
        assert not gsplat_kernels.find_kernels().problem


def test_what_was_built_before_is_found_but_needs_nvcc_too(machine, tmp_path):
    """As gsplat loads it: through torch's builder, which asks for the tools each time."""
    library = tmp_path / "built" / "py311" / "gsplat_cuda" / "gsplat_cuda.so"
    library.parent.mkdir(parents=True)
    library.touch()
    assert "found no nvcc" in gsplat_kernels.find_kernels().problem
    nvcc_of(machine, "13.0")
    assert gsplat_kernels.find_kernels() == gsplat_kernels.Kernels(f"compiled before, {library}")


def test_kernels_that_came_with_gsplat_need_nothing(machine, monkeypatch):
    monkeypatch.setattr(gsplat_kernels.importlib.util, "find_spec", lambda name: name)
    assert gsplat_kernels.find_kernels() == gsplat_kernels.Kernels("compiled, they came with gsplat")


def test_without_gsplat(machine, monkeypatch):
    monkeypatch.setattr(gsplat_kernels.importlib.util, "find_spec", lambda name: None)
    assert "pip install gsplat" in gsplat_kernels.find_kernels().problem
