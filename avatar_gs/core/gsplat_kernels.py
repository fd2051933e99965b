"""gsplat's CUDA kernels: whether they are available, what a build needs, and the build itself.

The gsplat of PyPI has no compiled kernels. It compiles them at the first use with torch's extension builder, and needs
the same tools whenever it loads what it has compiled. It also removes the build folder of any process that has not
finished, so processes that compile at once (``torchrun``, a sweep) destroy each other's files: here a file lock lets
one compile while the others wait. Private names of gsplat and torch are used in this module only.

Imports torch only inside functions.
"""

import functools
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from avatar_gs.core.console import rounded_duration
from avatar_gs.core.errors import UserError, first_line

LOGGER = logging.getLogger(__name__)
EXTENSION = "gsplat_cuda"
"""gsplat's name of the compiled extension."""
MEASURED_SECONDS, MEASURED_JOBS = 88, 13
"""Duration of a build of gsplat 1.5.3 on 16 cores, and its number of parallel jobs."""
DEFAULT_JOBS = 10
"""gsplat's MAX_JOBS where the user sets none."""


@dataclass(frozen=True)
class Kernels:
    """State of the kernels on this machine."""

    status: str
    problem: str = ""
    """Why they cannot be used, and the remedy; empty if they can."""


def find_kernels(cores: int = 0) -> Kernels:
    """Check for compiled kernels and for the tools that compile them. Compiles nothing.

    Args:
        cores: CPU cores for the estimate of the build's duration; 0: all of the system.
    """
    if importlib.util.find_spec("gsplat") is None:
        return Kernels("no gsplat", "gsplat is not installed; it draws on a GPU: pip install gsplat")
    if importlib.util.find_spec("gsplat.csrc") is not None:
        return Kernels("compiled, they came with gsplat")
    nvcc = find_nvcc()
    if nvcc is None:
        return Kernels(
            "no nvcc",
            "found no nvcc, which gsplat needs to build its kernels; install the CUDA toolkit (and set CUDA_HOME)",
        )
    import torch

    version, expected = cuda_release(nvcc), torch.version.cuda or "none"
    if version is None:
        return Kernels(
            f"{nvcc} does not answer",
            f"{nvcc} --version names no CUDA release, and gsplat needs it to build its kernels; "
            "install the CUDA toolkit (and set CUDA_HOME)",
        )
    if version.split(".")[0] != expected.split(".")[0]:
        return Kernels(
            f"nvcc is of CUDA {version}, torch of {expected}",
            f"{nvcc} is of CUDA {version} and torch was built with CUDA {expected}: it cannot build gsplat's kernels; "
            f"install CUDA toolkit {expected} (and set CUDA_HOME), or a torch for CUDA {version}",
        )
    compiler = os.environ.get("CXX", "c++")  # as torch chooses it
    missing = [name for name in (compiler, "ninja") if shutil.which(name) is None]
    if missing:
        return Kernels(
            f"no {' and no '.join(missing)}",
            f"found no {' and no '.join(missing)}, which gsplat needs to build its kernels; "
            "install a C++ compiler (CXX names another than c++) and ninja (pip install ninja)",
        )
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    if built := sorted(root.glob(f"**/{EXTENSION}*.so")):
        return Kernels(f"compiled before, {built[0]}")
    jobs = min(cores or os.cpu_count() or 1, int(os.environ.get("MAX_JOBS") or DEFAULT_JOBS), MEASURED_JOBS)
    seconds = MEASURED_SECONDS * MEASURED_JOBS / jobs
    return Kernels(
        f"not compiled yet: the first use builds them with {nvcc} (CUDA {version}), {compiler} and ninja, an estimated "
        f"{rounded_duration(seconds)} with {jobs} jobs"
    )


def find_nvcc() -> Path | None:
    """The CUDA compiler that torch's extension builder uses: in its CUDA_HOME, else on the PATH."""
    from torch.utils import cpp_extension

    home = cpp_extension.CUDA_HOME
    if home is not None and (Path(home) / "bin" / "nvcc").is_file():
        return Path(home) / "bin" / "nvcc"
    found = shutil.which("nvcc")
    return None if found is None else Path(found)


def cuda_release(nvcc: Path) -> str | None:
    """The CUDA release of a compiler, such as ``"13.0"``; None if it reports none."""
    try:
        answer = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    release = re.search(r"release (\d+\.\d+)", answer)
    return None if release is None else release[1]


@functools.cache
def load_kernels() -> None:
    """Load gsplat's kernels; compile them first where they are missing, one process at a time.

    Raises:
        UserError: if they cannot be compiled.
    """
    if importlib.util.find_spec("gsplat.csrc") is not None:
        return  # they were installed with gsplat
    from torch.utils.cpp_extension import _get_build_directory

    folder = Path(_get_build_directory(EXTENSION, verbose=False))
    built = any((folder / f"{EXTENSION}{suffix}").exists() for suffix in (".so", ".lib"))
    if not built:
        LOGGER.info("compiling gsplat's CUDA kernels into %s, once on this machine: this takes minutes", folder)
    began = time.monotonic()
    with FileLock(folder.parent / "avatar_gs.gsplat.lock"):
        try:
            from gsplat.cuda import _backend
        except (RuntimeError, ImportError) as error:
            reason = first_line(error)
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
