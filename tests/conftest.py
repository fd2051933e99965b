"""What several tests begin with."""

import pytest
from hydra import compose, initialize_config_dir

from avatar_gs.cli import compose as config
from avatar_gs.types import Gaussians
from tests import figure as figures


@pytest.fixture
def resolve(monkeypatch, tmp_path):
    """The settings of a command line, below a temporary ``outputs/``."""
    monkeypatch.chdir(tmp_path)
    config.register()

    def run(*overrides):
        with initialize_config_dir(str(config.CONF), version_base="1.3"):
            composed = compose(config.CONFIG_NAME, overrides=list(overrides))
        return config.resolve(composed, overrides)

    return run


@pytest.fixture(scope="session")
def figure() -> Gaussians:
    """See ``tests.figure``."""
    return figures.figure()
