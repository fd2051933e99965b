"""gsplat's CUDA kernels, compiled on a machine's first use of them.

gsplat removes the build folder of any process that has not finished compiling, so two processes that compile at once
(``torchrun``, two runs of a sweep) destroy each other's files. A lock beside that folder lets one compile while the
others wait, and then load what it made; the system releases it when its holder dies.
"""

import functools
import importlib.util
import logging
import time
from pathlib import Path

import torch
from filelock import FileLock

from avatar_gs.core.errors import UserError

LOGGER = logging.getLogger(__name__)
EXTENSION = "gsplat_cuda"
"""What gsplat calls its kernels."""
LOCK = "avatar_gs.gsplat.lock"


def prepare_renderer(device: torch.device | str) -> None:
    """Compile or load what drawing on ``device`` needs. Without it, the first picture does so.

    Raises:
        UserError: if gsplat's kernels cannot be compiled.
    """
    if torch.device(device).type == "cuda":
        load_kernels()


@functools.cache
def load_kernels() -> None:
    """Load gsplat's kernels, and compile them first where they are missing: one process at a time."""
    if importlib.util.find_spec("gsplat.csrc") is not None:
        return  # they were installed with gsplat
    folder = build_folder()
    built = any((folder / f"{EXTENSION}{suffix}").exists() for suffix in (".so", ".lib"))
    if not built:
        LOGGER.info("compiling gsplat's CUDA kernels into %s, once on this machine: this takes minutes", folder)
    began = time.monotonic()
    with FileLock(folder.parent / LOCK):
        try:
            from gsplat.cuda import _backend
        except (RuntimeError, ImportError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"device=cuda: gsplat's kernels cannot be compiled ({reason}); check the CUDA toolkit "
                "(debug=true shows the compiler's output), or use device=cpu"
            ) from error
    if _backend._C is None:
        raise UserError(
            "device=cuda: gsplat finds no nvcc to compile its kernels with; install the CUDA toolkit (and set "
            "CUDA_HOME), or use device=cpu"
        )
    if not built:
        LOGGER.info("gsplat's CUDA kernels are ready after %.0f s", time.monotonic() - began)


def build_folder() -> Path:
    """Where torch puts the compiled kernels (and makes that folder)."""
    from torch.utils.cpp_extension import _get_build_directory

    return Path(_get_build_directory(EXTENSION, verbose=False))
