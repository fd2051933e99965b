"""How the renderer's kernels are compiled: two decorators, and a cache on disk that cannot be stale.

Numba keys a cached kernel by its own source file only, so a change in a helper of another file would leave an
old kernel in use. The cache therefore lives in a folder named after a hash of *all* sources of this package:
``$NUMBA_CACHE_DIR/avatar_gs-<hash>`` where that variable is set, else ``~/.cache/avatar_gs/numba/<hash>``.
Without a writable folder the kernels are compiled anew in each process (about ten seconds).

No ``prange``: numba's threading layers spin, die after ``fork()`` or abort on concurrent calls. Kernels release
the GIL instead and run on the threads of `avatar_gs.render.cpu.threads`.
"""

import hashlib
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

# Without "nnan" and "ninf": inputs that are not finite must be found and culled, not optimised into anything.
FLOAT_FLAGS = ("contract", "reassoc", "arcp", "nsz")
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "fastmath": set(FLOAT_FLAGS),
    "error_model": "numpy",
    "boundscheck": False,
}


def cache_folder() -> Path | None:
    """A writable folder for compiled kernels that belongs to exactly these sources, or None."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    name = digest.hexdigest()[:16]
    try:
        if chosen := os.environ.get("NUMBA_CACHE_DIR"):
            folder = Path(chosen) / f"avatar_gs-{name}"
        else:
            caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
            folder = Path(caches) / "avatar_gs" / "numba" / name
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # nowhere to write; no home directory
        return None
    return folder if os.access(folder, os.W_OK) else None


_CACHE_FOLDER = cache_folder()


def kernel(function: Callable) -> Any:
    """Compile an entry point: without the GIL, kept in the cache on disk."""
    function = inspect.unwrap(function)  # run-time type checkers wrap functions, which numba cannot compile
    if _CACHE_FOLDER is None:
        return numba.njit(**OPTIONS)(function)
    # Numba reads the folder when a function is decorated: set it for ours only, whoever imported numba first.
    before = numba.config.CACHE_DIR  # pyright: ignore[reportAttributeAccessIssue]
    numba.config.CACHE_DIR = str(_CACHE_FOLDER)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        return numba.njit(cache=True, **OPTIONS)(function)
    finally:
        numba.config.CACHE_DIR = before  # pyright: ignore[reportAttributeAccessIssue]


def helper(function: Callable) -> Any:
    """Compile a function that only kernels call; it becomes part of their code."""
    return numba.njit(inline="always", **OPTIONS)(inspect.unwrap(function))
