"""Imports the guidance of threestudio, or of a fork, from a checkout, without the rest of it."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from omegaconf import OmegaConf

from avatar_gs.prior.loading.components import quiet

GUIDANCE, PROMPTS = "threestudio.models.guidance", "threestudio.models.prompt_processors"
PACKAGES = ("threestudio", "threestudio.models", GUIDANCE, PROMPTS)
ABSENT = ("tinycudann", "igl", "typeguard", "pytorch_lightning.utilities.rank_zero")
"""Imported by all of them and not called by guidance."""


def find_guidance(checkout: Path, program: str, module: str) -> None:
    """Raise SystemExit unless the folder is a checkout of the program with the guidance module ``module``."""
    file = checkout / "threestudio" / "models" / "guidance" / f"{module}.py"
    if not checkout.is_dir():
        raise SystemExit(f"{checkout}: no such folder; expected a checkout of {program}")
    if not file.is_file():
        raise SystemExit(f"{checkout}: no checkout of {program}: expected its guidance in {file}")


def import_guidance(
    checkout: Path, program: str, module: str, device: torch.device, absent: tuple[str, ...] = ()
) -> tuple[ModuleType, ModuleType]:
    """The guidance module ``module`` of a checkout, and that of its prompts, without the package's ``__init__``, which
    imports all renderers. Modules of ``ABSENT`` and ``absent`` that are not installed are replaced by empty ones.

    Raises:
        SystemExit: as ``find_guidance``; or a part of the checkout, or a requirement of its guidance, is missing.
    """
    find_guidance(checkout, program, module)
    with _room_for_theirs(), quiet():
        _stand_in((*ABSENT, *absent))
        for name in PACKAGES:
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__path__ = [str(checkout / name.replace(".", "/"))]
        top: Any = sys.modules["threestudio"]
        top.register = lambda name: lambda cls: cls
        top.info = top.warn = top.debug = lambda *_: None
        try:
            base: Any = importlib.import_module("threestudio.utils.base")
            base.get_device = lambda: device  # theirs knows CUDA only
            return importlib.import_module(f"{GUIDANCE}.{module}"), importlib.import_module(f"{PROMPTS}.base")
        except ModuleNotFoundError as error:
            theirs = str(error.name).startswith("threestudio")
            why = "not in this checkout: fetch it whole" if theirs else "not installed: pip install it"
            raise SystemExit(f"{checkout}: {program}'s guidance needs {error.name}, which is {why}") from error
        except ImportError as error:
            raise SystemExit(f"{checkout}: {program}'s guidance does not fit what is installed: {error}") from error


@contextmanager
def _room_for_theirs() -> Iterator[None]:
    """Afterwards removes the imported modules of names that the next checkout has too, and the empty ones. Each
    checkout registers the same resolvers: the last one's stay."""
    register = partial(OmegaConf.register_new_resolver, replace=True)
    try:
        with patch.object(OmegaConf, "register_new_resolver", register):
            yield
    finally:
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == "threestudio" or isinstance(module, Absent):
                del sys.modules[name]


def _stand_in(names: tuple[str, ...]) -> None:
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            part = ".".join(parts[:end])
            if importlib.util.find_spec(part) is None:
                sys.modules[part] = Absent(part)


class Absent(ModuleType):
    """Replaces a module that is imported and not called: its attributes are decorators without effect."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda decorated=None, *_: decorated
