"""Threads for kernels that release the GIL.

A small `ThreadPoolExecutor` replaces numba's and OpenMP's threading: it sleeps when idle, may be entered from several
Python threads at once, and is made anew in a child after ``fork()`` (DataLoader workers). The calling thread
works too, so one thread means no pool at all.
"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


def available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count() -> int:
    """Torch's number of threads, bounded by the cores that this process may use."""
    return max(1, min(torch.get_num_threads(), available_cores()))


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, available_cores() - 1), thread_name_prefix="avatar-gs-render")


if hasattr(os, "register_at_fork"):  # the threads of a pool do not survive a fork: the child makes its own
    os.register_at_fork(after_in_child=_pool.cache_clear)


def run_everywhere(function: Callable, *arguments: Any) -> None:
    """Call ``function(*arguments)`` once on every thread; the calls share out the work among themselves."""
    others = [_pool().submit(function, *arguments) for _ in range(thread_count() - 1)]
    function(*arguments)
    for other in others:
        other.result()


def run_chunks(function: Callable, count: int, *arguments: Any) -> None:
    """Call ``function(start, stop, *arguments)`` on every thread, for equal parts of ``range(count)``."""
    threads = max(1, min(thread_count(), count))
    bounds = [count * i // threads for i in range(threads + 1)]
    others = [_pool().submit(function, bounds[i], bounds[i + 1], *arguments) for i in range(1, threads)]
    function(bounds[0], bounds[1], *arguments)
    for other in others:
        other.result()
