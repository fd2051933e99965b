"""All files of an avatar at once, and what happens when they cannot be written."""

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData

from avatar_gs.core.errors import UserError
from avatar_gs.export import writer
from avatar_gs.export.config import ExportConfig, Format, Frame
from avatar_gs.export.ply import read_ply
from avatar_gs.export.writer import export_avatar
from avatar_gs.types import Gaussians

FRAMES = np.zeros((2, 64, 64, 3), np.uint8)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond ``size`` bytes: as good as a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_writes_the_three_files(tmp_path: Path, figure: Gaussians) -> None:
    written = export_avatar(tmp_path / "run", figure, "a man", ExportConfig(), FRAMES)
    assert [path.name for path in written] == ["avatar.ply", "avatar.html", "turntable.mp4"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(path.name for path in written)
    assert "a man" in (tmp_path / "run" / "avatar.html").read_text(encoding="utf-8")


def test_switches_and_frame_are_obeyed(tmp_path: Path, figure: Gaussians) -> None:
    config = ExportConfig(frame=Frame.rdf, html=False, video=False)
    assert [path.name for path in export_avatar(tmp_path, figure, "", config, FRAMES)] == ["avatar.ply"]
    assert float(PlyData.read(str(tmp_path / "avatar.ply"))["vertex"]["y"].min()) < -1.6
    torch.testing.assert_close(read_ply(tmp_path / "avatar.ply", Frame.rdf).means, figure.means)
    assert [path.name for path in export_avatar(tmp_path, figure, "", ExportConfig())] == ["avatar.ply", "avatar.html"]


def test_the_list_of_formats_and_the_former_switches_say_what_is_written(tmp_path: Path, figure: Gaussians) -> None:
    names = lambda **values: [path.name for path in export_avatar(tmp_path, figure, "", ExportConfig(**values), FRAMES)]
    assert names(formats=[Format.glb, Format.ply]) == ["avatar.ply", "avatar.glb"]
    assert names(formats=[Format.mp4]) == ["turntable.mp4"]
    assert names(html=False) == ["avatar.ply", "turntable.mp4"]
    assert names(formats=[Format.ply, Format.html], video=False) == ["avatar.ply", "avatar.html"]
    with pytest.raises(UserError, match=r"export\.formats: nothing to write"):
        ExportConfig(formats=[Format.html], html=False)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, figure: Gaussians) -> None:
    (tmp_path / "run").write_text("a file stands where the folder should be")
    with pytest.raises(UserError, match=r"run/avatar\.ply cannot be written \(.*\): .* folder that you may write to"):
        export_avatar(tmp_path / "run", figure, "a man", ExportConfig())


def test_a_write_that_breaks_off_leaves_the_earlier_files_whole(tmp_path: Path, figure: Gaussians) -> None:
    export_avatar(tmp_path, figure, "a man", ExportConfig(), FRAMES)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with largest_file(100_000), pytest.raises(UserError, match=r"avatar\.ply cannot be written \(File too large\)"):
        export_avatar(tmp_path, figure, "another", ExportConfig(), FRAMES)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_full_disk_asks_for_space(tmp_path: Path, figure: Gaussians, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "write_html", full)
    with pytest.raises(UserError, match=r"avatar\.html cannot be written \(No space left on device\): free some space"):
        export_avatar(tmp_path, figure, "a man", ExportConfig())
