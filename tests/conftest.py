"""What several tests begin with."""

import hypothesis
import pytest

from avatar_gs.cli import compose as config
from avatar_gs.types import Gaussians
from tests import figure as figures

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine must not fail a test
hypothesis.settings.load_profile("untimed")


@pytest.fixture
def resolve(monkeypatch, tmp_path):
    """The settings of a command line, below a temporary ``outputs/``."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides):
        return config.resolve(config.composed(overrides), overrides)

    return run


@pytest.fixture(scope="session")
def figure() -> Gaussians:
    """See ``tests.figure``."""
    return figures.figure()
