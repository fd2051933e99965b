"""The PLY file: its bytes, its frames, and that readers which we did not write agree about its content."""

import shutil
import subprocess
from pathlib import Path

import gsply
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plyfile import PlyData, PlyElement

from avatar_gs.core.errors import UserError
from avatar_gs.export.config import Frame
from avatar_gs.export.ply import PROPERTIES, change_frame, read_ply, write_ply
from avatar_gs.geometry import quat_to_matrix
from avatar_gs.types import SH_C0, Gaussians


def splats(count: int = 50, seed: int = 0) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=torch.randn(count, 3, generator=generator),
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1),
        scales=torch.rand(count, 3, generator=generator) * 0.1 + 1e-3,
        opacities=torch.rand(count, generator=generator) * 0.98 + 0.01,
        colors=torch.rand(count, 3, generator=generator),
    )


def covariances(gaussians: Gaussians) -> torch.Tensor:
    axes = quat_to_matrix(gaussians.quats) * gaussians.scales[:, None]
    return axes @ axes.transpose(-1, -2)


# Where the avatar's up, front and left (+y, +z, +x in the world) point in each frame.
AXES = {
    Frame.supersplat: ([0, -1, 0], [0, 0, 1], [-1, 0, 0]),
    Frame.rdf: ([0, -1, 0], [0, 0, -1], [1, 0, 0]),
    Frame.yup: ([0, 1, 0], [0, 0, 1], [1, 0, 0]),
}


@pytest.mark.parametrize("frame", Frame)
def test_each_frame_turns_the_avatar_as_its_readers_expect(frame: Frame) -> None:
    up, front, left = (torch.tensor(axis, dtype=torch.float32) for axis in AXES[frame])
    assert torch.equal(torch.linalg.cross(left, up), front)  # a rotation, never a mirror image
    directions = Gaussians(
        means=torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]),
        quats=splats(3).quats,
        scales=splats(3).scales,
        opacities=torch.ones(3),
        colors=torch.ones(3, 3),
    )
    turned = change_frame(directions, frame)
    assert torch.equal(turned.means + 0.0, torch.stack([up, front, left]))
    rotation = torch.stack([left, up, front], -1)
    expected = rotation @ covariances(directions) @ rotation.T
    torch.testing.assert_close(covariances(turned), expected, atol=1e-8, rtol=1e-5)


def test_layout_is_the_one_that_every_reader_knows(tmp_path: Path) -> None:
    path = tmp_path / "avatar.ply"
    write_ply(path, splats(7))
    content = path.read_bytes()
    header, _, body = content.partition(b"end_header\n")
    lines = header.decode("ascii").splitlines()
    assert lines[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 7"]
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(45))]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert lines[3:] == [f"property float {name}" for name in names]
    assert len(names) == 62
    assert len(body) == 7 * 62 * 4


@pytest.mark.parametrize("frame", Frame)
def test_plyfile_and_gsply_read_the_same_values(tmp_path: Path, frame: Frame) -> None:
    path, gaussians = tmp_path / "avatar.ply", splats()
    write_ply(path, gaussians, frame)
    turned = change_frame(gaussians, frame)
    vertices = PlyData.read(str(path))["vertex"]
    other = gsply.plyread(path)
    assert len(vertices.data) == len(other.means) == len(gaussians)
    columns = {
        "means": (["x", "y", "z"], turned.means),
        "sh0": (["f_dc_0", "f_dc_1", "f_dc_2"], (gaussians.colors - 0.5) / SH_C0),
        "scales": (["scale_0", "scale_1", "scale_2"], gaussians.scales.log()),
        "quats": (["rot_0", "rot_1", "rot_2", "rot_3"], turned.quats),
    }
    for field, (names, expected) in columns.items():
        by_plyfile = np.stack([vertices[name] for name in names], -1)
        np.testing.assert_allclose(by_plyfile, expected.numpy(), atol=2e-6, err_msg=field)
        np.testing.assert_array_equal(np.asarray(getattr(other, field)).reshape(by_plyfile.shape), by_plyfile, field)
    np.testing.assert_allclose(vertices["opacity"], torch.logit(gaussians.opacities).numpy(), atol=1e-5)
    np.testing.assert_array_equal(other.opacities, vertices["opacity"])
    assert other.shN.shape == (len(gaussians), 15, 3)
    assert not np.asarray(other.shN).any()


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(0, 2**31), st.sampled_from(Frame))
def test_what_is_read_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, n: int, seed: int, frame: Frame
) -> None:
    path, gaussians = tmp_path_factory.mktemp("ply") / "avatar.ply", splats(n, seed)
    write_ply(path, gaussians, frame)
    back = read_ply(path, frame)
    assert torch.equal(back.means, gaussians.means)
    torch.testing.assert_close(covariances(back), covariances(gaussians), atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(back.opacities, gaussians.opacities, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(back.colors, gaussians.colors, atol=1e-6, rtol=1e-6)


def test_same_splats_give_the_same_bytes_in_the_same_order(tmp_path: Path) -> None:
    gaussians = splats(200)
    write_ply(tmp_path / "a.ply", gaussians)
    write_ply(tmp_path / "b.ply", gaussians)
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()
    assert torch.equal(read_ply(tmp_path / "a.ply").means, gaussians.means)


def test_an_opaque_splat_has_a_finite_logit(tmp_path: Path) -> None:
    one = splats(1)
    write_ply(tmp_path / "a.ply", Gaussians(one.means, one.quats, one.scales, torch.ones(1), one.colors))
    logit = float(PlyData.read(str(tmp_path / "a.ply"))["vertex"]["opacity"][0])
    assert 10 < logit < 20


@pytest.mark.parametrize("field", ["means", "quats", "scales", "opacities", "colors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_no_viewer_can_draw_are_refused(tmp_path: Path, field: str, value: float) -> None:
    gaussians = splats()
    getattr(gaussians, field)[3] = value
    with pytest.raises(ValueError, match=field):
        write_ply(tmp_path / "a.ply", gaussians)
    assert not (tmp_path / "a.ply").exists()


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "avatar.ply"
    with pytest.raises(UserError, match=r"avatar\.ply cannot be read"):
        read_ply(path)
    write_ply(path, splats())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"avatar\.ply is damaged"):
        read_ply(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n not a ply")
    with pytest.raises(UserError, match=r"avatar\.ply is damaged"):
        read_ply(path)
    PlyData([PlyElement.describe(np.zeros(3, [("x", "f4"), ("y", "f4"), ("z", "f4")]), "vertex")]).write(str(path))
    with pytest.raises(UserError, match="without f_dc_0"):
        read_ply(path)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npx") is None, reason="needs Node.js (npx), which fetches splat-transform")
def test_supersplats_own_converter_gives_the_file_back(tmp_path: Path) -> None:
    write_ply(tmp_path / "avatar.ply", splats(1000))
    command = ["npx", "--yes", "@playcanvas/splat-transform@2.7.1", "avatar.ply", "back.ply"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    assert "3 SH bands" in result.stdout + result.stderr
    assert (tmp_path / "back.ply").read_bytes() == (tmp_path / "avatar.ply").read_bytes()


def test_property_names_are_distinct() -> None:
    assert len(set(PROPERTIES)) == 62
