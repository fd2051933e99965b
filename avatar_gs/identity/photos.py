"""Load the photos of one person, and report files that cannot be used."""

import difflib
import glob
import hashlib
import logging
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from avatar_gs.core.errors import UserError
from avatar_gs.identity.pixels import EXPECTED, Unusable, decode, load_detector, load_remover, on_grey, square

log = logging.getLogger(__name__)

MAX_BYTES = 256 * 2**20
_NAMED = 5
"""Number of skipped files that an error names."""


@dataclass(frozen=True)
class PhotoSet:
    """Square photos in [0, 1], in the order of their names.

    ``hashes`` are SHA-256 of the files' bytes; ``skipped`` holds the names of unusable files with the reasons.
    """

    images: Float[Tensor, "N S S 3"]
    names: tuple[str, ...]
    hashes: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.names)


def load_photos(source: str, size: int, *, remove_background: bool = False, min_size: int = 64) -> PhotoSet:
    """Load photos as squares of ``size`` pixels.

    Wide images keep their middle and tall ones their upper part; transparent pixels become mid-grey. Unusable files
    (duplicates by bytes or pixels, damaged or other files) are skipped with a warning. Photos without a person are
    named in a warning where rembg and its weights are installed. Hidden files and folders inside
    a folder are ignored.

    Args:
        source: a folder, a glob (``**`` includes subfolders) or one file.
        size: side of the squares in pixels.
        remove_background: put the person on plain grey; a photo with transparency keeps its own mask.
        min_size: smallest shorter side in pixels; smaller photos are skipped.

    Raises:
        UserError: if there is nothing at ``source``, no photo is usable, or background removal is not installed.
    """
    paths = find_photos(source)
    remover = lru_cache(maxsize=1)(load_remover) if remove_background else None
    detector = None if remove_background else load_detector()
    images: list[Tensor] = []
    names: list[str] = []
    hashes: list[str] = []
    skipped: list[tuple[str, str]] = []
    first_with: dict[str, str] = {}
    for path, name in zip(paths, _names(paths), strict=True):
        try:
            data = _read(path)
            digest = hashlib.sha256(data).hexdigest()
            _note(first_with, digest, name, "the same file as")
            image = _image(data, min_size, remover)
            pixels = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
            _note(first_with, pixels, name, "the same pixels as")
        except Unusable as reason:
            log.warning("photos: %s is skipped: %s", name, reason)
            skipped.append((name, str(reason)))
            continue
        if detector is not None and not detector(image):
            log.warning("photos: %s: no person is found in it; leave it out if it shows none", name)
        names.append(name)
        hashes.append(digest)
        images.append(torch.from_numpy(np.asarray(square(image, size)).copy()).float() / 255)
    if not images:
        raise UserError(_none_left(source, skipped))
    return PhotoSet(torch.stack(images), tuple(names), tuple(hashes), tuple(skipped))


def _image(data: bytes, min_size: int, remover: Callable[[], Callable] | None) -> Image.Image:
    image, alpha = decode(data)
    if min(image.size) < min_size:
        raise Unusable(f"{image.width}×{image.height} pixels, smaller than embed.min_size={min_size}")
    if alpha is None and remover is not None:
        alpha = remover()(image)
    return on_grey(image, alpha)


def _note(first_with: dict[str, str], digest: str, name: str, what: str) -> None:
    if digest in first_with:
        raise Unusable(f"{what} {first_with[digest]}")
    first_with[digest] = name


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():  # reading a pipe would never end
            raise Unusable("a broken link" if path.is_symlink() else "not a regular file")
        if path.stat().st_size > MAX_BYTES:
            raise Unusable(f"larger than {MAX_BYTES // 2**20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise Unusable(f"cannot be read ({error.strerror})") from error


# ---- finding the files


def find_photos(source: str) -> list[Path]:
    """The files of ``source`` (a folder, a glob or one file), sorted by name; they may not be photos.

    Raises:
        UserError: if there is nothing, or it cannot be read.
    """
    if not source.strip():
        raise UserError("photos is empty: expected a folder, a glob or one image")
    path = _expanded(source)
    try:
        if path.is_dir():
            found = [entry for entry in path.iterdir() if not entry.name.startswith(".") and not entry.is_dir()]
        elif path.exists() or path.is_symlink():
            found = [path]
        elif _is_glob(source):
            matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207 (absolute ones)
            found = [match for match in set(matches) if not match.is_dir()]
            if not found:
                raise UserError(f"photos={source}: {_empty_glob(path, matches)}")
        else:
            raise UserError(f"photos={source}: no such file or folder; {_nearest(path)}")
    except OSError as error:
        raise UserError(f"photos={source}: cannot be read ({error.strerror}); check its permissions") from error
    return sorted(found, key=lambda entry: (unicodedata.normalize("NFC", str(entry)), str(entry)))


def _expanded(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:  # ~nobody
        return Path(source)


def _is_glob(text: str) -> bool:
    return any(character in text for character in "*?[")


def _names(paths: Sequence[Path]) -> list[str]:
    """Printable file names, with their folders if these differ."""
    one_folder = len({path.parent for path in paths}) == 1
    return [_printable(path.name if one_folder else str(path)) for path in paths]


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


# ---- hints in errors


def _nearest(path: Path) -> str:
    """A hint at a similar name in the deepest folder of the path that exists."""
    parent = next(folder for folder in (path.absolute().parents) if folder.is_dir())
    missing = path.absolute().relative_to(parent).parts[0]
    try:
        existing = [entry.name for entry in parent.iterdir()]
    except OSError:
        existing = []
    close = difflib.get_close_matches(missing, existing, n=1, cutoff=0.5)
    if close:
        return f"did you mean {_printable(str(parent / close[0]))}?"
    return f"{parent} holds no '{missing}': expected a folder, a glob or one image"


def _empty_glob(path: Path, matches: list[Path]) -> str:
    if matches:
        return f"matches folders only, such as {_printable(str(matches[0]))}; add /* for the files in them"
    fixed = next(folder for folder in path.parents if not _is_glob(str(folder)))
    if not fixed.is_dir():
        return f"matches nothing: there is no folder {fixed}; {_nearest(fixed)}"
    return f"matches no file; {fixed} holds {_contents(fixed)}"


def _contents(folder: Path) -> str:
    """A folder's content by suffix: '3 .JPG, 1 folder'."""
    counts = Counter(
        "folder" if entry.is_dir() else entry.suffix or "file without suffix"
        for entry in folder.iterdir()
        if not entry.name.startswith(".")
    )
    listed = [f"{n} {_printable(suffix)}{'s' * (suffix == 'folder' and n > 1)}" for suffix, n in sorted(counts.items())]
    return ", ".join(listed[:_NAMED]) or "nothing"


def _none_left(source: str, skipped: list[tuple[str, str]]) -> str:
    expected = f"expected {EXPECTED} photos of one person"
    if not skipped:
        return f"photos={source}: holds no file ({_contents(_expanded(source))}); {expected}"
    listed = ", ".join(f"{name} ({reason})" for name, reason in skipped[:_NAMED])
    more = f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
    return f"photos={source}: none of {len(skipped)} files can be used: {listed}{more}; {expected}"
