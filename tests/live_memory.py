"""Bytes of tensors that are alive, counted op by op; on the meta device nothing is computed."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts every storage that is made while it is active until it is freed: ``now`` and the ``peak`` so far."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                self._seen.add(value.untyped_storage()._cdata)  # what was there before is nobody's new memory
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


class Attention(torch.autograd.Function):
    """Keeps what an attention without matrices keeps; on the meta device only."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        q, k, v, _ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def without_matrices(monkeypatch: Any) -> None:
    """Attention as a GPU computes it: its matrix is never whole."""
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, *more, **options: Attention.apply(q, k, v))


def measured(function: Callable[[], Any]) -> tuple[int, int, Any]:
    """``(kept, peak, result)``: bytes alive after ``function``, in its result's graph, and at most meanwhile."""
    with LiveMemory() as memory:
        result = function()
        return memory.now, memory.peak, result
