"""An accelerator for tests on any machine: tensors that report ``cuda`` as their device and compute on the CPU.

It refuses what a CUDA device refuses (operands on two devices, CPU generators, numpy), and counts the operations that
make the host wait. CUDA is not needed, and values are real, so that whole training runs work.

    with Accelerator() as accelerator:
        prior = StableDiffusionPrior(parts, Compute(device=torch.device("cuda")))
        ...
        assert accelerator.waits["_local_scalar_dense"] == 1
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch

from tests.accelerator import rendering, tensors
from tests.accelerator.tensors import DispatchMode, FunctionMode, on_device, wait

__all__ = ["Accelerator", "on_device"]


class Accelerator:
    """While entered, ``cuda`` is a device. ``waits`` counts this thread's waits for it by operation.

    The CPU renderer renders splats; each call counts as one wait, since gsplat reads the number of intersections.
    ``torch.cuda`` still finds no device; those of its functions that a run needs are replaced.
    """

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self._paused = 0
        self._thread = threading.get_ident()
        self._stack = ExitStack()

    def __enter__(self) -> "Accelerator":
        assert tensors.on_wait is None, "one accelerator at a time"
        self._stack.enter_context(mock.patch.object(tensors, "on_wait", self._count))
        memory = {name: lambda *arguments: 0 for name in ("max_memory_allocated", "max_memory_reserved")}
        replaced: dict[str, Any] = memory | {
            "synchronize": lambda *arguments: wait("synchronize"),
            "Event": Event,
            "mem_get_info": lambda *arguments: (80 << 30, 80 << 30),
            "reset_peak_memory_stats": lambda *arguments: None,
            "empty_cache": lambda: None,
        }
        for name, function in replaced.items():
            self._stack.enter_context(mock.patch.object(torch.cuda, name, function))
        self._stack.enter_context(mock.patch("avatar_gs.render.rasterize._render_with_gsplat", rendering.render))
        self._stack.enter_context(mock.patch("avatar_gs.render.cpu.renderer._Blend", rendering.BlendOnDevice))
        pool = partial(ThreadPoolExecutor, initializer=_enter_modes)
        self._stack.enter_context(mock.patch("avatar_gs.training.scene.ThreadPoolExecutor", pool))
        self._stack.enter_context(mock.patch("torch.autograd._engine_run_backward", _run_backward))
        self._stack.enter_context(FunctionMode())
        self._stack.enter_context(DispatchMode())
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Suspend counting."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1

    def _count(self, operation: str) -> None:
        if threading.get_ident() == self._thread and not self._paused:
            self.waits[operation] += 1


class Event:
    """``torch.cuda.Event`` of an accelerator without a queue."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.time = 0.0

    def record(self, stream: Any = None) -> None:
        self.time = time.perf_counter()

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        wait("synchronize")

    def elapsed_time(self, end: "Event") -> float:
        return 1000 * (end.time - self.time)


def _enter_modes() -> None:
    """Enter the modes in a new thread, since modes are thread-local."""
    FunctionMode().__enter__()
    DispatchMode().__enter__()


def _run_backward(*arguments: Any, **options: Any) -> Any:
    """Keep the function mode on within ``backward``, where torch disables it: backward passes written in Python,
    such as a checkpoint's, need it."""
    with FunctionMode():
        return torch.autograd.graph._engine_run_backward(*arguments, **options)
