"""Randomness as a function of (seed, step, purpose): a resumed run samples the same numbers as an uninterrupted one."""

import hashlib

import torch


def derive_seed(seed: int, step: int, purpose: str) -> int:
    """A 63-bit seed for one purpose in one step of a run."""
    digest = hashlib.sha256(f"{seed}/{step}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, step: int, purpose: str) -> torch.Generator:
    """A CPU generator seeded by ``derive_seed``."""
    return torch.Generator().manual_seed(derive_seed(seed, step, purpose))
