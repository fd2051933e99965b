"""Weight files on the disk: whether they are complete, and conversion of pickled ones to safetensors.

Opening a pickle as usual can run a program. Here it is read by torch's restricted reader, which refuses all
but tensors and containers, and is written once as safetensors; later runs read that copy.
"""

import hashlib
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open
from torch import Tensor

from avatar_gs.core.errors import UserError
from avatar_gs.core.io import atomic_write
from avatar_gs.core.paths import user_cache

LOGGER = logging.getLogger(__name__)

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
UNFINISHED = (".incomplete", ".part", ".partial", ".crdownload", ".aria2", ".download", ".tmp")
"""Suffixes that browsers and download tools give to incomplete files."""
POINTER = b"version https://git-lfs.github.com/spec/"
POINTER_BYTES = 1024
"""Upper bound of a pointer's size."""
NESTED = ("state_dict", "model_state_dict", "module")
"""Keys under which training programs save the tensors, next to counters and optimisers."""


def is_pickle(file: Path) -> bool:
    """Whether a file is pickled, by its suffix."""
    return file.suffix.lower() in PICKLES


def check_no_pointer(file: Path, override: str = "prior") -> None:
    """Raise UserError for a git-lfs pointer: text in place of a file that was not downloaded."""
    try:
        if file.stat().st_size >= POINTER_BYTES or not file.read_bytes().startswith(POINTER):
            return
    except OSError as error:
        raise UserError(f"{override}: {file} cannot be read ({error.strerror})") from error
    raise UserError(
        f"{override}: {file} is a git-lfs pointer, not the file itself: run `git lfs pull` in its repository, or "
        "download the file"
    )


def check_safetensors(file: Path, override: str = "prior") -> None:
    """Raise UserError for a file that is no safetensors, or shorter than its header states."""
    check_no_pointer(file, override)
    try:
        with safe_open(file, "pt") as tensors:
            tensors.keys()
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{override}: {file} cannot be read as safetensors ({error}): the file is damaged or cut short; "
            "get it again"
        ) from error


def unfinished(folder: Path, stem: str) -> list[str]:
    """Names of incomplete downloads of ``stem``."""
    return sorted(file.name for file in folder.glob(f"*{stem}*") if file.suffix.lower() in UNFINISHED)


def read_pickle(file: Path) -> Any:
    """Content of a pickle of tensors, containers and plain values; nothing in it is executed.

    Raises:
        UserError: if it is damaged, or holds other objects.
    """
    check_no_pointer(file)
    allowed = [torch.nn.ParameterDict, set]  # of the first textual inversion program; both hold tensors only
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
            warnings.simplefilter("ignore")  # advice for the file's author
            try:
                return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # files of torch before 1.6 cannot be mapped
                return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file makes the unpickler raise almost anything
        raise UserError(
            f"{file} is damaged, or a pickle that holds more than tensors and could run a program: pickled files are "
            "read as plain tensors only; get the .safetensors version of it"
        ) from error


def tensors_of(file: Path) -> dict[str, Tensor]:
    """Tensors by name of a pickled state dict, also of one within a training program's checkpoint.

    Raises:
        UserError: as ``read_pickle``, or if there are none.
    """
    content = read_pickle(file)
    for name in NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    tensors = content if isinstance(content, Mapping) else {}
    found = {
        str(name): value.detach()
        for name, value in tensors.items()
        if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized
    }
    if not found:
        raise UserError(f"{file}: no weights are in it (expected tensors by name): give another file")
    for name, value in found.items():
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():  # a few bytes that claim to be many
            raise UserError(f"{file}: '{name}' of {list(value.shape)} has less data than that: give another file")
    return found


def as_safetensors(files: Sequence[Path], name: str, others: Sequence[Path] = ()) -> Path:
    """One safetensors copy of pickled weights, written the first time and reused from then on.

    Args:
        files: one file, or the shards of one model.
        name: of the copy.
        others: files that are copied into the same folder, such as the configuration.

    Raises:
        UserError: if a file is damaged or holds more than plain tensors, or the copy cannot be written.
    """
    target = _copy_folder(files) / name
    if target.is_file():
        check_safetensors(target)
        return target
    LOGGER.info("%s: read as plain tensors, and kept as safetensors in %s", _listed(files), target)
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= tensors_of(file)
    try:
        for file in others:
            with atomic_write(target.with_name(file.name)) as temporary:
                temporary.write_bytes(file.read_bytes())
        with atomic_write(target) as temporary:
            safetensors.torch.save_file(_unshared(tensors), temporary, {"format": "pt"})
    except OSError as error:
        raise UserError(
            f"{target} cannot be written ({error.strerror or error}): make room, or set XDG_CACHE_HOME (HF_HOME for "
            "models of the hub) to a folder that can be written"
        ) from error
    return target


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with a copy of each that shares memory (tied weights and slices), which safetensors refuses."""
    separate, seen = {}, set()
    for name, value in tensors.items():
        storage = value.untyped_storage()
        whole = value.is_contiguous() and storage.nbytes() == value.numel() * value.element_size()
        separate[name] = value if whole and storage.data_ptr() not in seen else value.clone().contiguous()
        seen.add(storage.data_ptr())
    return separate


def _copy_folder(files: Sequence[Path]) -> Path:
    """The folder of the copy: below the model in the hub's cache, or else in the user's cache."""
    digest = hashlib.sha256()
    for file in files:
        real, stat = file.resolve(), file.stat()
        digest.update(f"{real}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    hub, first = Path(constants.HF_HUB_CACHE).resolve(), files[0].resolve()
    if first.is_relative_to(hub):
        base = hub / first.relative_to(hub).parts[0] / "avatar_gs"
    else:
        base = user_cache() / "weights"
    return base / digest.hexdigest()[:20]


def _listed(files: Sequence[Path]) -> str:
    return f"{files[0]}" + (f" and {len(files) - 1} more" if len(files) > 1 else "")
