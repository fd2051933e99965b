"""Where compiled kernels are kept."""

from pathlib import Path

import numba
import pytest

from avatar_gs.render.cpu import runtime


def test_the_users_folder_is_respected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "mine"))
    folder = runtime.cache_folder()
    assert folder is not None and folder.parent == tmp_path / "mine" and folder.is_dir()


def test_the_default_is_a_folder_of_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = runtime.cache_folder()
    assert folder is not None and folder.parent == tmp_path / "avatar_gs" / "numba"


def test_changed_sources_get_another_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    copy = tmp_path / "copy"
    copy.mkdir()
    for source in Path(runtime.__file__).parent.glob("*.py"):
        (copy / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(runtime, "__file__", str(copy / "runtime.py"))
    before = runtime.cache_folder()
    (copy / "simd.py").write_text("# changed")
    assert before is not None and runtime.cache_folder() != before


def test_without_a_writable_folder_kernels_still_compile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    assert runtime.cache_folder() is None
    monkeypatch.setattr(runtime, "_CACHE_FOLDER", None)
    assert runtime.kernel(_double)(21) == 42


def test_numbas_own_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runtime, "_CACHE_FOLDER", tmp_path)
    before = numba.config.CACHE_DIR  # pyright: ignore[reportAttributeAccessIssue]
    compiled = runtime.kernel(_double)
    assert before == numba.config.CACHE_DIR  # pyright: ignore[reportAttributeAccessIssue]
    assert compiled(2) == 4
    assert list(tmp_path.rglob("*.nbi"))


def _double(x: int) -> int:
    return x + x
