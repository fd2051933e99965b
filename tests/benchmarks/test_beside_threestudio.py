"""The comparison with threestudio, as far as it goes without a checkout of it; ``THREESTUDIO=<checkout>`` gives one."""

import os
import sys
from pathlib import Path

import pytest
import torch

from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from tests import full
from tests.benchmarks import beside_threestudio
from tests.benchmarks.beside_threestudio import import_guidance, ours, steps, time_steps

CHECKOUT = os.environ.get("THREESTUDIO", "")


@pytest.fixture
def prior(tmp_path: Path) -> StableDiffusionPrior:
    """For pictures of 512², as threestudio's are, with a few channels."""
    return StableDiffusionPrior(**full.few(tmp_path, "sd15"))


def test_a_step_of_ours_ends_with_the_gradient_on_the_pictures(
    prior: StableDiffusionPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside_threestudio, "WARM_UP", 0)
    calls = {}
    for name, control in (("sds", False), ("rescaled_de_sds", True)):
        before = prior.calls
        seconds = time_steps({"ours": ours(prior, 1, name, control=control)}, 1, prior.device, repeats=1)
        calls[name] = prior.calls - before
        assert seconds["ours"] > 0
    assert calls == {"sds": 2, "rescaled_de_sds": 3}


def test_what_is_no_checkout_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no checkout of threestudio"):
        import_guidance(tmp_path, torch.device("cpu"))
    assert "threestudio" not in sys.modules


@pytest.mark.skipif(not CHECKOUT, reason="THREESTUDIO names no checkout of threestudio")
def test_both_sides_run(prior: StableDiffusionPrior, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside_threestudio, "WARM_UP", 0)
    seconds = time_steps(steps(Path(CHECKOUT), prior, 1), 1, prior.device, repeats=1)
    assert len(seconds) == 4 and all(each > 0 for each in seconds.values())
