"""What the command offers: the product's settings and stages, and the laboratory's where it is installed."""

import importlib
import importlib.util

from avatar_gs.settings import Settings
from avatar_gs.stages import STAGES as PRODUCT_STAGES
from avatar_gs.stages import Stage

LAB_SECTIONS = ("world", "mini", "people", "scorer", "suite", "evaluate", "playground", "benchmark")
"""Sections of ``lab`` that the command line may name without it. Older runs saved them at the top level."""

FORMER_KEYS = {"lab.playground.picture": "lab.playground.image"}

# The only place that imports the laboratory, by name: the product works without it.
HAS_LAB = importlib.util.find_spec("avatar_gs.lab") is not None
SCHEMA: type[Settings] = importlib.import_module("avatar_gs.lab.settings").LabSettings if HAS_LAB else Settings
LAB_STAGES: dict[str, Stage] = importlib.import_module("avatar_gs.lab.stages").STAGES if HAS_LAB else {}
STAGES = PRODUCT_STAGES | LAB_STAGES


def full_key(key: str) -> str:
    """The full name of a setting, also by its former name: ``suite`` is ``lab.suite``."""
    key = f"lab.{key}" if key.partition(".")[0] in LAB_SECTIONS else key
    return FORMER_KEYS.get(key, key)


def short_key(key: str) -> str:
    """The name of a setting without ``lab.``, for messages and for the folders of sweeps."""
    return key.removeprefix("lab.")
