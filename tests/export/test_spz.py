"""SPZ files: their bytes by the published layout, and what a reader finds in them."""

import gzip
import importlib.util
import struct
from pathlib import Path

import gsply
import numpy as np
import pytest
import torch

from avatar_gs.core.errors import UserError
from avatar_gs.export.config import ExportConfig, Format
from avatar_gs.export.spz import write_spz
from avatar_gs.export.writer import require_packages
from avatar_gs.geometry import quat_to_matrix
from avatar_gs.types import SH_C0, Gaussians
from tests.export.test_glb import chain


@pytest.fixture
def written(tmp_path: Path) -> tuple[Gaussians, Path]:
    gaussians, _ = chain(200)
    write_spz(tmp_path / "a.spz", gaussians)
    return gaussians, tmp_path / "a.spz"


@pytest.mark.slow  # compiles for a minute
def test_a_reader_finds_what_was_exported(written: tuple[Gaussians, Path]) -> None:
    gaussians, path = written
    found = gsply.read_spz(path)
    np.testing.assert_allclose(found.means, gaussians.means, atol=0.51 / 4096)
    np.testing.assert_allclose(found.scales, gaussians.scales.log(), atol=0.51 / 16)
    np.testing.assert_allclose(1 / (1 + np.exp(-found.opacities)), gaussians.opacities, atol=0.51 / 255)
    np.testing.assert_allclose(found.sh0 * SH_C0 + 0.5, gaussians.colors, atol=0.005)
    turned = quat_to_matrix(torch.from_numpy(found.quats)) - quat_to_matrix(gaussians.quats)
    assert turned.abs().max() < 0.01
    assert found.shN is None or not np.asarray(found.shN).any()


def test_the_bytes_are_those_of_version_3_with_y_up(written: tuple[Gaussians, Path]) -> None:
    """The layout of nianticlabs/spz: a header of 16 bytes, then positions as 24-bit integers, opacities, colours."""
    gaussians, path = written
    content = gzip.decompress(path.read_bytes())
    magic, version, count, degree, fraction, *_ = struct.unpack("<IIIBBBB", content[:16])
    assert (magic, version, count, degree) == (0x5053474E, 3, 200, 0)
    raw = np.frombuffer(content, np.uint8, 9 * count, 16).reshape(count, 3, 3).astype(np.int32)
    integers = raw[..., 0] | raw[..., 1] << 8 | raw[..., 2] << 16
    integers = np.where(integers >= 1 << 23, integers - (1 << 24), integers)
    np.testing.assert_allclose(integers / 2**fraction, gaussians.means, atol=0.51 / 2**fraction)
    alpha = np.frombuffer(content, np.uint8, count, 16 + 9 * count)
    np.testing.assert_allclose(alpha / 255, gaussians.opacities, atol=0.51 / 255)
    colors = np.frombuffer(content, np.uint8, 3 * count, 16 + 10 * count).reshape(count, 3)
    np.testing.assert_allclose((colors / 255 - 0.5) / 0.15 * SH_C0 + 0.5, gaussians.colors, atol=0.005)
    scales = np.frombuffer(content, np.uint8, 3 * count, 16 + 13 * count).reshape(count, 3)
    np.testing.assert_allclose(scales / 16 - 10, gaussians.scales.log(), atol=0.51 / 16)
    packed = np.frombuffer(content, "<u4", count, 16 + 16 * count)
    turned = quat_to_matrix(torch.from_numpy(smallest_three(packed))[:, [3, 0, 1, 2]])
    assert (turned - quat_to_matrix(gaussians.quats)).abs().max() < 0.01


def smallest_three(packed: np.ndarray) -> np.ndarray:
    """Quaternions (xyzw): the largest component's number in two bits, the others' signs and magnitudes in ten each."""
    quats = np.zeros((len(packed), 4), np.float32)
    for quat, bits in zip(quats, packed.tolist(), strict=True):
        largest = bits >> 30
        for component in (k for k in (3, 2, 1, 0) if k != largest):
            magnitude = (bits & 511) / 511 * np.sqrt(0.5)
            quat[component] = -magnitude if bits >> 9 & 1 else magnitude
            bits >>= 10
        quat[largest] = np.sqrt(1 - (quat**2).sum())
    return quats


def test_a_missing_package_is_named_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"gsply", "xatlas"}
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else find(name))
    require_packages(ExportConfig())
    for entry, words in ((Format.spz, r"avatar-gs\[spz\]"), (Format.mesh, r"avatar-gs\[mesh\]")):
        with pytest.raises(UserError, match=words):
            require_packages(ExportConfig(formats=[entry]))
