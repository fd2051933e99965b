"""The judges, if their environment exists."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from avatar_gs.lab.judges.process import DEFAULT_PYTHON, Judges

PYTHON = os.environ.get("AVATAR_GS_JUDGES") or str(Path(__file__).parents[3] / DEFAULT_PYTHON)


@pytest.fixture(scope="session")
def judges_python() -> str:
    """The interpreter of the judges: ``$AVATAR_GS_JUDGES``, or the checkout's ``.venv-judges``."""
    if not Path(PYTHON).is_file():
        pytest.skip(f"no judges at {PYTHON}: `make judges` sets them up; AVATAR_GS_JUDGES names another interpreter")
    return PYTHON


@pytest.fixture(scope="session")
def judges(judges_python: str) -> Iterator[Judges]:
    """The judges' process."""
    with Judges(judges_python) as running:
        yield running
