"""The table before a run: what is there, what is missing, and whether it fits, without loading anything."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (the annotations in diffusers are narrower than what it takes and returns)

import re
from dataclasses import replace

import pytest
import torch

from avatar_gs.core import gsplat_kernels
from avatar_gs.core.errors import UserError
from avatar_gs.guidance.methods.de_sds import DeSdsConfig
from avatar_gs.identity.embedding import IdentityEmbedding, write_identity
from avatar_gs.lab.stages import playground
from avatar_gs.prior import memory_estimate
from avatar_gs.prior.config import PriorConfig
from avatar_gs.prior.loading.hub import format_bytes
from avatar_gs.prior.memory_estimate import (
    Architecture,
    expected_peak,
)
from avatar_gs.settings import Settings
from avatar_gs.stages import embed, estimate, optimize, preflight, preview
from avatar_gs.stages.estimate import SingleImage, Task
from tests import full
from tests.lab.settings import lab_settings
from tests.plain import plain_guidance

IMAGE = SingleImage((DeSdsConfig(),), through_encoder=False)
GB = 10**9


def lines(settings, *tasks):
    return {line.part: line for line in preflight.table(settings, *tasks)[0]}


def test_the_table(settings, prior, tmp_path):
    found = lines(settings)
    assert list(found) == ["body", "device", "renderer", "prior", "ControlNet", "memory", "time"]
    assert not any(line.wrong for line in found.values())
    assert str(prior) in found["prior"].found and "folder" in found["prior"].found
    assert found["ControlNet"].found.startswith(f"{prior}/controlnet")
    assert "weights" in found["memory"].found
    write_identity(tmp_path / "anna.safetensors", IdentityEmbedding(torch.ones(2, 16), {}))
    assert "2 embeddings of width 16" in lines(replace(settings, identity="anna.safetensors"))["identity"].found
    assert "at least" in found["time"].found and "3 steps" in found["time"].found
    for task in (Task.preview, Task.embed, IMAGE):
        assert not {"renderer", "time"} & set(lines(settings, task))
    other = replace(settings, guidance=plain_guidance(method="ism"))
    assert "no estimate for guidance=ism" in lines(other)["time"].found


def test_gsplats_kernels(settings, monkeypatch):
    monkeypatch.setattr(preflight, "choose_device", lambda device: "cuda")
    monkeypatch.setattr(estimate, "free_memory", lambda device: None)
    monkeypatch.setattr(estimate, "convolution_rate", lambda *arguments, **options: 1e12)
    monkeypatch.setattr(
        gsplat_kernels, "find_kernels", lambda cores=0: gsplat_kernels.Kernels("not compiled yet: 88 s with nvcc")
    )
    assert lines(settings)["kernels"].found == "not compiled yet: 88 s with nvcc"
    monkeypatch.setattr(
        gsplat_kernels, "find_kernels", lambda cores=0: gsplat_kernels.Kernels("no nvcc", "found no nvcc")
    )
    assert lines(settings)["renderer"].wrong == "device=cuda: found no nvcc, or use device=cpu"
    with pytest.raises(UserError, match="found no nvcc"):
        preflight.preflight(replace(settings, prior=PriorConfig()))


def test_the_packaged_prior_says_which_device_it_takes(monkeypatch, caplog):
    caplog.set_level("INFO")
    preflight.preflight(Settings(device="cpu"))
    assert [" ".join(record.getMessage().split()) for record in caplog.records] == [
        "device cpu",
        "renderer our own, for CPUs",
    ]


def test_photos_are_found_before_anything_loads_unless_the_run_has_learned_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings(device="cpu", name="anna", photos="photos")
    with pytest.raises(UserError, match="photos=photos: no such file or folder"):
        preflight.preflight(settings)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    assert lines(settings)["identity"].found == "to be learned from photos, 1 file"
    (tmp_path / "photos" / "a.png").unlink()
    (tmp_path / "photos").rmdir()
    write_identity(settings.folder / "identity.safetensors", IdentityEmbedding(torch.ones(2, 16), {}))
    assert "identity" not in lines(settings)
    assert lines(settings, Task.embed)["identity"].wrong


def test_what_is_missing_is_refused_before_anything_loads(settings, monkeypatch):
    def never(*arguments):
        raise AssertionError("loaded before the table")

    settings = lab_settings(settings)
    for stage in (optimize, preview, playground, embed):
        monkeypatch.setattr(stage, "load_prior", never)
        monkeypatch.setattr(stage, "load_body", never, raising=False)
        with pytest.raises(UserError, match=r"prior\.path=/nowhere"):
            stage.run(replace(settings, prior=PriorConfig(name="custom", path="/nowhere")))
        with pytest.raises(UserError, match=r"nobody\.safetensors"):
            stage.run(replace(settings, identity="nobody.safetensors"))
        with pytest.raises(UserError, match="photos=nowhere: no such file or folder"):
            stage.run(replace(settings, photos="nowhere"))
        monkeypatch.setattr(estimate, "free_memory", lambda device: GB // 2)
        with pytest.raises(UserError, match="no chunks, batch, resolution or precision make it fit"):
            stage.run(settings)
        monkeypatch.setattr(estimate, "free_memory", lambda device: None)


def test_a_preset_that_is_not_here_yet(settings, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("avatar_gs.prior.loading.sources._hub_answers", lambda: True)
    names = {"path": "someone/base", "controlnet": "someone/pose", "vae": "someone/vae"}
    monkeypatch.setattr(estimate, "free_memory", lambda device: None)
    found = lines(replace(settings, prior=PriorConfig(name="sd15", **names)))
    assert "stage=fetch" in found["prior"].found and "about" in found["memory"].found
    assert "counted as packaged for sd15" in found["memory"].found
    unknown = lines(replace(settings, prior=PriorConfig(name="custom", **names)))["memory"]
    assert "unknown until" in unknown.found and not unknown.wrong
    assert re.search(r"with sd15 it would be about [\d.]+ GB, with sd21 it would be about [\d.]+ GB", unknown.found)


@pytest.mark.parametrize("family", full.FAMILIES)
def test_without_a_network_a_preset_is_counted_as_packaged(family, settings, monkeypatch, tmp_path):
    """As much as once it is here: the table says both, what is missing and what the run would take."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("avatar_gs.prior.loading.sources._hub_answers", lambda: False)
    monkeypatch.setattr(estimate, "free_memory", lambda device: None)
    monkeypatch.setattr(estimate, "resident_memory", lambda: GB)
    settings = replace(settings, prior=PriorConfig(name=family, path="someone/base", controlnet="someone/pose"))
    found = lines(settings)
    assert list(found) == ["body", "device", "renderer", "prior", "memory", "time"]
    assert "cannot be reached" in found["prior"].wrong
    peak = expected_peak(
        Architecture(memory_estimate.PUBLISHED[family]), estimate.memory_load(settings, "cpu", Task.optimize)
    )
    assert f"about {format_bytes(sum(peak.values()))}" in found["memory"].found
    assert f"text_encoder, vae, unet, controlnet not here: counted as packaged for {family}" in found["memory"].found
    assert "3 steps" in found["time"].found
    monkeypatch.setattr(estimate, "free_memory", lambda device: 4 * GB)
    refused = lines(settings)
    assert "this needs about" in refused["memory"].wrong and "time" not in refused
    with pytest.raises(UserError, match="cannot be reached"):
        preflight.preflight(settings)
