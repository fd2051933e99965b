"""Photos of every format that cameras and editors write, and damaged or hostile files."""

import base64
import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw

from avatar_gs.identity import pixels
from tests.identity.images import GREY, SIZE, expected, read_one, refuses, scene

HEIC = (
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAVZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "ACJpbG9jAAAAAERAAAEAAQAAAAABegABAAAAAAAAAIcAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRt"
    "AAAAAAABAAAA1mlwcnAAAAC3aXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMA"
    "AAMAHroCQGEAAQArQgEBA3AAAAMAkAAAAwAAAwAeoCiBhZbqSSmubgIaDAgAAAMAyAAAAwAIQGIAAQAHRAHBcrAiQAAAABNjb2xy"
    "bmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABQAAAAYAAAABBwaXhpAAAAAAMICAgAAAAXaXBtYQAAAAAAAAABAAEEgQIDBAAAAI9t"
    "ZGF0AAAAgygBrwng4wucuq///jSf//39B5D9go04hm4h5R//orcV/Q1Ef+ZFQziKkXznh7BkdAT+mwf1o/qeF5Y6cE60AJTJdt1H"
    "ALamJKpMIQ81TSqq89OMe9ZuAg4yFvkj0bWRwAX8X2lgpMMsVD3se/9QeFM6Hwcf79VBGuWwPp/0FWdNKUC4"
)
"""80 x 96 pixels, red above and blue below (libheif)."""

# ---- image formats


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "avif"])
def test_every_format_is_read_by_its_content(tmp_path: Path, suffix: str) -> None:
    scene().save(tmp_path / f"a.{suffix}", quality=95)
    image = read_one(tmp_path / f"a.{suffix}")
    assert np.abs(image - expected(scene())).max() < (1e-6 if suffix in ("png", "tiff") else 0.05)
    (tmp_path / f"a.{suffix}").rename(tmp_path / "photo")
    np.testing.assert_array_equal(read_one(tmp_path / "photo"), image)


def test_a_gif_is_read_with_its_transparency(tmp_path: Path) -> None:
    image = Image.new("RGBA", (80, 80), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 80, 40))
    image.save(tmp_path / "a.gif", save_all=True, append_images=[scene(80, 80)])
    read = read_one(tmp_path / "a.gif")
    np.testing.assert_allclose(read[:12], GREY, atol=1e-6)
    np.testing.assert_allclose(read[20:], np.broadcast_to([1, 0, 0], (12, SIZE, 3)), atol=1e-6)


def test_a_phones_heic_is_read_where_its_plugin_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("pi_heif")
    data = base64.b64decode(HEIC)
    (tmp_path / "a.jpg").write_bytes(data)
    read = read_one(tmp_path / "a.jpg")
    assert np.abs(read[:12] - np.array([200, 40, 40]) / 255).max() < 0.05
    assert np.abs(read[-12:] - np.array([40, 60, 200]) / 255).max() < 0.05
    (tmp_path / "a.jpg").write_bytes(data[:-60])
    refuses(str(tmp_path), "a.jpg (damaged or cut short)")


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg", "tiff_deflate"])
def test_compressed_tiff(tmp_path: Path, compression: str) -> None:
    scene().save(tmp_path / "a.tif", compression=compression)
    assert np.abs(read_one(tmp_path / "a.tif") - expected(scene())).max() < 0.06


@pytest.mark.parametrize("mode", ["F", "LAB", "I"])
def test_pixels_without_a_sure_meaning_are_refused(tmp_path: Path, mode: str) -> None:
    values = np.full((80, 80), 0.5, np.float32) if mode == "F" else np.full((80, 80), 2**24, np.int32)
    image = Image.new("LAB", (80, 80)) if mode == "LAB" else Image.fromarray(values)
    assert image.mode == mode
    image.save(tmp_path / "a.tif")
    refuses(str(tmp_path), f"a.tif (its pixels are of mode {mode}; save it as JPEG or PNG)")


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


