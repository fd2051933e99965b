"""gsplat's CUDA kernels: whether they are here, or what will build them. Loads torch only when called.

gsplat comes without compiled kernels from PyPI. It builds them at their first use with torch's extension builder, and
asks for the same tools whenever it loads what it has built.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

MEASURED_SECONDS, MEASURED_JOBS = 88, 13
"""How long the build of gsplat 1.5.3 took on 16 cores, with that many jobs (76 to 88 s)."""
DEFAULT_JOBS = 10
"""What gsplat sets MAX_JOBS to where the user does not."""


@dataclass(frozen=True)
class Kernels:
    """What was found, in words; and what is missing and what would help ("" if nothing is)."""

    found: str
    wrong: str = ""


def look(cores: int = 0) -> Kernels:
    """Looks for the kernels, and for what builds them; compiles nothing.

    Args:
        cores: of this machine, for an estimate of the build's time; 0: as many as the system has.
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

    version, expected = cuda_of(nvcc), torch.version.cuda or "none"
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
    built = _built()
    if built is not None:
        return Kernels(f"compiled before, {built}")
    jobs = min(cores or os.cpu_count() or 1, int(os.environ.get("MAX_JOBS") or DEFAULT_JOBS), MEASURED_JOBS)
    seconds = MEASURED_SECONDS * MEASURED_JOBS / jobs
    return Kernels(
        f"not compiled yet: the first use builds them with {nvcc} (CUDA {version}), {compiler} and ninja, an estimated "
        f"{_span(seconds)} with {jobs} jobs"
    )


def find_nvcc() -> Path | None:
    """The compiler that gsplat would take: that of torch's CUDA_HOME, else one on the PATH."""
    from torch.utils import cpp_extension

    home = cpp_extension.CUDA_HOME
    if home is not None and (Path(home) / "bin" / "nvcc").is_file():
        return Path(home) / "bin" / "nvcc"
    found = shutil.which("nvcc")
    return None if found is None else Path(found)


def cuda_of(nvcc: Path) -> str | None:
    """The CUDA release of a compiler, such as ``"13.0"``; None where it does not say."""
    try:
        answer = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    release = re.search(r"release (\d+\.\d+)", answer)
    return None if release is None else release[1]


def _built() -> Path | None:
    """The library that an earlier use has built."""
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    return next(iter(sorted(root.glob("**/gsplat_cuda*.so"))), None)


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
