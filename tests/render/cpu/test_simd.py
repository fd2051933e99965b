"""The SIMD operations, and what happens on a machine that cannot run them."""

import numba
import numpy as np
import pytest

from avatar_gs.core.errors import UserError
from avatar_gs.render.cpu import simd
from avatar_gs.render.cpu.blending import X_MAX, exp_minus_8
from avatar_gs.render.rasterize import require_renderer


def test_every_operation_gives_what_numpy_gives() -> None:
    simd.check.__wrapped__()


def test_a_wrong_result_is_a_users_error_before_anything_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simd, "_expected", lambda a, b: np.zeros(103))
    simd.check.cache_clear()
    with pytest.raises(UserError, match=r"device=cpu: .* gives wrong results on this machine"):
        require_renderer("cpu")
    simd.check.cache_clear()


def test_code_that_does_not_compile_is_a_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("LLVM ERROR: cannot select\ndetails")

    monkeypatch.setattr(simd, "_exercise", fail)
    with pytest.raises(UserError, match=r"does not compile \(LLVM ERROR: cannot select\)"):
        simd.check.__wrapped__()


@numba.njit
def _exp_minus_8(x: np.ndarray, out: np.ndarray) -> None:
    for i in range(0, len(x), 16):
        simd.store(out, i, exp_minus_8(simd.load16(x, i)))


def test_the_exponential_is_exact_to_a_few_roundings() -> None:
    x = np.linspace(0, X_MAX, 16 * 1000, dtype=np.float32)
    out = np.empty_like(x)
    _exp_minus_8(x, out)
    assert np.abs(out / np.exp(-8 * x.astype(np.float64)) - 1).max() < 2.5e-6
