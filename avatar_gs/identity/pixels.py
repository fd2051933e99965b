"""One photo: from a file's bytes to an upright square in sRGB.

Whatever a camera or an editor wrote comes out as 8-bit RGB; nothing is ever squashed.
"""

import io
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

from avatar_gs.core.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 120_000_000
"""Larger pictures are refused before they are decoded: a few kilobytes can unpack to gigabytes."""
GREY = 128
"""The plain background, mid-grey."""
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF")
_APPLE = (b"ftyphei", b"ftyphev", b"ftypmif", b"ftypmsf")
_SRGB = ImageCms.createProfile("sRGB")


class Unusable(Exception):
    """A file that cannot serve as a photo; the message is the reason, a few words."""


def decode(data: bytes) -> tuple[Image.Image, Image.Image | None]:
    """A picture's upright RGB and, if it has one that hides anything, its alpha (mode L), both of its own size.

    Reads JPEG, PNG and WebP by content (of an animation, the first picture), honours EXIF orientation and embedded
    colour profiles.

    Raises:
        Unusable: it is something else, damaged or cut short, too large, or wholly transparent.
    """
    image = _upright(_eight_bits(_loaded(data)))
    if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa") and "transparency" not in image.info:
        return _srgb(image), None
    with_alpha = image.convert("RGBA")
    with_alpha.info = image.info
    alpha = with_alpha.getchannel("A")
    least, most = np.asarray(alpha).min(), np.asarray(alpha).max()
    if most == 0:
        raise Unusable("wholly transparent")
    return _srgb(with_alpha), (None if least == 255 else alpha)


def on_grey(picture: Image.Image, alpha: Image.Image | None) -> Image.Image:
    """``picture`` where ``alpha`` is white and plain mid-grey where it is black."""
    if alpha is None:
        return picture
    return Image.composite(picture, Image.new("RGB", picture.size, (GREY,) * 3), alpha)


def square(picture: Image.Image, size: int) -> Image.Image:
    """The largest square of a picture, at ``size`` pixels: the middle of a wide one, the upper part of a tall one,
    because that is where the face is."""
    side = min(picture.size)
    left = (picture.width - side) // 2
    return picture.resize((size, size), Image.Resampling.LANCZOS, box=(left, 0, left + side, side))


def _loaded(data: bytes) -> Image.Image:
    if not data:
        raise Unusable("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own, gentler limit, and oddities of metadata
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                millions = image.width * image.height / 1e6
                raise Unusable(
                    f"{image.width}×{image.height} pixels: {millions:.0f} million, more than {MAX_PIXELS / 1e6:.0f}"
                )
            image.load()
    except Unusable:
        raise
    except Image.DecompressionBombError as error:
        raise Unusable(f"far more than {MAX_PIXELS / 1e6:.0f} million pixels") from error
    except Exception as error:  # a broken file makes Pillow's readers raise almost anything
        raise Unusable(_what_is_wrong(data)) from error
    return image


def _what_is_wrong(data: bytes) -> str:
    if data.startswith(_BEGINNINGS):
        return "damaged or cut short"
    if data[4:].startswith(_APPLE):
        return "a HEIC picture; save it as JPEG, PNG or WebP"
    return "not a JPEG, PNG or WebP picture"


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow opens 16-bit greyscale as integers, and its own conversion of those clips nearly everything to white."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.float64) / 257
    grey = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    grey.info = {key: value for key, value in image.info.items() if key in ("exif", "icc_profile")}
    return grey


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # metadata that cannot be read say nothing about the pixels
        return image


def _srgb(image: Image.Image) -> Image.Image:
    """RGB, converted from the colour space that an embedded profile names (phones photograph in Display P3)."""
    profile: Any = image.info.get("icc_profile")
    rgb = image.convert("RGB") if image.mode != "CMYK" else image
    if profile and image.mode in ("RGB", "RGBA", "P", "CMYK"):
        try:
            embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(rgb, embedded, _SRGB, outputMode="RGB") or rgb.convert("RGB")
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            pass  # a damaged profile, or one of another kind of picture
    return rgb.convert("RGB")


WEIGHTS = "u2net_human_seg"
LEAST_AREA = 0.005
"""A mask that covers less of a picture found nobody in it."""
_OTHERWISE = "or leave embed.remove_background out (photos with a transparent background need no removal)"


def load_remover() -> Callable[[Image.Image], Image.Image]:
    """A function from an RGB picture to its mask (mode L, the picture's size, white where the person is), which raises
    ``Unusable`` where it finds nobody.

    Raises:
        UserError: rembg or its weights are not installed.
    """
    remove, session = _load()

    def remover(picture: Image.Image) -> Image.Image:
        mask = remove(picture, session=session, only_mask=True).convert("L")
        if np.asarray(mask).mean() < 255 * LEAST_AREA:
            raise Unusable("no person found in it (embed.remove_background)")
        return mask

    return remover


def _load() -> tuple[Any, Any]:
    """rembg's ``remove`` and a session of it."""
    try:
        # Importing rembg without onnxruntime prints advice and ends the process.
        if find_spec("onnxruntime") is None:
            raise ImportError("onnxruntime")
        import rembg  # pyright: ignore[reportMissingImports] (an optional extra)
        from rembg.sessions.u2net_human_seg import (  # pyright: ignore[reportMissingImports]
            U2netHumanSegSession,
        )
    except (ImportError, SystemExit) as error:
        raise UserError(
            "embed.remove_background=true needs the rembg package: install it with pip install 'avatar_gs[photos]', "
            + _OTHERWISE
        ) from error
    if U2netHumanSegSession.resolve_existing(f"{WEIGHTS}.onnx") is None:
        raise UserError(
            f"embed.remove_background=true: the weights of rembg are not in {U2netHumanSegSession.model_dir()}, and "
            "nothing is downloaded unasked: fetch them once (176 MB) with "
            f"python -c \"import rembg; rembg.new_session('{WEIGHTS}')\", {_OTHERWISE}"
        )
    try:
        return rembg.remove, rembg.new_session(WEIGHTS, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has its own kinds, of no common base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"embed.remove_background=true: {U2netHumanSegSession.resolve_existing(f'{WEIGHTS}.onnx')} cannot be "
            f"loaded ({reason}): delete it and fetch it again, {_OTHERWISE}"
        ) from error
