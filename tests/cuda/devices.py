"""The device that the tests of this folder run on.

``AVATAR_GS_TEST_DEVICE``, or CUDA if available, or the CPU, on which only the quick tests run to check the tests
themselves.
"""

import os

import pytest
import torch

CHOSEN = os.environ.get("AVATAR_GS_TEST_DEVICE", "")
DEVICE = CHOSEN or ("cuda" if torch.cuda.is_available() else "cpu")
on_request = pytest.mark.skipif(
    DEVICE == "cpu" and not CHOSEN, reason="slow on the CPU; AVATAR_GS_TEST_DEVICE=cpu runs it anyway"
)


def place(tensor: torch.Tensor) -> str:
    """``"cuda"`` or ``"cpu"``."""
    return tensor.device.type
