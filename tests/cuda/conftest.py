"""A body and small priors on the test device."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from avatar_gs.body.config import BodyConfig
from avatar_gs.body.model import Body, load_body
from avatar_gs.prior.compute import Compute
from avatar_gs.prior.config import PriorConfig
from avatar_gs.prior.parts import Parts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior, load_prior
from tests import full, tiny
from tests.cuda.devices import DEVICE

MakePrior = Callable[[str], StableDiffusionPrior]


@pytest.fixture(scope="session")
def body() -> Body:
    return load_body(BodyConfig(), DEVICE)


@pytest.fixture(scope="session")
def prior_of(tmp_path_factory: pytest.TempPathFactory) -> MakePrior:
    """By name: ``mini`` (packaged), ``tiny`` (two blocks), ``sd15`` and ``sd21`` (full architectures with few channels,
    for 128² images)."""

    def make(name: str) -> StableDiffusionPrior:
        folder = tmp_path_factory.mktemp(name)
        if name == "mini":
            return load_prior(PriorConfig(), DEVICE)
        if name == "tiny":
            return load_prior(PriorConfig(name="custom", path=str(tiny.save_prior(folder))), DEVICE)
        return StableDiffusionPrior(
            Parts(**full.few(folder, name, unet={"sample_size": 16})), Compute(torch.device(DEVICE))
        )

    return make


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny prior in diffusers' format, for the command line."""
    return tiny.save_prior(tmp_path_factory.mktemp("prior") / "tiny")
