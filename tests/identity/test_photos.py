"""Photos of every kind that cameras and editors write, and all that is wrong with other files."""

import errno
import hashlib
import io
import os
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw

from avatar_gs.errors import UserError
from avatar_gs.identity import pixels
from avatar_gs.identity.photos import PhotoSet, load_photos

SIZE = 32
GREY = pixels.GREY / 255


def scene(width: int = 96, height: int = 80, seed: int = 0) -> Image.Image:
    """A smooth picture with red at the left, green at the top and, by ``seed``, some blue."""
    x, y = np.meshgrid(np.linspace(1, 0, width), np.linspace(0, 1, height))
    values = np.stack([x, 1 - y, np.full_like(x, (seed * 37 % 100) / 100)], -1)
    return Image.fromarray((values * 255).round().astype(np.uint8))


def read_one(path: Path, size: int = SIZE, **options) -> np.ndarray:
    photos = load_photos(str(path), size, **options)
    assert photos.skipped == ()
    assert photos.images.shape == (1, size, size, 3)
    return photos.images[0].numpy()


def expected(picture: Image.Image, size: int = SIZE) -> np.ndarray:
    return np.asarray(pixels.square(picture, size)) / 255


def refuses(source: str, *words: str, **options) -> None:
    with pytest.raises(UserError) as caught:
        load_photos(source, SIZE, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in ("photos", *words):
        assert word in message, message


# ---- kinds of pictures


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_every_format_is_read_by_its_content(tmp_path: Path, suffix: str) -> None:
    scene().save(tmp_path / f"a.{suffix}", quality=95)
    picture = read_one(tmp_path / f"a.{suffix}")
    assert np.abs(picture - expected(scene())).max() < (1e-6 if suffix == "png" else 0.05)
    (tmp_path / f"a.{suffix}").rename(tmp_path / "photo")
    np.testing.assert_array_equal(read_one(tmp_path / "photo"), picture)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int) -> None:
    stored = {
        1: lambda image: image,
        2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
        4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
        6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
        7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
        8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    }[orientation](scene())
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_allclose(read_one(tmp_path / "a.png"), expected(scene()), atol=1e-6)
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert np.abs(read_one(tmp_path / "a.jpg") - expected(scene())).max() < 0.06


