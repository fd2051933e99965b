"""Estimates of memory and arithmetic of known architectures, and architectures of files."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (the annotations in diffusers are narrower than what it takes and returns)

from dataclasses import replace

from safetensors.torch import save_file

from avatar_gs.prior import memory_estimate
from avatar_gs.prior.config import PriorConfig
from avatar_gs.prior.loading import single_file
from avatar_gs.prior.loading.sources import locate
from avatar_gs.prior.memory_estimate import (
    Architecture,
    Load,
    architecture_of,
    expected_flops,
    expected_peak,
)
from tests import full, tiny

FULL = Load(batch=4, supersample=2, splats=200_000, network_bytes=2, through_encoder=True, through_networks=True)


def test_the_estimate_of_the_presets():
    """Whole numbers that a person can check: weights by hand, the parts in proportion."""
    architecture = Architecture(memory_estimate.PUBLISHED["sd15"])
    peak = expected_peak(architecture, FULL)
    assert peak["weights"] == 2 * (859_520_964 + 361_279_120) + 4 * (83_653_863 + 123_060_480)
    assert peak["VAE"] == 4 * memory_estimate.ENCODER_GRAPH["least"]
    assert peak["networks"] == 4 * (memory_estimate.SD.graph + memory_estimate.SD.within)
    double = expected_peak(architecture, replace(FULL, network_bytes=4))
    assert double["networks"] == 2 * peak["networks"] and double["VAE"] == peak["VAE"]

    def total(**changes):
        return sum(expected_peak(architecture, replace(FULL, **changes)).values())

    assert total(batch=1) < total() - 3 * memory_estimate.ENCODER_GRAPH["least"]
    assert total() - total(vae_bytes=2) == 2 * memory_estimate.ENCODER_GRAPH["least"]
    assert total(encoder_keeps="tiny") < total() < total(encoder_keeps="convolutions") < total(encoder_keeps="all")
    assert total() - total(offload_text=True) == 4 * 123_060_480
    assert total(predict_chunk=1) < total(predict_chunk=2) < total(predict_chunk=4) == total(predict_chunk=8) == total()
    twice = expected_peak(architecture, replace(FULL, checkpoint_encoder=True, predict_chunk=1))
    assert twice["networks"] == 4 * memory_estimate.ENCODER_AGAIN["least"], (
        "all images at once are computed again at once"
    )
    checkpoints = expected_peak(architecture, replace(FULL, checkpoint_encoder=True))["VAE"]
    assert checkpoints == 4 * memory_estimate.ENCODER_CHECKPOINTS["least"]
    sampling = expected_peak(architecture, Load(batch=4, network_bytes=2, predicted=2, decoded=4))
    assert sum(sampling.values()) < total() and not {"renders", "VAE"} & set(sampling)
    assert sampling["networks"] == 4 * memory_estimate.DECODER_FORWARD


def test_the_arithmetic_of_a_step():
    flops = expected_flops(Architecture(memory_estimate.PUBLISHED["sd15"]), FULL, 2, 1)
    assert flops == {"VAE": 4 * 2 * memory_estimate.ENCODER_FLOPS, "networks": 4 * 4 * memory_estimate.SD.flops}
    more = expected_flops(
        Architecture(memory_estimate.PUBLISHED["sd15"]), replace(FULL, checkpoint_encoder=True, predict_chunk=2), 2, 1
    )
    assert more == {"VAE": 4 * 3 * memory_estimate.ENCODER_FLOPS, "networks": 4 * 5 * memory_estimate.SD.flops}


def test_parameters_are_counted_from_the_headers(tmp_path, monkeypatch):
    prior = tiny.save_prior(tmp_path / "tiny")
    parts = tiny.parts(tmp_path / "again")
    expected = {name: sum(p.numel() for p in parts[name].parameters()) for name in memory_estimate.PUBLISHED["sd15"]}
    architecture, absent = architecture_of(locate(PriorConfig(path=str(prior))), "custom")
    assert architecture is not None and absent == []
    assert architecture.parameters == expected
    assert (architecture.channels, architecture.vae_channels, architecture.image_size) == (8, 8, tiny.IMAGE_SIZE)

    parts = full.few(tmp_path, "sd15")
    save_file(
        {k: v for k, v in full.checkpoint(parts, "sd15").items() if "position_ids" not in k and "logvar" not in k},
        tmp_path / "x.safetensors",
    )
    save_file(parts["controlnet"].state_dict(), tmp_path / "pose.safetensors")
    monkeypatch.setattr(single_file, "LAYOUTS", full.save_layouts(tmp_path / "layouts", 300))
    monkeypatch.setattr(single_file, "WIDTHS", full.FEW_WIDTHS)
    architecture, absent = architecture_of(
        locate(PriorConfig(path=str(tmp_path / "x.safetensors"), controlnet=str(tmp_path / "pose.safetensors"))),
        "custom",
    )
    assert architecture is not None and absent == []
    assert architecture.parameters == {name: sum(p.numel() for p in parts[name].parameters()) for name in expected}
    assert architecture.image_size == 512
