"""One photo: from a file's bytes to an upright square in sRGB, optionally without its background.

Files of any camera or editor become 8-bit RGB without distortion. Backgrounds are removed by rembg (MIT) with U-2-Net's
weights for people (Apache-2.0; rembg's default weights are not free for commercial use). rembg would download weights
at first use without asking: they must be there before.
"""

import io
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, features

from avatar_gs.core.errors import UserError, first_line

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "AVIF", "HEIF")
"""HEIF needs a plugin for Pillow: the extra ``heic``."""
EXPECTED = "JPEG, PNG, WebP, TIFF, GIF, AVIF or HEIC"
MAX_PIXELS = 120_000_000
"""Larger images are refused before decoding: a few kilobytes can unpack to gigabytes."""
GREY = 128
"""The plain background."""
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"II*\0", b"MM\0*")
_HEIC = (b"ftyphei", b"ftyphev", b"ftypmif", b"ftypmsf")
_AVIF = (b"ftypavif", b"ftypavis")
_SRGB = ImageCms.createProfile("sRGB")


class Unusable(Exception):
    """A file that cannot be used as a photo; the message is the reason in a few words."""


def decode(data: bytes) -> tuple[Image.Image, Image.Image | None]:
    """Decode a photo by its content (the first frame of an animation), with EXIF orientation and colour profile.

    Returns:
        RGB image and, if it is not opaque, its alpha (mode L).

    Raises:
        Unusable: if it has another format, is damaged or cut short, too large, or completely transparent.
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


def on_grey(image: Image.Image, alpha: Image.Image | None) -> Image.Image:
    """``image`` composited over mid-grey."""
    if alpha is None:
        return image
    return Image.composite(image, Image.new("RGB", image.size, (GREY,) * 3), alpha)


def square(image: Image.Image, size: int) -> Image.Image:
    """The largest square of an image at ``size`` pixels: the middle of a wide one, the upper part of a tall one, where
    the face is."""
    side = min(image.size)
    left = (image.width - side) // 2
    return image.resize((size, size), Image.Resampling.LANCZOS, box=(left, 0, left + side, side))


def _loaded(data: bytes) -> Image.Image:
    if not data:
        raise Unusable("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own, higher limit, and odd metadata
            if data[4:].startswith(_HEIC):
                _load_heic()
            Image.init()
            image = Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])
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
        raise Unusable(_reason(data)) from error
    return image


def _reason(data: bytes) -> str:
    if data.startswith(_BEGINNINGS) or (data[4:].startswith(_AVIF) and features.check("avif")):
        return "damaged or cut short"
    if data[4:].startswith(_HEIC):
        return "damaged or cut short" if _load_heic() else "a HEIC image: pip install 'avatar-gs[heic]' reads it"
    return f"not a {EXPECTED} image"


def _load_heic() -> bool:
    """Register Pillow's plugin for HEIC, if it is installed."""
    try:
        import pi_heif  # pyright: ignore[reportMissingImports] (an optional extra)
    except ImportError:
        return False
    pi_heif.register_heif_opener()
    return True


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow opens 16-bit greyscale as integers, which its own conversion clips nearly all to white."""
    if image.mode in ("F", "LAB", "HSV") or (image.mode == "I" and np.asarray(image).max() > 2**16):
        raise Unusable(f"its pixels are of mode {image.mode}; save it as JPEG or PNG")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.float64) / 257
    grey = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    grey.info = {key: value for key, value in image.info.items() if key in ("exif", "icc_profile")}
    return grey


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the pixels are valid even if the metadata are damaged
        return image


def _srgb(image: Image.Image) -> Image.Image:
    """RGB, converted from the colour space of the embedded profile (phones use Display P3)."""
    profile: Any = image.info.get("icc_profile")
    rgb = image.convert("RGB") if image.mode != "CMYK" else image
    if profile and image.mode in ("RGB", "RGBA", "P", "CMYK"):
        try:
            embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(rgb, embedded, _SRGB, outputMode="RGB") or rgb.convert("RGB")
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            pass  # a damaged profile, or one of another type of image
    return rgb.convert("RGB")


WEIGHTS = "u2net_human_seg"
LEAST_AREA = 0.005
"""Smallest fraction of an image that a person's mask covers."""
_OTHERWISE = "or leave embed.remove_background out (photos with a transparent background need no removal)"


def load_remover() -> Callable[[Image.Image], Image.Image]:
    """A function from an RGB image to the mask of the person in it (mode L, same size, white: person).

    The function raises ``Unusable`` if it finds nobody.

    Raises:
        UserError: if rembg or its weights are not installed.
    """
    remove, session = _load_rembg()

    def remover(image: Image.Image) -> Image.Image:
        mask = remove(image, session=session, only_mask=True).convert("L")
        if np.asarray(mask).mean() < 255 * LEAST_AREA:
            raise Unusable("no person found in it (embed.remove_background)")
        return mask

    return remover


def load_detector() -> Callable[[Image.Image], bool] | None:
    """A function that says whether a person is in an RGB image; None unless rembg and its weights are installed."""
    try:
        remove, session = _load_rembg()
    except UserError:
        return None

    def detector(image: Image.Image) -> bool:
        mask = remove(image, session=session, only_mask=True).convert("L")
        return float(np.asarray(mask).mean()) >= 255 * LEAST_AREA

    return detector


def _load_rembg() -> tuple[Any, Any]:
    """rembg's ``remove`` and a session for it."""
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
    except Exception as error:  # onnxruntime's errors have no common base
        reason = first_line(error)
        raise UserError(
            f"embed.remove_background=true: {U2netHumanSegSession.resolve_existing(f'{WEIGHTS}.onnx')} cannot be "
            f"loaded ({reason}): delete it and fetch it again, {_OTHERWISE}"
        ) from error
