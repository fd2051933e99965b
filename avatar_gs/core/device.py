"""Device, threads, memory, and transfers. Imports torch only inside functions."""

import functools
import logging
import math
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from avatar_gs.core import gsplat_kernels
from avatar_gs.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LOGGER = logging.getLogger(__name__)


def physical_cores() -> int:
    """Physical cores that this process may use, limited by its CPU affinity and, on Linux, its cgroup's quota."""
    process = psutil.Process()
    usable = len(process.cpu_affinity() or ()) if hasattr(process, "cpu_affinity") else os.cpu_count()
    usable = usable or 1
    return max(1, min(usable, psutil.cpu_count(logical=False) or usable, _cgroup_quota() or usable))


def _cgroup_quota() -> int | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        return None if quota == "max" else max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):
        return None


def available_memory() -> int:
    """Bytes of host memory that programs can still get."""
    return psutil.virtual_memory().available


def resident_memory() -> int:
    """Bytes of host memory that this process holds now."""
    return psutil.Process().memory_info().rss


def peak_resident_memory() -> int:
    """Largest number of bytes of host memory that this process has held so far.

    ``getrusage`` is the fallback where there is no ``/proc``: its value survives execve (man 2 getrusage), so it may be
    the peak of the process that started this one. psutil has no peak on Linux.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


ALLOCATOR_SETTINGS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""Environment variables that configure torch's allocator of GPU memory."""
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "STATUS_ALLOC_FAILED",
    "bad_alloc",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that GPU or host memory ran out; torch and the CUDA libraries raise several types."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


def release_cached_memory() -> None:
    """Return unused GPU memory of torch's allocator to the driver, against fragmentation."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def prepare_environment() -> None:
    """Set the environment variables that numeric libraries read when they load; values set by the user stay.

    Idle threads sleep (spinning ones starve others on shared cores), each process of ``torchrun`` gets one GPU, and
    torch's GPU allocator grows its blocks (less fragmentation). The environment's programs are appended to PATH:
    gsplat's build calls ninja, which pip installs there.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    programs, path = str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)
    if programs not in path.split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([path, programs])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if "LOCAL_RANK" in os.environ and visible != "":  # torchrun; "" hides all GPUs
        rank = int(os.environ["LOCAL_RANK"])
        gpus = [str(index) for index in range(rank + 1)] if visible is None else visible.split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[rank % len(gpus)]
    if not any(name in os.environ for name in ALLOCATOR_SETTINGS):
        os.environ[ALLOCATOR_SETTINGS[0]] = "expandable_segments:True"
    for library in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(library, "error")


def pin_threads(threads: int) -> None:
    """Set torch's number of threads; the CPU renderer's pool follows it."""
    import torch

    torch.set_num_threads(threads)


def choose_device(device: str) -> str:
    """Resolve the setting ``device``.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:<index>`` or ``mps``. ``auto`` is CUDA if splats can be rendered
            there; if torch finds a CUDA device on which they cannot, a warning names the reason and the remedy once.
            ``cuda:<index>`` makes that GPU the only one that this process sees.

    Returns:
        ``"cuda"`` or ``"cpu"``.

    Raises:
        UserError: if torch finds no such CUDA device, or for ``mps``, on which no splats are rendered.
    """
    import torch

    if device == "mps":
        raise UserError("device=mps: splats are rendered on a CPU or on CUDA only; use device=cpu or device=auto")
    if device.startswith("cuda:"):
        _see_only(int(device.removeprefix("cuda:")))
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device={device}: torch finds no such CUDA device here; use device=cpu or device=auto")
    return _automatic() if device == "auto" else device.partition(":")[0]


_seen_gpu: int | None = None


def _see_only(index: int) -> None:
    """Hide all GPUs but one, so that ``cuda`` means it in every thread and library.

    Raises:
        UserError: if CUDA has started in this process with other GPUs.
    """
    global _seen_gpu  # noqa: PLW0603 (CUDA reads its environment once a process)
    import torch

    if _seen_gpu == index:
        return
    if _seen_gpu is not None or torch.cuda.is_initialized():
        raise UserError(
            f"device=cuda:{index}: this process uses another GPU already; start a new one, or give device=cuda"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(index)] if visible is None else visible.split(",")[index : index + 1]
    os.environ["CUDA_VISIBLE_DEVICES"] = names[0] if names else "-1"
    _seen_gpu = index


@functools.cache
def _automatic() -> str:
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    problem = gsplat_kernels.find_kernels(physical_cores()).problem
    if problem:
        LOGGER.warning("device=auto takes the CPU, though torch finds a CUDA device: %s", problem)
    return "cpu" if problem else "cuda"


def to_device(tensor: "Tensor", device: "torch.device") -> "Tensor":
    """Copy a CPU tensor to ``device`` without waiting for the work already queued on a GPU."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def all_finite(tensors: Sequence["Tensor"]) -> bool:
    """Whether no entry of the tensors is infinite or NaN, with one host synchronisation.

    Args:
        tensors: on one device, any shapes; may be empty.
    """
    import torch

    filled = [tensor for tensor in tensors if tensor.numel()]
    if not filled:
        return True
    with torch.no_grad():  # the maximum norm is finite only where all entries are
        return bool(torch.stack(list(torch._foreach_norm(filled, float("inf")))).isfinite().all())


def allow_tf32(allowed: bool) -> None:
    """Allow float32 convolutions to round their factors to TF32 (10 bits) on NVIDIA GPUs, which is many times faster.

    Matrix products stay exact: skinning and cameras use them, and 10 bits of a body's height are a millimetre.
    """
    import torch

    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = False


def convolution_rate(device: str, dtype: str, *, tf32: bool = False) -> float:
    """Measure the floating-point operations per second of a 3 x 3 convolution as in the priors' networks.

    Args:
        device: ``cuda`` or ``cpu``.
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        tf32: allow TF32.

    Returns:
        The best of several runs, in FLOP/s.
    """
    import torch

    torch_dtype = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[dtype]
    gpu = device == "cuda"
    channels, side, batch = (320, 64, 8) if gpu else (128, 32, 1)
    image = torch.randn(batch, channels, side, side, device=device).to(torch_dtype, memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device).to(torch_dtype, memory_format=torch.channels_last)
    flops = 2 * 9 * batch * (channels * side) ** 2
    before, best = torch.backends.cudnn.allow_tf32, math.inf
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        with torch.no_grad():
            for _ in range(20 if gpu else 5):
                began = time.perf_counter()
                torch.nn.functional.conv2d(image, weight, padding=1)
                if gpu:
                    torch.cuda.synchronize()
                best = min(best, time.perf_counter() - began)
    finally:
        torch.backends.cudnn.allow_tf32 = before
    return flops / best
