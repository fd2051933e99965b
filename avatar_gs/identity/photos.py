"""The photos of one person: finding the files, leaving out what does not serve, and saying why."""

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
from avatar_gs.identity.pixels import Unusable, decode, load_remover, on_grey, square

log = logging.getLogger(__name__)

MAX_BYTES = 256 * 2**20
_NAMED = 5
"""How many skipped files an error names."""


@dataclass(frozen=True)
class PhotoSet:
    """Square photos in [0, 1], in the order of their names.

    ``hashes`` are SHA-256 of the files' bytes; ``skipped`` holds each file that was left out, with the reason.
    """

    images: Float[Tensor, "N S S 3"]
    names: tuple[str, ...]
    hashes: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.names)


def load_photos(source: str, size: int, *, remove_background: bool = False, min_size: int = 64) -> PhotoSet:
    """Reads JPEG, PNG and WebP photos as squares of ``size`` pixels.

    Wide pictures keep their middle and tall ones their upper part; transparent pixels become mid-grey. Files that
    cannot serve (duplicates by bytes or by pixels, shorter sides under ``min_size`` pixels, damaged files, other
    files) are skipped, each with a warning in the log. Hidden files and folders inside a folder are ignored.

    Args:
        source: a folder, a glob (``**`` reaches into folders) or one file.
        remove_background: put the person on plain grey; a photo's own transparency is taken as it is.

    Raises:
        UserError: there is nothing at ``source``, no photo in it serves, or background removal is not installed.
    """
    paths = _find(source)
    remover = lru_cache(maxsize=1)(load_remover) if remove_background else None
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
            picture = _picture(data, min_size, remover)
            pixels = hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()
            _note(first_with, pixels, name, "the same pixels as")
        except Unusable as reason:
            log.warning("photos: %s is skipped: %s", name, reason)
            skipped.append((name, str(reason)))
            continue
        names.append(name)
        hashes.append(digest)
        images.append(torch.from_numpy(np.asarray(square(picture, size)).copy()).float() / 255)
    if not images:
        raise UserError(_none_left(source, skipped))
    return PhotoSet(torch.stack(images), tuple(names), tuple(hashes), tuple(skipped))


def _picture(data: bytes, min_size: int, remover: Callable[[], Callable] | None) -> Image.Image:
    picture, alpha = decode(data)
    if min(picture.size) < min_size:
        raise Unusable(f"{picture.width}×{picture.height} pixels, smaller than embed.min_size={min_size}")
    if alpha is None and remover is not None:
        alpha = remover()(picture)
    return on_grey(picture, alpha)


def _note(first_with: dict[str, str], digest: str, name: str, what: str) -> None:
    if digest in first_with:
        raise Unusable(f"{what} {first_with[digest]}")
    first_with[digest] = name


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():  # a pipe would wait for ever
            raise Unusable("a broken link" if path.is_symlink() else "not a regular file")
        if path.stat().st_size > MAX_BYTES:
            raise Unusable(f"larger than {MAX_BYTES // 2**20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise Unusable(f"cannot be read ({error.strerror})") from error


# ---- finding the files


def _find(source: str) -> list[Path]:
    """The files that ``source`` means, in the order of their names. Raises UserError if there is nothing there."""
    if not source.strip():
        raise UserError("photos is empty: expected a folder, a glob or one picture")
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
    """File names, with their folders where these differ; on one line whatever bytes they hold."""
    one_folder = len({path.parent for path in paths}) == 1
    return [_printable(path.name if one_folder else str(path)) for path in paths]


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


# ---- what may have been meant


def _nearest(path: Path) -> str:
    """What the folder that exists holds under a similar name."""
    parent = next(folder for folder in (path.absolute().parents) if folder.is_dir())
    missing = path.absolute().relative_to(parent).parts[0]
    try:
        beside = [entry.name for entry in parent.iterdir()]
    except OSError:
        beside = []
    close = difflib.get_close_matches(missing, beside, n=1, cutoff=0.5)
    if close:
        return f"did you mean {_printable(str(parent / close[0]))}?"
    return f"{parent} holds no '{missing}': expected a folder, a glob or one picture"


def _empty_glob(path: Path, matches: list[Path]) -> str:
    if matches:
        return f"matches folders only, such as {_printable(str(matches[0]))}; add /* for the files in them"
    fixed = next(folder for folder in path.parents if not _is_glob(str(folder)))
    if not fixed.is_dir():
        return f"matches nothing: there is no folder {fixed}; {_nearest(fixed)}"
    return f"matches no file; {fixed} holds {_contents(fixed)}"


def _contents(folder: Path) -> str:
    """What a folder holds, by suffix: '3 .JPG, 1 folder'."""
    kinds = Counter(
        "folder" if entry.is_dir() else entry.suffix or "file without suffix"
        for entry in folder.iterdir()
        if not entry.name.startswith(".")
    )
    listed = [f"{n} {_printable(kind)}{'s' * (kind == 'folder' and n > 1)}" for kind, n in sorted(kinds.items())]
    return ", ".join(listed[:_NAMED]) or "nothing"


def _none_left(source: str, skipped: list[tuple[str, str]]) -> str:
    expected = "expected JPEG, PNG or WebP photos of one person"
    if not skipped:
        return f"photos={source}: holds no file ({_contents(_expanded(source))}); {expected}"
    listed = ", ".join(f"{name} ({reason})" for name, reason in skipped[:_NAMED])
    more = f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
    return f"photos={source}: none of {len(skipped)} files serves: {listed}{more}; {expected}"
