"""Cases for readers of anything: a clean result or a one-line error, without a traceback, quickly, in little memory.

``make test-all`` tries many more cases than ``make test``.
"""

import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avatar_gs.core.errors import UserError
from avatar_gs.types import Gaussians

FEW, MANY = 20, 2000
SLOW = [pytest.mark.slow, pytest.mark.timeout(3000)]
examples = pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=SLOW)])
MEMORY = 2**30
"""Bytes that a case may reserve."""


def try_cases(examples: int, cases: st.SearchStrategy, read: Callable) -> None:
    """Call ``read`` with every case; only a UserError of one line may come out."""

    @settings(
        max_examples=examples,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        derandomize=examples == FEW,
    )
    @given(cases)
    def check(case):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read(case)
            except UserError as error:
                assert "\n" not in str(error)

    check()


def damaged(*originals: bytes) -> st.SearchStrategy[bytes]:
    """An original file cut short, with bytes replaced, inserted or removed, or any bytes at all."""
    position, few = st.floats(0, 1), st.binary(max_size=12)
    change = st.tuples(st.sampled_from(["cut", "replace", "insert", "remove", "number"]), position, position, few)

    def apply(original: bytes, changes: list[tuple[str, float, float, bytes]]) -> bytes:
        data = bytearray(original)
        for kind, near, at, new in changes:
            place = int(at * 200 if near < 0.7 else at * len(data)) % max(len(data), 1)  # headers are at the start
            if kind == "cut":
                del data[place:]
            elif kind == "remove":
                del data[place : place + len(new)]
            elif kind == "number":
                data[place : place + 4] = struct.pack("<I", int(2**32 * near) % 2**32)
            else:
                data[place : place + (len(new) if kind == "replace" else 0)] = new
        return bytes(data)

    return st.builds(apply, st.sampled_from(originals), st.lists(change, max_size=4)) | st.binary(max_size=300)


def written(folder: Path, name: str, write: Callable[[Path], object]) -> bytes:
    write(folder / name)
    return (folder / name).read_bytes()


def splats(count: int = 7) -> Gaussians:
    random = torch.Generator().manual_seed(0)
    means, quats, rest = (torch.randn(count, size, generator=random) for size in (3, 4, 7))
    return Gaussians(means, quats, 0.01 + rest[:, :3].abs(), rest[:, 3].sigmoid(), rest[:, 4:].sigmoid())
