"""Background removal, with a stand-in for rembg."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.identity.images import GREY, SIZE, read_one, refuses


@pytest.fixture
def rembg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A rembg whose weights are wherever a test puts them, and which takes the left half for the person."""
    place = tmp_path / "packages"
    (place / "rembg" / "sessions").mkdir(parents=True)
    (place / "onnxruntime.py").touch()
    (place / "rembg" / "sessions" / "__init__.py").touch()
    (place / "rembg" / "sessions" / "u2net_human_seg.py").write_text(
        "from pathlib import Path\n"
        f"FOLDER = Path({str(place)!r})\n"
        "class U2netHumanSegSession:\n"
        "    def model_dir(): return str(FOLDER)\n"
        "    def resolve_existing(name): return str(FOLDER / name) if (FOLDER / name).exists() else None\n"
    )
    (place / "rembg" / "__init__.py").write_text(
        "from PIL import Image\n"
        "from rembg.sessions.u2net_human_seg import FOLDER\n"
        "def new_session(name, providers):\n"
        "    found = (FOLDER / f'{name}.onnx').read_text()\n"
        "    if found == 'damaged': raise RuntimeError('not a model\\nat all')\n"
        "    return found\n"
        "def remove(image, session, only_mask):\n"
        "    mask = Image.new('L', image.size)\n"
        "    if session != 'nobody': mask.paste(255, (0, 0, image.width // 2, image.height))\n"
        "    return mask\n"
    )
    for name in [name for name in sys.modules if name.split(".")[0] in ("rembg", "onnxruntime")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(place)
    yield place / "u2net_human_seg.onnx"
    for name in [name for name in sys.modules if name.split(".")[0] in ("rembg", "onnxruntime")]:
        del sys.modules[name]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (80, 80), (255, 0, 0)).save(folder / "a.png")
    return folder / "a.png"


def test_the_person_stands_on_plain_grey(rembg: Path, photo: Path) -> None:
    rembg.write_text("weights")
    read = read_one(photo, remove_background=True)
    np.testing.assert_allclose(read[:, :13], np.broadcast_to([1, 0, 0], (SIZE, 13, 3)), atol=1e-6)
    np.testing.assert_allclose(read[:, -13:], GREY, atol=1e-6)
    assert (read_one(photo) == [1, 0, 0]).all()


def test_a_photo_without_a_person_is_skipped(rembg: Path, photo: Path) -> None:
    rembg.write_text("nobody")
    refuses(str(photo), "a.png (no person found in it", remove_background=True)


def test_a_photo_that_is_kept_as_it_is_but_shows_nobody_is_named(
    rembg: Path, photo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rembg.write_text("nobody")
    assert (read_one(photo) == [1, 0, 0]).all()
    assert "a.png: no person is found in it" in caplog.text
    rembg.write_text("weights")
    caplog.clear()
    read_one(photo)
    assert not caplog.text


def test_missing_weights_are_named_not_fetched(rembg: Path, photo: Path) -> None:
    refuses(str(photo), "embed.remove_background=true", str(rembg.parent), "new_session", remove_background=True)


def test_damaged_weights_are_named(rembg: Path, photo: Path) -> None:
    rembg.write_text("damaged")
    refuses(str(photo), str(rembg), "not a model)", "delete it", remove_background=True)


@pytest.mark.parametrize("missing", ["onnxruntime", "rembg"])
def test_the_message_without_the_extra_names_the_installation(
    photo: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in (missing, f"{missing}.sessions"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("avatar_gs.identity.pixels.find_spec", lambda name: None if name == missing else object())
    refuses(str(photo), "embed.remove_background=true", "pip install 'avatar_gs[photos]'", remove_background=True)


def test_a_photo_with_transparency_needs_no_removal(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avatar_gs.identity.photos.load_remover", lambda: pytest.fail("the photo is cut out already"))
    image = Image.new("RGBA", (80, 80), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (40, 0, 80, 80))
    image.save(photo)
    np.testing.assert_allclose(read_one(photo, remove_background=True)[:, -13:], GREY, atol=1e-6)
