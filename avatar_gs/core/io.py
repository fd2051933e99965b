"""Atomic files: text, JSON, and tensors with a JSON state.

Every file is written under a temporary name and renamed, so a full disk or a kill leaves the previous version whole.
Imports torch only inside functions.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatar_gs.core.errors import UserError

if TYPE_CHECKING:
    import torch

_STATE_KEY = "state"
PARTIAL = ".partial"
"""Part of the hidden names of files that are being written."""


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path`` with the same suffix; rename it to ``path`` at the block's end.

    The folder is created if missing. If the block raises, the temporary file is deleted and ``path`` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{PARTIAL}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:  # a rename may reach the disk before the bytes it names
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # a full disk does not say which file it has no room for
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def save_state(path: str | os.PathLike[str], tensors: Mapping[str, "torch.Tensor"], state: Any = None) -> None:
    """Write tensors and a JSON value (in the header) as one safetensors file, atomically."""
    import safetensors.torch

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(contiguous, metadata={_STATE_KEY: json.dumps(state)})
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def load_state(
    path: str | os.PathLike[str], device: "torch.device | str" = "cpu"
) -> tuple[dict[str, "torch.Tensor"], Any]:
    """Read the tensors and the JSON value of a file of ``save_state``.

    Raises:
        UserError: if the file is missing, truncated or of another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a file, not a dict)
        return tensors, json.loads(header[_STATE_KEY])
    except FileNotFoundError:
        raise UserError(f"{path} is not there") from None
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path} is damaged or not a file of avatar_gs ({error}): delete it, or give another"
        ) from error
