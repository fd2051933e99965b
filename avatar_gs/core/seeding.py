"""Randomness that is a function of (seed, step, purpose), so that a resumed run draws what an unbroken one does."""

import hashlib

import torch


def derive_seed(seed: int, step: int, purpose: str) -> int:
    """A seed of 63 bits for one purpose in one step of one run."""
    digest = hashlib.sha256(f"{seed}/{step}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, step: int, purpose: str) -> torch.Generator:
    """A generator on the CPU that depends on (seed, step, purpose) only, so that a resumed run draws the same."""
    return torch.Generator().manual_seed(derive_seed(seed, step, purpose))
