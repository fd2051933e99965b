"""Small images for the pages: an animated turntable, its first frame, and thumbnails of photos."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from avatar_gs.core.errors import UserError
from avatar_gs.core.io import atomic_write
from avatar_gs.core.runs import POSTER, TURNTABLE
from avatar_gs.identity.photos import MAX_BYTES, find_photos
from avatar_gs.identity.pixels import Unusable, decode, on_grey, square

TURNTABLE_FRAMES, TURNTABLE_SIZE, POSTER_SIZE = 24, 256, 640
PHOTO_SIZE, PHOTOS = 160, 12


def write_turntable(folder: Path, frames: UInt8[np.ndarray, "T S S 3"], seconds: float) -> None:
    """Write the poster and the animated turntable of an avatar to its run's folder.

    Args:
        folder: of the run.
        frames: of one turn, the first one from the front.
        seconds: of the turn.

    Raises:
        OSError: if a file cannot be written.
    """
    chosen = np.linspace(0, len(frames), min(len(frames), TURNTABLE_FRAMES), endpoint=False).round().astype(int)
    images = [_scaled(frames[index], TURNTABLE_SIZE) for index in chosen]
    with atomic_write(folder / POSTER) as temporary:
        _scaled(frames[0], POSTER_SIZE).save(temporary, "WEBP", quality=86, method=4)
    with atomic_write(folder / TURNTABLE) as temporary:
        duration = round(1000 * seconds / len(images))
        images[0].save(
            temporary, "WEBP", save_all=True, append_images=images[1:], duration=duration, loop=0, quality=72, method=3
        )


def photo_thumbnails(source: str) -> list[tuple[str, str]]:
    """Names and data addresses (JPEG) of the first photos of a folder, glob or file; those that cannot be read are
    left out, and all of them where the folder has gone."""
    try:
        paths = find_photos(source)
    except UserError:
        return []
    found: list[tuple[str, str]] = []
    for path in paths:
        if len(found) == PHOTOS:
            break
        try:
            if not path.is_file() or path.stat().st_size > MAX_BYTES:
                continue
            image = square(on_grey(*decode(path.read_bytes())), PHOTO_SIZE)
        except (OSError, Unusable, UserError):
            continue
        found.append((path.name, data_address(image)))
    return found


def data_address(image: Image.Image) -> str:
    """An image as a ``data:`` address."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def spread(items: Sequence[Path], most: int) -> list[Path]:
    """At most so many items, evenly distributed, with the first and the last."""
    places = np.unique(np.linspace(0, len(items) - 1, min(len(items), most)).round().astype(int))
    return [items[place] for place in places]


def _scaled(frame: UInt8[np.ndarray, "S S 3"], largest: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(frame))
    size = min(largest, image.width)
    return image if size == image.width else image.resize((size, size), Image.Resampling.LANCZOS)