def test_unreadable_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    scene().save(tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff\x01", quality=95)
    assert np.abs(read_one(tmp_path / "a.jpg") - expected(scene())).max() < 0.06


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_alpha_is_laid_on_mid_grey(tmp_path: Path, suffix: str) -> None:
    picture = Image.new("RGBA", (80, 80), (255, 0, 0, 255))
    picture.paste((0, 0, 255, 0), (0, 0, 80, 40))
    picture.save(tmp_path / f"a.{suffix}", lossless=True)
    read = read_one(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(read[:12], GREY, atol=1e-6)
    np.testing.assert_allclose(read[20:], np.broadcast_to([1, 0, 0], (12, SIZE, 3)), atol=1e-6)


def test_half_transparency_mixes(tmp_path: Path) -> None:
    Image.new("RGBA", (80, 80), (255, 255, 255, 128)).save(tmp_path / "a.png")
    np.testing.assert_allclose(read_one(tmp_path / "a.png"), (1 + GREY) / 2, atol=0.01)


def test_a_wholly_transparent_picture_is_skipped(tmp_path: Path) -> None:
    Image.new("RGBA", (80, 80), (9, 9, 9, 0)).save(tmp_path / "a.png")
    refuses(str(tmp_path), "a.png (wholly transparent)")


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1"])
def test_other_modes_keep_what_they_show(tmp_path: Path, mode: str) -> None:
    original = scene().convert("L" if mode != "P" else "RGB")
    stored = original.convert(mode)
    stored.save(tmp_path / "a.png")
    np.testing.assert_allclose(read_one(tmp_path / "a.png"), expected(stored.convert("RGB")), atol=1e-6)


def test_a_palettes_transparency_is_laid_on_grey(tmp_path: Path) -> None:
    picture = Image.new("P", (80, 80), 1)
    picture.putpalette([0, 0, 255, 255, 0, 0])
    picture.paste(0, (0, 0, 80, 40))
    picture.save(tmp_path / "a.png", transparency=0)
    read = read_one(tmp_path / "a.png")
    np.testing.assert_allclose(read[:12], GREY, atol=1e-6)
    np.testing.assert_allclose(read[20:], np.broadcast_to([1, 0, 0], (12, SIZE, 3)), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_come_out_as_eight_bits_would(tmp_path: Path, channels: int) -> None:
    eight = np.asarray(scene()).astype(np.uint16)[..., ::-1]
    sixteen = {1: eight[..., 1], 3: eight, 4: np.dstack([eight, np.full_like(eight[..., 0], 255)])}[channels] * 257
    assert cv2.imwrite(str(tmp_path / "a.png"), sixteen)
    same = scene() if channels > 1 else scene().getchannel("G").convert("RGB")
    np.testing.assert_allclose(read_one(tmp_path / "a.png"), expected(same), atol=1.01 / 255)


def test_a_turned_sixteen_bit_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    green = scene().getchannel("G")
    turned = np.asarray(green.transpose(Image.Transpose.ROTATE_90)).astype(np.uint16) * 257
    Image.fromarray(turned).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_allclose(read_one(tmp_path / "a.png"), expected(green.convert("RGB")), atol=1.01 / 255)


@pytest.mark.parametrize("format", ["MPO", "WEBP", "PNG"])
def test_of_several_pictures_in_a_file_the_first_is_read(tmp_path: Path, format: str) -> None:
    """Phones write two pictures into one JPEG; WebP and PNG can be animated."""
    first, second = Image.new("RGB", (80, 80), (255, 0, 0)), Image.new("RGB", (80, 80), (0, 0, 255))
    first.save(tmp_path / "a", format, save_all=True, append_images=[second])
    np.testing.assert_allclose(read_one(tmp_path / "a"), np.broadcast_to([1, 0, 0], (SIZE, SIZE, 3)), atol=0.02)


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (80, 80), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(read_one(tmp_path / "a.jpg"), np.broadcast_to([1, 0, 0], (SIZE, SIZE, 3)), atol=0.02)


def test_an_embedded_colour_profile_is_converted(tmp_path: Path) -> None:
    """In a profile that is linear, half the light is stored as 128, which sRGB shows as 188."""
    profile = linear_profile()
    Image.new("RGB", (80, 80), (128, 128, 128)).save(tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_allclose(read_one(tmp_path / "a.png"), 188 / 255, atol=0.012)
    picture = Image.new("RGBA", (80, 80), (128, 128, 128, 255))
    picture.putpixel((0, 0), (0, 0, 0, 0))
    picture.save(tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_allclose(read_one(tmp_path / "a.png")[8:, 8:], 188 / 255, atol=0.012)
    scene().save(tmp_path / "a.png", icc_profile=b"no profile at all")
    np.testing.assert_allclose(read_one(tmp_path / "a.png"), expected(scene()), atol=1e-6)


def linear_profile() -> bytes:
    """sRGB's own profile with its three tone curves replaced by straight lines."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    line = b"curv" + bytes(4) + struct.pack(">I", 0)
    place = len(profile)
    profile += line
    for index in range(struct.unpack(">I", profile[128:132])[0]):
        entry = 132 + 12 * index
        if profile[entry : entry + 4] in (b"rTRC", b"gTRC", b"bTRC"):
            profile[entry + 4 : entry + 12] = struct.pack(">II", place, len(line))
    profile[:4] = struct.pack(">I", len(profile))
    return bytes(profile)


# ---- the crop


@given(st.integers(24, 160), st.integers(24, 160), st.integers(16, 64))
@settings(max_examples=40, deadline=None)
def test_a_circle_stays_a_circle_in_its_place(width: int, height: int, size: int) -> None:
    """Centre and both radii of a disc in the square that is kept, as its pixels' moments measure them."""
    side, scale = min(width, height), 8
    left = (width - side) // 2
    centre, radius = np.array([left + 0.55 * side, 0.4 * side]), 0.3 * side
    canvas = Image.new("L", (width * scale, height * scale))
    ImageDraw.Draw(canvas).ellipse([*((centre - radius) * scale), *((centre + radius) * scale)], fill=255)
    disc = canvas.resize((width, height), Image.Resampling.BOX).convert("RGB")

    weights = np.asarray(pixels.square(disc, size))[..., 0] / 255.0
    places = (np.arange(size) + 0.5) * side / size
    total = weights.sum()
    found = np.array([(weights.sum(0) * places).sum(), (weights.sum(1) * places).sum()]) / total
    spread = [((weights.sum(axis) * (places - middle) ** 2).sum() / total) ** 0.5 for axis, middle in enumerate(found)]
    pixel = max(1.0, side / size)
    np.testing.assert_allclose(found, centre - [left, 0], atol=0.15 * pixel)
    np.testing.assert_allclose(spread[0], spread[1], atol=0.12 * pixel)
    np.testing.assert_allclose(2 * np.array(spread), radius, atol=0.3 * pixel)


def test_wide_pictures_keep_the_middle_and_tall_ones_the_top() -> None:
    wide = Image.new("RGB", (90, 30), (255, 0, 0))
    wide.paste((0, 255, 0), (30, 0, 60, 30))
    assert np.asarray(pixels.square(wide, 30)).reshape(-1, 3).tolist() == [[0, 255, 0]] * 900
    tall = Image.new("RGB", (30, 90), (255, 0, 0))
    tall.paste((0, 255, 0), (0, 0, 30, 30))
    assert np.asarray(pixels.square(tall, 30)).reshape(-1, 3).tolist() == [[0, 255, 0]] * 900


def test_fine_stripes_average_out(tmp_path: Path) -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    np.testing.assert_allclose(read_one(tmp_path / "a.png", 16), 0.5, atol=0.03)


# ---- which files


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Two good photos, and a file of every kind that does not serve."""
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
    scene().save(folder / "old.gif")
    (folder / "link.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "pipe.png")
    return folder


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
        "notes.txt": "not a JPEG, PNG or WebP picture",
        "phone.heic": "a HEIC picture; save it as JPEG, PNG or WebP",
        "old.gif": "not a JPEG, PNG or WebP picture",
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


# ---- hostile and damaged files


def png(width: int, height: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [11_000, 12_500, 30_000])
def test_decompression_bombs_are_refused_unopened(
    tmp_path: Path, side: int, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("it was decoded"))
    (tmp_path / "bomb.png").write_bytes(png(side, side, b""))
    refuses(str(tmp_path), "bomb.png", "million")
    assert not recwarn.list


@given(st.sampled_from(["PNG", "JPEG", "WEBP"]), st.data())
@settings(max_examples=60, deadline=None)
def test_no_damage_gets_further_than_a_reason(format: str, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    scene(70, 70).save(buffer, format)
    content = bytearray(buffer.getvalue())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    kept = data.draw(st.integers(0, len(content)))
    try:
        picture, _ = pixels.decode(bytes(content[:kept]))
    except pixels.Unusable as reason:
        assert str(reason)
        assert "\n" not in str(reason)
    else:
        assert picture.mode == "RGB"


# ---- nothing there


def test_a_missing_path_is_answered_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "anna").mkdir()
    refuses(str(tmp_path / "ana"), "no such file or folder", f"did you mean {tmp_path / 'anna'}?")
    refuses(str(tmp_path / "ana" / "head.png"), f"did you mean {tmp_path / 'anna'}?")
    refuses(str(tmp_path / "xyz"), "holds no 'xyz'", "expected a folder, a glob or one picture")
    refuses("~nobody-of-that-name/photos", "no such file or folder")


def test_a_glob_without_files_says_what_is_there(album: Path) -> None:
    refuses(str(album.parent / "Zo*" / "*.JPG"), "matches no file", "1 folder")
    refuses(str(album.parent / "*"), "matches folders only", str(album), "add /*")
    (album.parent / "plain").mkdir()
    scene().save(album.parent / "plain" / "a.JPG")
    refuses(str(album.parent / "plain" / "*.jpg"), "matches no file", "holds 1 .JPG")
    refuses(str(album.parent / "plan" / "*.jpg"), "there is no folder", f"did you mean {album.parent / 'plain'}?")


def test_no_photo_left_names_what_was_looked_at(tmp_path: Path) -> None:
    refuses(str(tmp_path), "holds no file (nothing)")
    (tmp_path / "deeper").mkdir()
    refuses(str(tmp_path), "holds no file (1 folder)")
    for i in range(7):
        (tmp_path / f"{i}.txt").write_text(str(i))
    refuses(str(tmp_path), "none of 7 files serves", "0.txt (not a JPEG", "4.txt", "and 2 more", "JPEG, PNG or WebP")
    refuses("", "photos is empty")
    refuses("  ", "photos is empty")


# ---- background removal


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
        "def remove(picture, session, only_mask):\n"
        "    mask = Image.new('L', picture.size)\n"
        "    if session != 'nobody': mask.paste(255, (0, 0, picture.width // 2, picture.height))\n"
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


def test_missing_weights_are_named_not_fetched(rembg: Path, photo: Path) -> None:
    refuses(str(photo), "embed.remove_background=true", str(rembg.parent), "new_session", remove_background=True)


def test_damaged_weights_are_named(rembg: Path, photo: Path) -> None:
    rembg.write_text("damaged")
    refuses(str(photo), str(rembg), "not a model)", "delete it", remove_background=True)


@pytest.mark.parametrize("missing", ["onnxruntime", "rembg"])
def test_without_the_extra_the_message_says_how_to_install(
    photo: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in (missing, f"{missing}.sessions"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("avatar_gs.identity.background.find_spec", lambda name: None if name == missing else object())
    refuses(str(photo), "embed.remove_background=true", "pip install 'avatar_gs[photos]'", remove_background=True)


def test_a_photos_own_transparency_needs_no_removal(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avatar_gs.identity.photos.load_remover", lambda: pytest.fail("the photo is cut out already"))
    picture = Image.new("RGBA", (80, 80), (255, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (40, 0, 80, 80))
    picture.save(photo)
    np.testing.assert_allclose(read_one(photo, remove_background=True)[:, -13:], GREY, atol=1e-6)
