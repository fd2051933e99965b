"""Which files are used as photos, and the reasons for skipping others."""

import errno
import hashlib
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from avatar_gs.identity.photos import PhotoSet, load_photos
from tests.identity.images import SIZE, expected, refuses, scene

# ---- which files


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Two usable photos, and an unusable file of every type."""
    folder = tmp_path / "Zoë 写真 [2024]"
    (folder / "inner").mkdir(parents=True)
    scene(seed=1).save(folder / "b.png")
    scene(seed=2).save(folder / "a ü.jpg")
    scene(seed=3).save(folder / ".hidden.png")
    scene(seed=4).save(folder / "inner" / "c.png")
    (folder / "copy.png").write_bytes((folder / "b.png").read_bytes())
    scene(seed=1).save(folder / "same.webp", lossless=True)
    scene(50, 90).save(folder / "tiny.png")
    (folder / "cut.jpg").write_bytes((folder / "a ü.jpg").read_bytes()[:-400])
    (folder / "head.png").write_bytes((folder / "b.png").read_bytes()[:20])
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("Zoë in summer")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (folder / "link.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "pipe.png")
    return folder


def damaged_heic() -> str:
    installed = importlib.util.find_spec("pi_heif") is not None
    return "damaged or cut short" if installed else "a HEIC image: pip install 'avatar-gs[heic]' reads it"


def test_what_does_not_serve_is_named_with_its_reason(album: Path, caplog: pytest.LogCaptureFixture) -> None:
    photos = load_photos(str(album), SIZE)
    assert photos.names == ("a ü.jpg", "b.png")
    assert dict(photos.skipped) == {
        "copy.png": "the same file as b.png",
        "same.webp": "the same pixels as b.png",
        "tiny.png": "50×90 pixels, smaller than embed.min_size=64",
        "cut.jpg": "damaged or cut short",
        "head.png": "damaged or cut short",
        "empty.jpg": "the file is empty",
        "notes.txt": "not a JPEG, PNG, WebP, TIFF, GIF, AVIF or HEIC image",
        "phone.heic": damaged_heic(),
        "link.png": "a broken link",
        "pipe.png": "not a regular file",
    }
    for name, reason in photos.skipped:
        assert f"{name} is skipped: {reason}" in caplog.text
    assert photos.hashes == tuple(hashlib.sha256((album / name).read_bytes()).hexdigest() for name in photos.names)
    np.testing.assert_allclose(photos.images[1].numpy(), expected(scene(seed=1)), atol=1e-6)
    assert photos.images.dtype == torch.float32
    assert len(photos) == 2
    assert set(load_photos(str(album), SIZE, min_size=50).names) == {"a ü.jpg", "b.png", "tiny.png"}


def test_folder_glob_and_file_mean_the_same_photo(album: Path) -> None:
    folder = load_photos(str(album), SIZE)
    pattern = str(album.parent / "Zo? *" / "[ab]*")
    assert same(load_photos(pattern, SIZE), folder)
    one = load_photos(str(album / "b.png"), SIZE)
    assert one.names == ("b.png",)
    assert torch.equal(one.images[0], folder.images[1])


def same(a: PhotoSet, b: PhotoSet) -> bool:
    return a.names == b.names and a.hashes == b.hashes and torch.equal(a.images, b.images)


def test_a_glob_reaches_into_folders_and_names_them(album: Path) -> None:
    photos = load_photos(str(album.parent / "**" / "[bc].png"), SIZE)
    assert photos.names == (str(album / "b.png"), str(album / "inner" / "c.png"))


def test_the_order_is_that_of_the_names(tmp_path: Path) -> None:
    names = ["b.png", "A.png", "ä.png", "10.png", "a.png"]
    for seed, name in enumerate(names):
        scene(seed=seed).save(tmp_path / name)
    assert load_photos(str(tmp_path), SIZE).names == ("10.png", "A.png", "a.png", "b.png", "ä.png")


def test_home_and_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene().save(tmp_path / "a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert load_photos("~/a.png", SIZE).names == load_photos("./*.png", SIZE).names == ("a.png",)


def test_names_that_cannot_be_printed_stay_on_one_line(tmp_path: Path) -> None:
    scene().save(tmp_path / "good.png")
    (tmp_path / "two\nlines.png").touch()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.png")).touch()
    skipped = [name for name, _ in load_photos(str(tmp_path), SIZE).skipped]
    assert skipped == ["bad\N{REPLACEMENT CHARACTER}.png", "two\N{REPLACEMENT CHARACTER}lines.png"]


def test_unreadable_files_are_skipped_and_unreadable_folders_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene().save(tmp_path / "a.png")
    (tmp_path / "b.png").touch()
    read_bytes = Path.read_bytes

    def refuse(path: Path, *arguments: object) -> bytes:
        if path.name == "a.png":
            return read_bytes(path)
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert load_photos(str(tmp_path), SIZE).skipped == (("b.png", "cannot be read (Permission denied)"),)
    monkeypatch.setattr(Path, "iterdir", refuse)
    refuses(str(tmp_path), "cannot be read (Permission denied)")


# ---- nothing there


def test_the_error_of_a_missing_path_names_a_similar_one(tmp_path: Path) -> None:
    (tmp_path / "anna").mkdir()
    refuses(str(tmp_path / "ana"), "no such file or folder", f"did you mean {tmp_path / 'anna'}?")
    refuses(str(tmp_path / "ana" / "head.png"), f"did you mean {tmp_path / 'anna'}?")
    refuses(str(tmp_path / "xyz"), "holds no 'xyz'", "expected a folder, a glob or one image")
    refuses("~nobody-of-that-name/photos", "no such file or folder")


def test_the_error_of_an_empty_glob_names_what_exists(album: Path) -> None:
    refuses(str(album.parent / "Zo*" / "*.JPG"), "matches no file", "1 folder")
    refuses(str(album.parent / "*"), "matches folders only", str(album), "add /*")
    (album.parent / "plain").mkdir()
    scene().save(album.parent / "plain" / "a.JPG")
    refuses(str(album.parent / "plain" / "*.jpg"), "matches no file", "holds 1 .JPG")
    refuses(str(album.parent / "plan" / "*.jpg"), "there is no folder", f"did you mean {album.parent / 'plain'}?")


def test_the_error_without_usable_photos_names_the_skipped_files(tmp_path: Path) -> None:
    refuses(str(tmp_path), "holds no file (nothing)")
    (tmp_path / "deeper").mkdir()
    refuses(str(tmp_path), "holds no file (1 folder)")
    for i in range(7):
        (tmp_path / f"{i}.txt").write_text(str(i))
    refuses(
        str(tmp_path),
        "none of 7 files can be used",
        "0.txt (not a JPEG",
        "4.txt",
        "and 2 more",
        "JPEG, PNG, WebP, TIFF",
    )
    refuses("", "photos is empty")
    refuses("  ", "photos is empty")
