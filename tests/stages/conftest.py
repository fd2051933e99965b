"""A tiny prior, and settings of a run with it."""

import pytest

from avatar_gs.prior.config import PriorConfig
from avatar_gs.settings import Settings
from avatar_gs.training.config import OptimizeConfig
from tests import tiny


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return tiny.save_prior(tmp_path_factory.mktemp("prior") / "tiny")


@pytest.fixture
def settings(prior, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Settings(
        prompt="a man in red",
        device="cpu",
        prior=PriorConfig(name="custom", path=str(prior)),
        optimize=OptimizeConfig(steps=3, batch=4, supersample=2),
    )
