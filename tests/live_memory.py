"""Bytes of live tensors, counted for each operation; on the meta device nothing is computed."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts bytes of storages created while active and not yet freed: ``now``, and their ``peak``."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                self._seen.add(value.untyped_storage()._cdata)  # existing storages do not count
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
    """Saves the tensors that a fused attention saves; on the meta device only."""

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
    """Replace attention by a fused one, which never stores the whole matrix."""
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, *more, **options: Attention.apply(q, k, v))


def measured(function: Callable[[], Any]) -> tuple[int, int, Any]:
    """``(kept, peak, result)`` of a function: bytes alive at its end (with its graph), peak bytes, result."""
    with LiveMemory() as memory:
        result = function()
        return memory.now, memory.peak, result
