"""Estimates of a run from its settings, and the settings that would make it fit."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (the annotations in diffusers are narrower than what it takes and returns)

import mmap
from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf

from avatar_gs.cli import compose as config
from avatar_gs.guidance.methods.de_sds import DeSdsConfig
from avatar_gs.prior import memory_estimate
from avatar_gs.prior.config import Encoder, Precision, PriorConfig
from avatar_gs.prior.memory_estimate import (
    Architecture,
    expected_peak,
    expected_phases,
    packaged_architecture,
)
from avatar_gs.settings import Settings
from avatar_gs.stages import estimate
from avatar_gs.stages.estimate import SingleImage, Task
from avatar_gs.training.config import OptimizeConfig
from tests.plain import plain_guidance

IMAGE = SingleImage((DeSdsConfig(),), through_encoder=False)
GB = 10**9


@pytest.mark.parametrize(
    ("experiment", "most", "documented"),
    [
        ("sd15", 16, "11.4"),
        ("sd21", 16, "12.2"),
        ("sdxl", 80, "53.4"),
        ("sd_8gb", 8, "6.0"),
        ("sd_8gb prior=sd15", 8, None),
    ],
)
def test_recipes_fit_into_their_gpus(experiment, most, documented):
    """GiB that torch's allocator takes at ``most``, in 16 bits, with four views, and the peak that README gives."""
    settings = config.parse(config.composed([*f"experiment={experiment}".split(), "optimize.batch=4"]))
    architecture = packaged_architecture(settings.prior.name)
    load = estimate.memory_load(settings, "cuda", Task.optimize)
    assert load.network_bytes == 2 and load.warms_up and load.previewed
    assert memory_estimate.expected_reserved(expected_peak(architecture, load)) <= most * 2**30
    assert memory_estimate.largest_phase(architecture, load) == "learning"
    if documented is not None:
        assert f"{sum(expected_peak(architecture, load).values()) / 2**30:.1f}" == documented


def test_phases_follow_the_settings(settings):
    """Each is there where the run has it, and the one with the largest sum is the peak."""
    architecture = Architecture(memory_estimate.PUBLISHED["sd15"])

    def phases(**guidance):
        load = estimate.memory_load(replace(settings, guidance=plain_guidance(**guidance)), "cuda", Task.optimize)
        found = expected_phases(architecture, load)
        assert expected_peak(architecture, load) == max(found.values(), key=lambda parts: sum(parts.values()))
        return set(found)

    always = {"predictions", "backward", "densify", "preview"}
    assert phases(method="sds") == always
    assert phases(method="de_sds") == always | {"warm-up", "learning"}
    assert phases(method="de_sds", inner_steps=2) == always | {"warm-up", "learning", "refit"}
    assert phases(method="vsd") == always | {"adapter"}
    assert phases(method="hifa", rgb_weight=0.1) == always | {"decoding"}
    assert phases(method="dds") == always | {"encoding"}
    embedding = estimate.memory_load(settings, "cuda", Task.embed)
    assert set(expected_phases(architecture, embedding)) == {"predictions", "learning", "encoding", "preview"}


