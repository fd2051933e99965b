"""The device that the tests of this folder run on.

``AVATAR_GS_TEST_DEVICE`` names it; else CUDA where torch finds it, else the CPU, where only the quick ones run: so that
a machine without a GPU finds what is wrong with the tests themselves.
"""

import os

import pytest
import torch

CHOSEN = os.environ.get("AVATAR_GS_TEST_DEVICE", "")
DEVICE = CHOSEN or ("cuda" if torch.cuda.is_available() else "cpu")
on_request = pytest.mark.skipif(
    DEVICE == "cpu" and not CHOSEN, reason="too long for the CPU; AVATAR_GS_TEST_DEVICE=cpu runs it all the same"
)


def place(tensor: torch.Tensor) -> str:
    """``"cuda"`` or ``"cpu"``."""
    return tensor.device.type
