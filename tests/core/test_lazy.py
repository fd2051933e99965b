"""Lazily imported torch: nothing heavy loads with it, and shapes are still checked in tests."""

import subprocess
import sys

import pytest
import torch as real_torch

from avatar_gs.core.lazy import Tensor, torch
from avatar_gs.guidance.cfg import guided


def test_torch_is_the_real_module_once_used():
    assert torch.float16 is real_torch.float16
    assert torch.nn.functional is real_torch.nn.functional
    assert Tensor is real_torch.Tensor
    with pytest.raises(AttributeError):
        getattr(torch, "no_such_name")  # noqa: B009


def test_modules_that_use_it_load_neither_torch_nor_numpy():
    code = (
        "import sys, avatar_gs.guidance.config; print([m for m in ('torch', 'numpy', 'jaxtyping') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"


def test_it_works_without_jaxtyping():
    code = (
        "import sys; from avatar_gs.core.lazy import Float, Tensor, torch; before = 'torch' in sys.modules;"
        "f = lambda x: x; f.__annotations__ = {'x': Float[Tensor, 'B 3'] | None};"
        "print(before, float(torch.ones(2).sum()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "False 2.0"


def test_shapes_are_checked_under_the_import_hook():
    batch = real_torch.zeros(2, 3, 4, 4)
    assert guided(batch, batch, 2.0).shape == batch.shape
    with pytest.raises(Exception, match="guided"):
        guided(batch, batch[0], 2.0)