def test_memory_that_torch_holds_and_does_not_use_is_free(monkeypatch):
    """What an earlier stage has let go is in torch's allocator, and CUDA counts it as taken."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (3 * GB, 8 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 4 * GB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: GB)
    assert estimate.free_memory("cuda") == 6 * GB


def test_the_arithmetic_counts_how_often_y_con_learns():
    guidance = plain_guidance(method="de_sds")
    assert guidance.chosen.mean_predictions() == (2, 1)
    guidance.de_sds.update_every = 4
    assert guidance.chosen.mean_predictions() == (2.75, 0.25)
    assert plain_guidance("sds").chosen.mean_predictions() == (2, 0)


def test_the_encoder_is_counted_as_it_will_be_made():
    prior = PriorConfig(precision=Precision.float16)
    assert estimate.encoder_of(prior, "cuda") == {"vae_bytes": 2, "encoder_keeps": "convolutions"}
    assert estimate.encoder_of(prior, "cpu") == {"vae_bytes": 4, "encoder_keeps": "least"}
    tiny_encoder = replace(prior, encoder=Encoder.tiny)
    assert estimate.encoder_of(tiny_encoder, "cuda")["encoder_keeps"] == "tiny"
    half_of_the_run = replace(tiny_encoder, tiny_until=0.5)
    assert estimate.encoder_of(half_of_the_run, "cuda")["encoder_keeps"] == "convolutions"


@pytest.mark.parametrize(
    ("device", "task", "free", "named"),
    [
        ("cuda", Task.optimize, 15, {}),
        ("cuda", Task.optimize, 12, {"prior.offload_text", "prior.encode_chunk"}),
        ("cuda", Task.optimize, 8, {"prior.offload_text", "prior.encode_chunk", "prior.checkpoint_encoder"}),
        ("cuda", Task.optimize, 6, {"prior.encoder_keeps", "prior.checkpoint_encoder", "prior.predict_chunk"}),
        ("cuda", Task.optimize, 5.4, {"optimize.batch"}),
        ("cpu", Task.optimize, 10, {"prior.encode_chunk", "prior.checkpoint_encoder"}),
        ("cuda", Task.embed, 7, {"prior.encode_chunk", "prior.predict_chunk"}),
        ("cuda", IMAGE, 6, {"prior.offload_text"}),
    ],
)
def test_what_would_fit_is_named_and_fits(device, task, free, named, monkeypatch):
    """SD 2.1 on a device that has so many gigabytes: the advice holds what is expected of it, and following it fits."""
    monkeypatch.setattr(estimate, "resident_memory", lambda: GB)
    true = Architecture(memory_estimate.PUBLISHED["sd21"])
    settings = Settings(
        prior=PriorConfig(precision=Precision.bfloat16), optimize=OptimizeConfig(batch=4, supersample=2)
    )
    settings.density.max_splats = 200_000
    load = estimate.memory_load(settings, device, task)
    if not named:
        assert estimate.fits(true, load, round(free * GB))
        return
    said = estimate.advice(true, load, device, task, round(free * GB))
    assert "would fit" in said, said
    overrides = dict(word.split("=") for word in said.split(": ")[1].removesuffix(" would fit").split())
    assert named <= set(overrides), said
    assert not estimate.fits(true, load, round(free * GB))
    changed = OmegaConf.merge(
        OmegaConf.structured(settings), OmegaConf.from_dotlist([f"{k}={v}" for k, v in overrides.items()])
    )
    assert estimate.fits(true, estimate.memory_load(OmegaConf.to_object(changed), device, task), round(free * GB))


def test_only_some_methods_go_through_the_networks(settings):
    cheap = replace(settings, guidance=plain_guidance(method="sds"))
    assert estimate.memory_load(settings, "cpu", Task.optimize).through_networks
    assert not estimate.memory_load(cheap, "cpu", Task.optimize).through_networks


def test_what_the_program_holds_already_counts_on_a_cpu(settings, monkeypatch):
    """The libraries are in memory by now: they are in the estimate, and in what the run may have."""
    before = estimate.resident_memory()
    # Asked of the system: malloc may answer with memory that earlier tests freed and the program still holds.
    with mmap.mmap(-1, 256 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as kept:
        for page in range(0, len(kept), mmap.PAGESIZE):
            kept[page] = 1
        assert estimate.resident_memory() - before == pytest.approx(len(kept), rel=0.1)
    monkeypatch.setattr(estimate, "resident_memory", lambda: GB)
    on_cpu, on_gpu = (estimate.memory_load(settings, device, Task.optimize) for device in ("cpu", "cuda"))
    assert on_cpu.overhead == GB + estimate.ENGINE and on_gpu.overhead == memory_estimate.OVERHEAD
    free = estimate.free_memory("cpu")
    monkeypatch.setattr(estimate, "resident_memory", lambda: 3 * GB)
    more = estimate.free_memory("cpu")
    assert free is not None and more is not None and more - free == pytest.approx(2 * GB, abs=GB / 2)