def test_unreadable_exif_is_ignored(tmp_path: Path) -> None:
    scene().save(tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff\x01", quality=95)
    assert np.abs(read_one(tmp_path / "a.jpg") - expected(scene())).max() < 0.06


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_alpha_is_laid_on_mid_grey(tmp_path: Path, suffix: str) -> None:
    image = Image.new("RGBA", (80, 80), (255, 0, 0, 255))
    image.paste((0, 0, 255, 0), (0, 0, 80, 40))
    image.save(tmp_path / f"a.{suffix}", lossless=True)
    read = read_one(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(read[:12], GREY, atol=1e-6)
    np.testing.assert_allclose(read[20:], np.broadcast_to([1, 0, 0], (12, SIZE, 3)), atol=1e-6)


def test_half_transparency_mixes(tmp_path: Path) -> None:
    Image.new("RGBA", (80, 80), (255, 255, 255, 128)).save(tmp_path / "a.png")
    np.testing.assert_allclose(read_one(tmp_path / "a.png"), (1 + GREY) / 2, atol=0.01)


def test_a_completely_transparent_image_is_skipped(tmp_path: Path) -> None:
    Image.new("RGBA", (80, 80), (9, 9, 9, 0)).save(tmp_path / "a.png")
    refuses(str(tmp_path), "a.png (wholly transparent)")


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1"])
def test_other_modes_keep_what_they_show(tmp_path: Path, mode: str) -> None:
    original = scene().convert("L" if mode != "P" else "RGB")
    stored = original.convert(mode)
    stored.save(tmp_path / "a.png")
    np.testing.assert_allclose(read_one(tmp_path / "a.png"), expected(stored.convert("RGB")), atol=1e-6)


def test_a_palettes_transparency_is_laid_on_grey(tmp_path: Path) -> None:
    image = Image.new("P", (80, 80), 1)
    image.putpalette([0, 0, 255, 255, 0, 0])
    image.paste(0, (0, 0, 80, 40))
    image.save(tmp_path / "a.png", transparency=0)
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


def test_a_rotated_sixteen_bit_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    green = scene().getchannel("G")
    turned = np.asarray(green.transpose(Image.Transpose.ROTATE_90)).astype(np.uint16) * 257
    Image.fromarray(turned).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_allclose(read_one(tmp_path / "a.png"), expected(green.convert("RGB")), atol=1.01 / 255)


@pytest.mark.parametrize("format", ["MPO", "WEBP", "PNG"])
def test_the_first_of_several_images_in_a_file_is_read(tmp_path: Path, format: str) -> None:
    """Phones write two images into one JPEG; WebP and PNG can be animated."""
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
    image = Image.new("RGBA", (80, 80), (128, 128, 128, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.save(tmp_path / "a.png", icc_profile=profile)
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
@settings(max_examples=40)
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
    std = [((weights.sum(axis) * (places - middle) ** 2).sum() / total) ** 0.5 for axis, middle in enumerate(found)]
    pixel = max(1.0, side / size)
    np.testing.assert_allclose(found, centre - [left, 0], atol=0.15 * pixel)
    np.testing.assert_allclose(std[0], std[1], atol=0.12 * pixel)
    np.testing.assert_allclose(2 * np.array(std), radius, atol=0.3 * pixel)


def test_wide_images_keep_the_middle_and_tall_ones_the_top() -> None:
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


# ---- hostile and damaged files


def png(width: int, height: int, rows: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

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
@settings(max_examples=60)
def test_no_damage_gets_further_than_a_reason(format: str, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    scene(70, 70).save(buffer, format)
    content = bytearray(buffer.getvalue())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    kept = data.draw(st.integers(0, len(content)))
    try:
        image, _ = pixels.decode(bytes(content[:kept]))
    except pixels.Unusable as reason:
        assert str(reason)
        assert "\n" not in str(reason)
    else:
        assert image.mode == "RGB"
