"""Bytes that a step of the true priors holds, and the estimate of them."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (the annotations in diffusers are narrower than what it takes and returns)

from dataclasses import replace

import pytest
import torch

from avatar_gs.prior import memory_estimate
from avatar_gs.prior.compute import Compute
from avatar_gs.prior.config import EncoderKeeps
from avatar_gs.prior.memory_estimate import (
    Architecture,
    Load,
    expected_phases,
)
from avatar_gs.prior.parts import Parts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from tests import full, tiny
from tests.live_memory import LiveMemory, measured, without_matrices


def prior_on_meta(family, folder, encoder_keeps="least", **changes):
    """The true prior as a run has it in 16 bits (its encoder in 32), without weights."""
    with torch.device("meta"):
        parts = full.networks(
            {name: full.layout(family, name) for name in (*memory_estimate.PUBLISHED[family], "scheduler")}
        )
    parts["tokenizer"] = tiny.save_tokenizer(folder / "tokenizer")
    keeps = EncoderKeeps[encoder_keeps]
    return StableDiffusionPrior(
        Parts(**parts), Compute(torch.device("meta"), dtype=torch.half, encoder_keeps=keeps, **changes)
    )


def held_in_a_step(prior, batch, predicted, *, learns, graph=True):
    """The peak of a step's calls of the prior, beyond weights and renders: encode, predict, learn, go backward."""
    size = prior.image_size
    with torch.device("meta"):
        z_t, t = torch.empty(batch, 4, size // 8, size // 8), torch.empty(batch, dtype=torch.long)
        cond, control = torch.empty(batch, 77, prior.text_width), torch.empty(batch, size, size, 3)
    with LiveMemory() as live:
        with torch.set_grad_enabled(graph):
            latents = prior.encode_images(control.clone().requires_grad_(graph))
        with torch.no_grad():
            if predicted:
                z_many, t_many, cond_many, control_many = (torch.cat([x] * predicted) for x in (z_t, t, cond, control))
                prior.eps(z_many, t_many, cond_many, control_many)
        if learns:
            prior.eps(z_t, t, cond.clone().requires_grad_(), control).sum().backward()
        if graph:
            latents.sum().backward()
    return live.peak


@pytest.mark.parametrize("family", full.FAMILIES)
@pytest.mark.parametrize(
    ("batch", "saving"),
    [
        (4, {}),
        (4, {"encode_chunk": 1, "checkpoint_encoder": True, "predict_chunk": 2}),
        (2, {"checkpoint_encoder": True}),
        (3, {"predict_chunk": 1}),
        (2, {"encoder_keeps": "convolutions"}),
        (2, {"encoder_keeps": "all"}),
    ],
)
@pytest.mark.parametrize("phase", ["warm-up", "step", "sds"])
def test_a_step_holds_what_is_estimated(family, batch, saving, phase, tmp_path, monkeypatch):
    """Of the true priors at 512², through the program's own calls, saving memory or not: within 10 %."""
    without_matrices(monkeypatch)
    load = Load(batch, 2, through_encoder=True, through_networks=phase != "sds", predicted=2, overhead=0.0, **saving)
    load = replace(load, warms_up=phase == "warm-up")
    phases = expected_phases(Architecture(memory_estimate.PUBLISHED[family]), load)
    names = ["warm-up"] if phase == "warm-up" else [name for name in phases if name != "warm-up"]
    expected = max(sum(phases[name].values()) - phases[name]["weights"] for name in names)
    prior = prior_on_meta(family, tmp_path, **saving)
    held = held_in_a_step(prior, batch, 0 if phase == "warm-up" else 2, learns=phase != "sds", graph=phase != "warm-up")
    assert held == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("chunk", [0, 1])
def test_a_preview_holds_what_is_estimated(chunk, tmp_path, monkeypatch):
    without_matrices(monkeypatch)
    load = Load(1, 2, decoded=4, encode_chunk=chunk, predicted=0, overhead=0.0)
    decoding = expected_phases(Architecture(memory_estimate.PUBLISHED["sd15"]), load)["decoding"]
    prior = prior_on_meta("sd15", tmp_path, encode_chunk=chunk)
    with torch.no_grad():
        held = measured(lambda: prior.decode_latents(torch.empty(4, 4, 64, 64, device="meta")))[1]
    assert held == pytest.approx(decoding["networks"], rel=0.1)


@pytest.mark.parametrize("chunk", [0, 1])
def test_an_adapter_that_learns_holds_what_is_estimated(chunk, tmp_path, monkeypatch):
    without_matrices(monkeypatch)
    load = Load(2, 2, predicted=0, through_adapter=True, predict_chunk=chunk, overhead=0.0)
    learning = expected_phases(Architecture(memory_estimate.PUBLISHED["sd15"]), load)["adapter"]
    prior = prior_on_meta("sd15", tmp_path, predict_chunk=chunk)
    with torch.device("meta"):
        adapter = prior.adapter(rank=4)
        z_t, t, cond = torch.empty(2, 4, 64, 64), torch.empty(2, dtype=torch.long), torch.empty(2, 77, prior.text_width)
        control, camera = torch.empty(2, 512, 512, 3), torch.empty(2, 16)
    with LiveMemory() as live:
        adapter.eps(z_t, t, cond, control, camera).sum().backward()
    assert live.peak == pytest.approx(learning["networks"], rel=0.1)
