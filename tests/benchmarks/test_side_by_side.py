"""What is counted, timed and printed of steps beside each other, and our own steps."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from tests import full
from tests.benchmarks import side_by_side
from tests.benchmarks.side_by_side import Asked, Row, Side, measure, ours, table


@pytest.fixture(autouse=True)
def no_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "WARM_UP", 0)


def test_a_step_of_ours_ends_with_the_gradient_on_the_pictures_and_is_asked_what_it_says(tmp_path: Path) -> None:
    prior = StableDiffusionPrior(**full.few(tmp_path, "sd15", unet={"sample_size": 16}))
    compared = {"sds": ours(prior, 1, "sds", control=False), "de_sds": ours(prior, 1, "rescaled_de_sds")}
    sds, de_sds = measure(compared, 1, prior.device, repeats=1)
    assert sds.seconds > 0 and de_sds.seconds > 0
    vae = {"encoder": Asked(1, backward=1), "decoder": Asked()}
    assert sds.asked == {"UNet": Asked(2), "ControlNet": Asked(), **vae}
    assert de_sds.asked == {"UNet": Asked(3, backward=1), "ControlNet": Asked(3, backward=1), **vae}


def test_the_first_step_is_counted_and_the_others_are_not() -> None:
    network, seen = nn.Identity(), []

    def step(pictures: Tensor) -> None:
        seen.append(len(network._forward_pre_hooks))
        with torch.no_grad():
            network(torch.cat([pictures, pictures]))
        network(pictures).sum().backward()

    (row,) = measure({"one": Side(step, {"UNet": network})}, 2, torch.device("cpu"), repeats=3)
    assert row.asked == {"UNet": Asked(6, backward=2)}
    assert seen == [1, 0, 0, 0]


def test_a_step_without_a_gradient_is_not_compared() -> None:
    with pytest.raises(AssertionError, match="lazy: no gradient"):
        measure({"lazy": Side(lambda pictures: None, {})}, 1, torch.device("cpu"), repeats=1)


def test_the_table_divides_by_its_first_row() -> None:
    theirs = Row("theirs", 0.2, {"UNet": Asked(8), "decoder": Asked(4)})
    ours = Row("ours", 0.05, {"UNet": Asked(11, backward=4), "encoder": Asked(4, backward=4)})
    head, first, second = table([theirs, ours], "Theirs", batch=4)
    assert head.split()[-5:] == ["UNet", "ControlNet", "encoder", "decoder", "step"]
    assert first.split() == ["theirs", "2", "0", "0", "1", "200.0", "ms", "1.00", "of", "Theirs's"]
    assert second.split() == ["ours", "1.75", "+1", "0", "+1", "0", "50.0", "ms", "0.25", "of", "Theirs's"]
    assert len(first) == len(second)
