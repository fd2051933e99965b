"""``stage=doctor``: what a report of a fault needs: versions, machine, parts, and whether a tiny avatar can be made."""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from avatar_gs import __version__
from avatar_gs.body.files import FREE_BODY, find_body
from avatar_gs.core import gsplat_kernels
from avatar_gs.core.device import available_memory, choose_device, physical_cores
from avatar_gs.core.errors import UserError, first_line
from avatar_gs.core.presets import preset_names, read_preset
from avatar_gs.prior.loading.hub import format_bytes
from avatar_gs.prior.loading.sources import PACKAGED, cached_file, config_file
from avatar_gs.settings import Settings

PACKAGES = (
    *("torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "safetensors", "huggingface_hub"),
    *("gsplat", "smplx", "controlnet-aux", "numpy", "numba", "scipy", "pillow", "hydra-core", "omegaconf"),
)
EXTRAS = ("anny", "rembg", "pi-heif", "submitit", "joblib", "ray")
"""Packages of ``pyproject.toml``'s extras."""


def run(settings: Settings) -> None:
    """Print the facts as a block that can be pasted into a report, the attempt to make a tiny avatar last.

    Raises:
        UserError: if the tiny avatar could not be made.
    """
    print("```")
    for name, fact in facts(settings).items():
        print(f"{name:<12} {_told(fact)}", flush=True)
    fault = ""
    began = time.monotonic()
    try:
        make_tiny(settings)
    except Exception as error:
        fault = f"{type(error).__name__}: {first_line(error)}"
        if not isinstance(error, UserError):
            traceback.print_exc(file=sys.stdout)
    seconds = time.monotonic() - began
    print(
        f"{'tiny avatar':<12} {fault or f'made in {seconds:.0f} s with prior={settings.prior.name}'}\n```", flush=True
    )
    if fault:
        raise UserError(f"the tiny avatar could not be made ({fault}): please report it with the block above")


def facts(settings: Settings) -> dict[str, Callable[[], str]]:
    """What is reported about the machine, by name; each may fail by itself."""
    return {
        "avatar-gs": lambda: f"{__version__}, Python {platform.python_version()}, {platform.platform()}",
        "packages": lambda: _versions(PACKAGES, absent="missing"),
        "extras": lambda: _versions(EXTRAS),
        "processor": lambda: f"{_processor()}, {physical_cores()} cores for this process of {os.cpu_count()}",
        "memory": lambda: f"{format_bytes(available_memory())} free",
        "disk": lambda: f"{format_bytes(shutil.disk_usage(Path.cwd()).free)} free in {Path.cwd()}",
        "device": lambda: f"device={settings.device} is {choose_device(settings.device)}; {_gpus()}",
        "nvcc": _nvcc,
        "kernels": lambda: gsplat_kernels.find_kernels(physical_cores()).status,
        "body": lambda: _body(settings),
        "priors": _priors,
    }


def make_tiny(settings: Settings) -> None:
    """Make an avatar of 1,000 splats in 8 steps with the settings' prior, with all files, in a temporary folder."""
    from avatar_gs.stages.make import make_avatar

    with tempfile.TemporaryDirectory(prefix="avatar-gs-doctor-") as folder:
        make_avatar(
            replace(
                Settings(prompt="a man in a red shirt and blue trousers", name="tiny", outputs=folder),
                device=settings.device,
                threads=settings.threads,
                prior=settings.prior,
                body=settings.body,
                guidance=settings.guidance,
                splats=replace(settings.splats, count=1000),
                optimize=replace(settings.optimize, steps=8, batch=1),
                export=replace(settings.export, video_size=64, video_seconds=0.5),
            )
        )


def _told(fact: Callable[[], str]) -> str:
    try:
        return fact()
    except Exception as error:  # a broken part is what the report is about
        return f"unknown ({type(error).__name__}: {first_line(error)})"


def _versions(names: tuple[str, ...], absent: str = "") -> str:
    found = []
    for name in names:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found += [f"{name} {absent}"] if absent else []
    return ", ".join(found) or "none"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _gpus() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"torch finds no CUDA device (built for CUDA {torch.version.cuda})"
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    names = ", ".join(f"{gpu.name} {format_bytes(gpu.total_memory)} sm_{gpu.major}{gpu.minor}" for gpu in found)
    return f"{names}; torch is built for CUDA {torch.version.cuda}"


def _nvcc() -> str:
    found = gsplat_kernels.find_nvcc()
    return "not found" if found is None else f"{found}, CUDA {gsplat_kernels.cuda_release(found)}"


def _body(settings: Settings) -> str:
    file = find_body(settings.body.path)
    return "the free body" if file == FREE_BODY else str(file)


def _priors() -> str:
    """The packaged priors, and whether the others are in the hub's cache."""
    words = [f"{name} is packaged" for name in PACKAGED]
    for name in preset_names("prior"):
        path = read_preset("prior", name).values.get("path")
        if path and name not in PACKAGED:
            cached = cached_file(path, "unet", config_file("unet"))
            words.append(f"{name} is in the cache" if cached else f"{name} is not fetched")
    return ", ".join(words)
