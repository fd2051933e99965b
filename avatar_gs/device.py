"""Which processor computes, and with how many threads. Loads torch only when called."""

import os
from pathlib import Path

from avatar_gs.errors import UserError


def physical_cores() -> int:
    """Physical cores that this process may use (its CPU affinity and, on Linux, its cgroup's quota counted)."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min(usable, _cores_in_cpuinfo() or usable, _cgroup_quota() or usable))


def _cores_in_cpuinfo() -> int | None:
    try:
        blocks = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")
    except OSError:
        return None
    cores = set()
    for block in blocks:
        entries = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        if "core id" in entries:
            cores.add((entries.get("physical id"), entries["core id"]))
    return len(cores) or None


def _cgroup_quota() -> int | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        return None if quota == "max" else max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):
        return None


def prepare_environment() -> None:
    """Sets what the numeric libraries read when they load: idle threads sleep (on shared cores, spinning ones starve
    the rest). Values that the user has set stay."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for library in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(library, "error")


def pin_threads(threads: int) -> None:
    """Makes torch compute with ``threads`` threads; the renderer's own pool follows it."""
    import torch

    torch.set_num_threads(threads)


def choose_device(device: str) -> str:
    """``"cuda"`` or ``"cpu"`` for a setting ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: if CUDA is asked for and not there.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: torch finds no CUDA device here; use device=cpu or device=auto")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device
