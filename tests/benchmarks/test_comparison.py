"""What is counted, timed and printed of compared steps, and our own steps."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from avatar_gs.prior.compute import Compute
from avatar_gs.prior.parts import Parts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from tests import full
from tests.benchmarks import comparison
from tests.benchmarks.comparison import Calls, Row, Side, as_trained, measure, ours, table


@pytest.fixture(autouse=True)
def no_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "WARM_UP", 0)


def test_a_step_of_ours_ends_with_the_gradient_on_the_images_and_its_calls_are_counted(tmp_path: Path) -> None:
    prior = StableDiffusionPrior(Parts(**full.few(tmp_path, "sd15", unet={"sample_size": 16})))
    compared = {"sds": ours(prior, 1, "sds", control=False), "de_sds": ours(prior, 1, "rescaled_de_sds")}
    sds, de_sds = measure(compared, 1, prior.device, repeats=1)
    assert sds.seconds > 0 and de_sds.seconds > 0
    vae = {"encoder": Calls(1, backward=1), "decoder": Calls()}
    assert sds.calls == {"UNet": Calls(2), "ControlNet": Calls(), **vae}
    assert de_sds.calls == {"UNet": Calls(3, backward=1), "ControlNet": Calls(3, backward=1), **vae}


def test_the_first_step_is_counted_and_the_others_are_not() -> None:
    network, seen = nn.Identity(), []

    def step(images: Tensor) -> None:
        seen.append(len(network._forward_pre_hooks))
        with torch.no_grad():
            network(torch.cat([images, images]))
        network(images).sum().backward()

    (row,) = measure({"one": Side(step, {"UNet": network})}, 2, torch.device("cpu"), repeats=3)
    assert row.calls == {"UNet": Calls(6, backward=2)}
    assert seen == [1, 0, 0, 0]


def test_a_step_without_a_gradient_is_not_compared() -> None:
    with pytest.raises(AssertionError, match="lazy: no gradient"):
        measure({"lazy": Side(lambda images: None, {})}, 1, torch.device("cpu"), repeats=1)


class SameTypes(TorchDispatchMode):
    """Refuses a backward pass of ``mse_loss`` with mixed types, as torch 2.11 does; newer ones promote."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.ops.aten.mse_loss_backward.default and args[1].dtype is not args[2].dtype:
            raise RuntimeError(f"Found dtype {args[2].dtype} but expected {args[1].dtype}")
        return func(*args, **(kwargs or {}))


def short_latents_and_float_target(images: Tensor) -> Tensor:
    """GaussianIP's loss in small: latents of the networks' type, a residual in float32."""
    latents = 2 * images.to(torch.float16)
    residual = torch.full_like(latents, 0.25, dtype=torch.float32)
    return 0.5 * nn.functional.mse_loss(latents, (latents - residual).detach(), reduction="sum")


def test_a_loss_of_mixed_types_has_its_backward_pass_under_autocast(tmp_path: Path) -> None:
    prior = StableDiffusionPrior(Parts(**full.few(tmp_path, "sd15")), Compute(dtype=torch.float16))
    images = torch.rand(1, 4, 4, 3, requires_grad=True)
    with SameTypes(), pytest.raises(RuntimeError, match=r"Found dtype torch\.float32 but expected torch\.float16"):
        short_latents_and_float_target(images).backward()
    with SameTypes():
        as_trained(short_latents_and_float_target, prior)(images)
    scale = torch.amp.GradScaler("cpu").scale(torch.ones(()))
    torch.testing.assert_close(images.grad, torch.full_like(images, 0.5) * scale)


def test_a_loss_in_float32_is_neither_cast_nor_scaled(tmp_path: Path) -> None:
    prior = StableDiffusionPrior(Parts(**full.few(tmp_path, "sd15")))
    images, seen = torch.rand(1, 4, 4, 3, requires_grad=True), []

    def loss(images: Tensor) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return images.square().sum()

    as_trained(loss, prior)(images)
    assert seen == [False] and images.grad is not None and torch.equal(images.grad, 2 * images.detach())


def test_a_row_as_plain_values(tmp_path: Path) -> None:
    theirs = Row("theirs", 0.2, {"UNet": Calls(8), "decoder": Calls(4)})
    ours = Row("ours", 0.05, {"UNet": Calls(11, backward=4), "encoder": Calls(4, backward=4)})
    plain = comparison.as_plain(ours, theirs, batch=4)
    networks = {"UNet": "1.75 +1", "ControlNet": "0", "encoder": "+1", "decoder": "0"}
    assert json.loads(json.dumps(plain)) == {"side": "ours", "step ms": 50.0, "ratio": 0.25, **networks}


def test_the_table_divides_by_its_first_row() -> None:
    theirs = Row("theirs", 0.2, {"UNet": Calls(8), "decoder": Calls(4)})
    ours = Row("ours", 0.05, {"UNet": Calls(11, backward=4), "encoder": Calls(4, backward=4)})
    head, first, second = table([theirs, ours], "Theirs", batch=4)
    assert head.split()[-5:] == ["UNet", "ControlNet", "encoder", "decoder", "step"]
    assert first.split() == ["theirs", "2", "0", "0", "1", "200.0", "ms", "1.00", "of", "Theirs's"]
    assert second.split() == ["ours", "1.75", "+1", "0", "+1", "0", "50.0", "ms", "0.25", "of", "Theirs's"]
    assert len(first) == len(second)
