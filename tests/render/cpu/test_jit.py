"""Where compiled kernels are kept."""

from pathlib import Path

import numba
import pytest

from avatar_gs.render.cpu import jit


def test_the_users_folder_is_respected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "mine"))
    folder = jit.cache_folder()
    assert folder is not None and folder.parent == tmp_path / "mine" and folder.is_dir()


def test_the_default_is_a_folder_of_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = jit.cache_folder()
    assert folder is not None and folder.parent == tmp_path / "avatar_gs" / "numba"


def test_changed_sources_get_another_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    copy = tmp_path / "copy"
    copy.mkdir()
    for source in Path(jit.__file__).parent.glob("*.py"):
        (copy / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(jit, "__file__", str(copy / "jit.py"))
    before = jit.cache_folder()
    (copy / "simd.py").write_text("# changed")
    assert before is not None and jit.cache_folder() != before


def test_without_a_writable_folder_kernels_still_compile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    assert jit.cache_folder() is None
    monkeypatch.setattr(jit, "_CACHE_FOLDER", None)
    assert jit.kernel(_double)(21) == 42


def test_numbas_own_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jit, "_CACHE_FOLDER", tmp_path)
    before = numba.config.CACHE_DIR  # pyright: ignore[reportAttributeAccessIssue]
    compiled = jit.kernel(_double)
    assert before == numba.config.CACHE_DIR  # pyright: ignore[reportAttributeAccessIssue]
    assert compiled(2) == 4
    assert list(tmp_path.rglob("*.nbi"))


def _double(x: int) -> int:
    return x + x
