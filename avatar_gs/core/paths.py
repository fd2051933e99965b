"""Paths of the files shipped with the program: next to the package in a checkout, inside it in a wheel."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def _shipped(name: str) -> Path:
    """A top-level folder of the repository, which a wheel contains inside the package."""
    return PACKAGE / name if (PACKAGE / name).is_dir() else PACKAGE.parent / name


CONF = _shipped("conf")
BODY_MODELS = _shipped("body_models")
MINI_PRIOR = PACKAGE / "assets" / "mini"
LAYOUTS = PACKAGE / "assets" / "layouts"
