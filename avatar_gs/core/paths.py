"""Paths: of files shipped with the program (in a wheel inside the package, else next to it), and of its cache."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def _shipped(name: str) -> Path:
    """A top-level folder of the repository, which a wheel contains inside the package."""
    return PACKAGE / name if (PACKAGE / name).is_dir() else PACKAGE.parent / name


CONF = _shipped("conf")
BODY_MODELS = _shipped("body_models")
MINI_PRIOR = PACKAGE / "assets" / "mini"
PEOPLE_PRIOR = PACKAGE / "assets" / "people"
LAYOUTS = PACKAGE / "assets" / "layouts"


def user_cache() -> Path:
    """The program's folder in the user's cache, ``$XDG_CACHE_HOME/avatar_gs`` or ``~/.cache/avatar_gs``.

    Raises:
        RuntimeError: if there is no home folder.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "avatar_gs"
