"""A test for finite numbers with one host synchronisation."""

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no entry of any tensor is infinite or NaN. The tensors are on one device, which the host waits for once:
    the largest magnitude of each is finite only where all of its entries are."""
    filled = [tensor for tensor in tensors if tensor.numel()]
    if not filled:
        return True
    return bool(torch.stack(list(torch._foreach_norm(filled, float("inf")))).isfinite().all())
