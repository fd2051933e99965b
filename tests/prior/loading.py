"""Loading a prior from files, and errors of one line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from avatar_gs.core.errors import UserError
from avatar_gs.prior.config import PriorConfig
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior, load_prior


def load(path: str | Path, controlnet: str | Path = "", **more) -> StableDiffusionPrior:
    return load_prior(PriorConfig(name="custom", path=str(path), controlnet=str(controlnet), **more))


def error_of(call: Callable[[], object], *words: str) -> str:
    """The message of the UserError that ``call`` raises: one line that contains ``words``."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


def refuses(path: str | Path, *words: str, **more) -> None:
    error_of(lambda: load(path, **more), *words)
