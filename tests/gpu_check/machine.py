"""Describe the machine and list missing packages; fails only if torch or its GPU does."""

import argparse
import importlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGES = (
    *("torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "safetensors", "huggingface_hub"),
    *("gsplat", "smplx", "controlnet_aux", "cv2", "numpy", "numba", "scipy", "hydra", "omegaconf", "yaml", "jaxtyping"),
    *("PIL", "imageio_ffmpeg", "plyfile", "lpips", "rich", "tensorboard", "matplotlib"),
    *("pytest", "pytest_timeout", "hypothesis", "beartype"),
)
VERSIONS = ("torch", "diffusers", "transformers", "gsplat", "triton")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for name, value in facts():
        print(f"{name}: {value}", flush=True)
        rows.append({"machine": name, "found": value})
        options.json.write_text(json.dumps(rows), encoding="utf-8")
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no CUDA device")
        return 1
    return 0


def facts() -> Iterator[tuple[str, str]]:
    """Names and values of the machine's properties."""
    yield "checkout", _output_of("git", "-C", str(Path(__file__).parent), "log", "-1", "--format=%h %s")
    yield "Python", f"{platform.python_version()}, {sys.executable}"
    yield "host", f"{os.cpu_count()} cores, {_memory()} of memory, {platform.machine()}"
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    yield "missing packages", ", ".join(missing) or "none"
    for name in VERSIONS:
        if importlib.util.find_spec(name) is not None:
            yield name, _version(name)
    yield (
        "nvidia-smi",
        _output_of("nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.used", "--format=csv,noheader"),
    )
    yield "nvcc", _output_of("nvcc", "--version")
    yield from _gpu()


def _version(name: str) -> str:
    try:
        return str(getattr(importlib.import_module(name), "__version__", "?"))
    except Exception as error:  # a broken package is reported, not raised
        return f"cannot be imported: {type(error).__name__}: {error}"


def _gpu() -> Iterator[tuple[str, str]]:
    try:
        import torch
        from torch.utils.cpp_extension import CUDA_HOME
    except Exception as error:
        yield "CUDA", f"torch: {error}"
        return
    yield "torch's CUDA", f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, CUDA_HOME {CUDA_HOME}"
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        size = f"{found.total_memory / 2**30:.1f} GiB"
        yield (
            "GPU",
            f"{found.name}, {size}, {found.multi_processor_count} multiprocessors, sm_{found.major}{found.minor}",
        )
    else:
        yield "GPU", "none"


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (ValueError, OSError):
        return "?"


def _output_of(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return "not found"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[-1] if lines else "no output"


if __name__ == "__main__":
    sys.exit(main())
