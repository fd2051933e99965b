"""The number of threads, the choice of a processor, and the memory that is taken."""

import mmap
import os
import subprocess
import sys

import pytest
import torch

from avatar_gs.core import device, gsplat_kernels
from avatar_gs.core.errors import UserError
from avatar_gs.core.gsplat_kernels import Kernels


def test_physical_cores_are_those_we_may_use():
    assert 1 <= device.physical_cores() <= (os.cpu_count() or 1)


def allow_processors(monkeypatch, count):
    monkeypatch.setattr(device.psutil.Process, "cpu_affinity", lambda self: list(range(count)))


def test_hyperthreads_count_once(monkeypatch):
    allow_processors(monkeypatch, 4)
    monkeypatch.setattr(device.psutil, "cpu_count", lambda logical: 4 if logical else 2)
    monkeypatch.setattr(device, "_cgroup_quota", lambda: None)
    assert device.physical_cores() == 2


def test_a_cgroup_quota_limits_the_cores(monkeypatch, tmp_path):
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    monkeypatch.setattr(device, "Path", lambda path: tmp_path / path.rsplit("/", 1)[1])
    allow_processors(monkeypatch, 16)
    monkeypatch.setattr(device.psutil, "cpu_count", lambda logical: 16)
    assert device.physical_cores() == 2


def test_the_gpus_allocator_grows_its_blocks_unless_the_user_says_otherwise(monkeypatch):
    for name in device.ALLOCATOR_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    device.prepare_environment()
    assert "PYTORCH_CUDA_ALLOC_CONF" not in os.environ
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "")  # comes back after the test
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF")
    device.prepare_environment()
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"


def test_out_of_memory_errors_are_recognised():
    with pytest.raises(RuntimeError) as too_much:
        torch.empty(2**60, dtype=torch.uint8)
    assert device.is_out_of_memory(too_much.value)
    for error in (
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"),
    ):
        assert device.is_out_of_memory(error)
    for error in (RuntimeError("shapes differ"), ValueError("not enough memory")):
        assert not device.is_out_of_memory(error)


def test_the_peak_of_memory_is_not_that_of_the_parent_process():
    said = "from avatar_gs.core import device; print(device.peak_resident_memory())"
    with mmap.mmap(-1, 2**29) as held:
        held.write(bytes(2**29))
        least, more = (
            int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
            for code in (said, f"held = b'1' * 2**28; del held; {said}")
        )
    assert 2**22 < least < 2**27 and 2**28 < more < 2**28 + 2**27
    assert device.peak_resident_memory() > 2**29


def test_without_proc_getrusage_is_used(monkeypatch, tmp_path):
    known = device.peak_resident_memory()
    monkeypatch.setattr(device, "Path", lambda path: tmp_path / "none")
    assert device.peak_resident_memory() >= 0.9 * known


def test_devices():
    assert device.choose_device("cpu") == "cpu"
    able = torch.cuda.is_available() and not gsplat_kernels.find_kernels().problem
    assert device.choose_device("auto") == ("cuda" if able else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_without_a_device_is_a_user_error():
    with pytest.raises(UserError, match="device=cuda"):
        device.choose_device("cuda")


def test_one_of_several_gpus_is_the_only_one_that_the_process_sees():
    code = (
        "import os, torch; from avatar_gs.core.device import choose_device\n"
        "torch.cuda.is_available = lambda: True\n"
        "print(choose_device('cuda:1'), os.environ['CUDA_VISIBLE_DEVICES'], choose_device('cuda:1'))\n"
        "try: choose_device('cuda:0')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    for visible, seen in ((None, "1"), ("4,7", "7"), ("4", "-1")):
        environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        environment |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        assert done.stdout.splitlines()[0] == f"cuda {seen} cuda"
        assert "UserError device=cuda:0: this process uses another GPU already" in done.stdout


def test_devices_on_which_no_splats_are_rendered_are_refused():
    with pytest.raises(UserError, match=r"device=mps: splats are rendered on a CPU or on CUDA only"):
        device.choose_device("mps")


@pytest.fixture
def gpu(monkeypatch):
    """A machine where torch finds a CUDA device."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    device._automatic.cache_clear()
    yield
    device._automatic.cache_clear()


@pytest.mark.usefixtures("gpu")
def test_auto_takes_a_gpu_only_if_splats_can_be_rendered(monkeypatch, caplog):
    monkeypatch.setattr(
        device.gsplat_kernels, "find_kernels", lambda cores: Kernels("no nvcc", "found no nvcc; install it")
    )
    assert [device.choose_device("auto") for _ in range(3)] == ["cpu"] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "device=auto takes the CPU, though torch finds a CUDA device: found no nvcc; install it"
    ]
    assert device.choose_device("cuda") == "cuda", "an explicit device is taken, or refused by the renderer"
    device._automatic.cache_clear()
    monkeypatch.setattr(device.gsplat_kernels, "find_kernels", lambda cores: Kernels("compiled"))
    assert device.choose_device("auto") == "cuda" and len(caplog.records) == 1


@pytest.mark.parametrize(
    ("visible", "rank", "chosen"),
    [(None, "2", "2"), ("4,5", "1", "5"), ("4,5", "2", "4"), ("", "1", ""), ("7", "0", "7")],
)
def test_processes_of_torchrun_take_a_gpu_each(monkeypatch, visible, rank, chosen):
    """CUDA_VISIBLE_DEVICES="" hides all GPUs, and stays."""
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    device.prepare_environment()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == chosen


def test_programs_of_the_environment_are_found_last(monkeypatch, tmp_path):
    monkeypatch.setattr(device.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "/bin")
    for _ in range(2):
        device.prepare_environment()
        assert os.environ["PATH"] == f"/bin{os.pathsep}{tmp_path}"


def test_threads_are_pinned():
    before = torch.get_num_threads()
    device.pin_threads(1)
    assert torch.get_num_threads() == 1
    device.pin_threads(before)
