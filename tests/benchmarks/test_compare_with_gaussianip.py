"""The comparison with GaussianIP, as far as it goes without a checkout of it; ``GAUSSIANIP=<checkout>`` gives one."""

import os
import sys
from pathlib import Path

import pytest
import torch

from avatar_gs.prior.compute import Compute
from avatar_gs.prior.parts import Parts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from tests import full
from tests.benchmarks import compare_with_gaussianip, comparison
from tests.benchmarks.compare_with_gaussianip import copied, read_settings
from tests.benchmarks.comparison import Calls
from tests.benchmarks.test_comparison import SameTypes

CHECKOUT = os.environ.get("GAUSSIANIP", "")
NETWORKS = ("text_encoder", "vae", "unet", "controlnet")


@pytest.fixture
def prior(tmp_path: Path) -> StableDiffusionPrior:
    """For images of 512², as GaussianIP's are, with a few channels."""
    return StableDiffusionPrior(Parts(**full.few(tmp_path, "sd15")))


def test_a_wrong_checkout_is_reported_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["compare_with_gaussianip", str(tmp_path)])
    with pytest.raises(SystemExit, match="no checkout of GaussianIP: expected its guidance"):
        compare_with_gaussianip.main()


def test_their_settings_are_read_and_missing_ones_reported(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"expected its settings in .*exp\.yaml"):
        read_settings(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "exp.yaml").write_text("system:\n  guidance:\n    guidance_scale: 7.5\n")
    assert read_settings(tmp_path) == {"guidance_scale": 7.5}


@torch.no_grad()
def test_their_unet_is_an_unchanged_copy_of_ours(prior: StableDiffusionPrior) -> None:
    theirs = copied(prior.unet, prior)
    z, t, cond = torch.randn(1, 4, 8, 8), torch.tensor([300]), torch.randn(1, 5, prior.text_width)
    torch.testing.assert_close(theirs(z, t, cond).sample, prior.unet(z, t, cond).sample)
    assert not any(type(part).__module__.startswith("avatar_gs") for part in theirs.modules())
    assert not any(parameter.requires_grad for parameter in theirs.parameters())


@pytest.mark.skipif(not CHECKOUT, reason="GAUSSIANIP names no checkout of GaussianIP")
def test_both_sides_run(prior: StableDiffusionPrior, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "WARM_UP", 0)
    compared = compare_with_gaussianip.sides(Path(CHECKOUT), prior, 1)
    rows = comparison.measure(compared, 1, prior.device, repeats=1)
    asked = {row.name: row.calls for row in rows}
    assert len(rows) == 6 and all(row.seconds > 0 for row in rows)
    assert asked["GaussianIP"]["UNet"] == asked["GaussianIP"]["ControlNet"] == Calls(3)
    assert asked["GaussianIP without IP-Adapter"] == asked["GaussianIP"]
    assert asked["GaussianIP with sds, without IP-Adapter"] == asked["ours, sds"]
    with_face, without = (
        len(compared[name].networks["UNet"].state_dict()) for name in ("GaussianIP", "GaussianIP without IP-Adapter")
    )
    assert with_face > without == len(prior.unet.state_dict())


@pytest.mark.skipif(not CHECKOUT, reason="GAUSSIANIP names no checkout of GaussianIP")
def test_their_step_has_its_backward_pass_in_16_bits(prior: StableDiffusionPrior) -> None:
    short = StableDiffusionPrior(
        Parts(**{name: getattr(prior, name) for name in (*NETWORKS, "tokenizer", "scheduler")}),
        Compute(dtype=torch.float16),
    )
    side = compare_with_gaussianip.sides(Path(CHECKOUT), short, 1)["GaussianIP"]
    images = torch.rand(1, comparison.SIZE, comparison.SIZE, 3, requires_grad=True)
    with SameTypes():
        side.step(images)
    assert images.grad is not None and images.grad.any()
