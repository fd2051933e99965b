"""Images that are damaged or lie."""

import io
import math
import struct
import zlib

import pytest
from hypothesis import strategies as st
from PIL import Image

from avatar_gs.core.errors import UserError
from avatar_gs.identity.photos import load_photos
from avatar_gs.identity.pixels import MAX_PIXELS, Unusable, decode
from tests.robustness.hostile import damaged, examples, try_cases

pytestmark = pytest.mark.usefixtures("little_memory")


def encoded(mode: str, size: tuple[int, int], format: str, orientation: int) -> bytes:
    """An image file, or nothing where the format has no such mode."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    try:
        Image.new(mode, size, 1).save(file, format, exif=exif)
    except (OSError, ValueError, KeyError, TypeError):
        return b""
    return file.getvalue()


IMAGES = st.builds(
    encoded,
    st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]),
    st.tuples(st.sampled_from([1, 2, 64, 70, 3000]), st.sampled_from([1, 5, 64, 90])),
    st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "GIF", "AVIF", "MPO", "BMP", "PPM", "ICO"]),
    st.integers(0, 300),
)


@examples
def test_images(examples):
    small = [encoded("RGB", (9, 7), name, 1) for name in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "AVIF")]

    def read(data):
        try:
            image, alpha = decode(data)
        except Unusable as reason:
            assert "\n" not in str(reason)
        else:
            assert image.mode == "RGB" and (alpha is None or alpha.size == image.size)

    try_cases(examples, IMAGES | damaged(*small), read)


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1)])
def test_thin_images_are_skipped(tmp_path, size):
    Image.new("L", size).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"100000.*smaller than embed\.min_size"):
        load_photos(str(tmp_path), 32)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "GIF", "WEBP"])
def test_images_that_claim_too_many_pixels_are_refused_before_they_are_decoded(format):
    data = bytearray(encoded("L", (16, 16), format, 1))
    side = math.isqrt(MAX_PIXELS) + 1
    if format == "PNG":
        data[16:24] = struct.pack(">II", side, side)
        crc = zlib.crc32(data[12:29])
        data[29:33] = struct.pack(">I", crc)
    elif format == "GIF":
        data[6:10] = struct.pack("<HH", 60_000, 60_000)
    elif format == "TIFF":
        for tag in (256, 257):
            place = data.index(struct.pack("<HH", tag, 4)) if struct.pack("<HH", tag, 4) in data else None
            place = place if place is not None else data.index(struct.pack("<HH", tag, 3))
            data[place : place + 12] = struct.pack("<HHII", tag, 4, 1, side)
    else:
        data = bytearray(encoded("RGB", (16, 16), format, 1))
        data[26:30] = struct.pack("<HH", 16_383, 16_383)
    with pytest.raises(Unusable, match=r"million|damaged"):
        decode(bytes(data))
