"""Compilation of the kernels, and the threads that run them.

Numba keys a cached kernel by its own source file only, so a change in a helper of another file would leave an old
kernel in use. The cache therefore lives in a folder named after a hash of *all* sources of this package:
``$NUMBA_CACHE_DIR/avatar_gs-<hash>`` if that variable is set, else ``~/.cache/avatar_gs/numba/<hash>``. Without a
writable folder, each process compiles the kernels (about ten seconds).

Numba's ``prange`` is not used: its threading layers spin, die after ``fork()`` or abort on concurrent calls. Kernels
release the GIL and run on a small ``ThreadPoolExecutor``, which sleeps when idle, may be entered from several Python
threads at once, and is recreated in a child after ``fork()`` (DataLoader workers). The calling thread works too, so one
thread needs no pool.
"""

import functools
import hashlib
import inspect
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import torch

from avatar_gs.core.paths import user_cache

# Without "nnan" and "ninf": non-finite inputs must be detected and culled.
FLOAT_FLAGS = ("contract", "reassoc", "arcp", "nsz")
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "fastmath": set(FLOAT_FLAGS),
    "error_model": "numpy",
    "boundscheck": False,
}


def cache_folder() -> Path | None:
    """A writable folder for kernels compiled from exactly these sources, or None."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    name = digest.hexdigest()[:16]
    try:
        if chosen := os.environ.get("NUMBA_CACHE_DIR"):
            folder = Path(chosen) / f"avatar_gs-{name}"
        else:
            folder = user_cache() / "numba" / name
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # nowhere to write; no home directory
        return None
    return folder if os.access(folder, os.W_OK) else None


_CACHE_FOLDER = cache_folder()


def kernel(function: Callable) -> Any:
    """Compile an entry point, without the GIL, and cache it on disk."""
    function = inspect.unwrap(function)  # run-time type checkers wrap functions, which numba cannot compile
    if _CACHE_FOLDER is None:
        return numba.njit(**OPTIONS)(function)
    # Numba reads the folder when a function is decorated: set it for this one only.
    before = numba.config.CACHE_DIR  # pyright: ignore[reportAttributeAccessIssue]
    numba.config.CACHE_DIR = str(_CACHE_FOLDER)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        return numba.njit(cache=True, **OPTIONS)(function)
    finally:
        numba.config.CACHE_DIR = before  # pyright: ignore[reportAttributeAccessIssue]


def helper(function: Callable) -> Any:
    """Compile a function that is inlined into kernels."""
    return numba.njit(inline="always", **OPTIONS)(inspect.unwrap(function))


def available_cores() -> int:
    """Logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count() -> int:
    """Torch's number of threads, at most ``available_cores``."""
    return max(1, min(torch.get_num_threads(), available_cores()))


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, available_cores() - 1), thread_name_prefix="avatar-gs-render")


if hasattr(os, "register_at_fork"):  # a pool's threads do not survive a fork
    os.register_at_fork(after_in_child=_pool.cache_clear)


def run_everywhere(function: Callable, *arguments: Any) -> None:
    """Call ``function(*arguments)`` once on every thread; the calls divide the work among themselves."""
    others = [_pool().submit(function, *arguments) for _ in range(thread_count() - 1)]
    function(*arguments)
    for other in others:
        other.result()


def run_chunks(function: Callable, count: int, *arguments: Any) -> None:
    """Call ``function(start, stop, *arguments)`` on every thread for equal parts of ``range(count)``."""
    threads = max(1, min(thread_count(), count))
    bounds = [count * i // threads for i in range(threads + 1)]
    others = [_pool().submit(function, bounds[i], bounds[i + 1], *arguments) for i in range(1, threads)]
    function(bounds[0], bounds[1], *arguments)
    for other in others:
        other.result()
