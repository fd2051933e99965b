"""Whether numbers are finite, in one question."""

import pytest
import torch

from avatar_gs.core.device import all_finite
from tests.accelerator import Accelerator

LARGEST = torch.finfo(torch.float32).max


@pytest.mark.parametrize("value", [0.0, -LARGEST, LARGEST, 1e-45, float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_entry_counts(value, dtype):
    """Large entries are finite, however many there are; the sum of their squares is not."""
    tensors = [torch.full((5, 3), LARGEST).to(dtype).nan_to_num(posinf=1.0), torch.zeros(7, dtype=dtype)]
    tensors[1][4] = value
    assert all_finite(tensors) == all(bool(tensor.isfinite().all()) for tensor in tensors)


def test_nothing_is_finite():
    assert all_finite([]) and all_finite([torch.zeros(0, 3)])
    assert not all_finite([torch.zeros(0, 3), torch.tensor([float("nan")])])


def test_the_host_waits_once():
    with Accelerator() as accelerator:
        tensors = [torch.ones(3, device="cuda") for _ in range(20)]
        accelerator.waits.clear()
        assert all_finite(tensors)
        assert sum(accelerator.waits.values()) == 1
