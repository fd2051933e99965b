"""The table before a run: what is there, what is missing, and whether it fits, without loading anything."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (the annotations in diffusers are narrower than what it takes and returns)

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from avatar_gs.errors import UserError
from avatar_gs.guidance.config import GuidanceConfig, Method
from avatar_gs.identity.embedding import IdentityEmbedding, write_identity
from avatar_gs.prior import memory, single_file
from avatar_gs.prior.config import PriorConfig
from avatar_gs.prior.folder import locate
from avatar_gs.prior.memory import Architecture, Load, architecture_of, expected_peak
from avatar_gs.settings import Device, Settings
from avatar_gs.stages import optimize, preflight, preview
from avatar_gs.training.config import OptimizeConfig
from tests import full, tiny

GB = 10**9
FULL = Load(batch=4, supersample=2, splats=200_000, network_bytes=2, through_networks=True)


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return tiny.save_prior(tmp_path_factory.mktemp("prior") / "tiny")


@pytest.fixture
def settings(prior, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Settings(
        prompt="a man in red",
        device=Device.cpu,
        prior=PriorConfig(name="custom", path=str(prior)),
        optimize=OptimizeConfig(batch=4, supersample=2),
    )


def lines(settings, **more):
    return {line.part: line for line in preflight.check(settings, **more)}


class Attention(torch.autograd.Function):
    """Keeps what an attention without matrices keeps; on the meta device only."""

    @staticmethod
    def forward(ctx, q, k, v):
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out


def kept_bytes(function):
    """The bytes that autograd keeps for the backward pass of what ``function`` computes."""
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = function()
    assert kept is not None
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("kind", full.KINDS)
def test_the_graphs_are_as_large_as_the_estimate_says(kind, monkeypatch):
    """Counted without computing, at 256² and 512²: the difference is free of the weights, which are kept as well."""
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, *more, **options: Attention.apply(q, k, v))
    with torch.device("meta"):
        parts = full.networks(
            {name: full.layout(kind, name) for name in ("text_encoder", "vae", "unet", "controlnet", "scheduler")}
        )
        vae, unet, controlnet = (parts[name].requires_grad_(False).eval() for name in ("vae", "unet", "controlnet"))
        unet.half()
        controlnet.half()

        def encode(size):
            return vae.encode(torch.empty(1, 3, size, size, requires_grad=True)).latent_dist.mean

        def predict(size):
            half = {"dtype": torch.float16}
            z, text = (
                torch.empty(1, 4, size // 8, size // 8, **half),
                torch.empty(1, 77, unet.config.cross_attention_dim, **half),
            )
            t, text = torch.empty(1, dtype=torch.long), text.requires_grad_()
            down, middle = controlnet(z, t, text, torch.empty(1, 3, size, size, **half), return_dict=False)
            extra = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            return unet(z, t, encoder_hidden_states=text, return_dict=False, **extra)

        for function, expected in ((encode, memory.VAE_GRAPH), (predict, memory.NETWORKS_GRAPH)):
            small, large = (kept_bytes(lambda size=size, f=function: f(size)) for size in (256, 512))
            assert (large - small) / 0.75 == pytest.approx(expected, rel=0.08)


def test_the_estimate_of_the_presets():
    """Whole numbers that a person can check: weights by hand, the parts in proportion."""
    architecture = Architecture(memory.PUBLISHED["sd15"])
    peak = expected_peak(architecture, FULL)
    assert peak["weights"] == 2 * (859_520_964 + 361_279_120) + 4 * (83_653_863 + 123_060_480)
    assert peak["VAE"] == 4 * memory.VAE_GRAPH and peak["networks"] == 4 * memory.NETWORKS_GRAPH
    double = expected_peak(architecture, replace(FULL, network_bytes=4))
    assert double["networks"] == 2 * peak["networks"] and double["VAE"] == peak["VAE"]
    assert sum(expected_peak(architecture, replace(FULL, batch=1)).values()) < sum(peak.values()) - 3 * memory.VAE_GRAPH
    assert sum(expected_peak(architecture, replace(FULL, through_networks=False)).values()) < sum(peak.values())
    sampling = expected_peak(architecture, replace(FULL, supersample=0))
    assert sum(sampling.values()) < sum(peak.values()) and "renders" not in sampling


def test_parameters_are_counted_from_the_headers(prior, tmp_path, monkeypatch):
    parts = tiny.parts(tmp_path / "again")
    expected = {name: sum(p.numel() for p in parts[name].parameters()) for name in memory.PUBLISHED["sd15"]}
    architecture, absent = architecture_of(locate(str(prior), "", ""), "custom")
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
        locate(str(tmp_path / "x.safetensors"), str(tmp_path / "pose.safetensors"), ""), "custom"
    )
    assert architecture is not None and absent == []
    assert architecture.parameters == {name: sum(p.numel() for p in parts[name].parameters()) for name in expected}
    assert architecture.image_size == 512


def test_the_table(settings, prior, tmp_path):
    found = lines(settings)
    assert list(found) == ["body", "device", "renderer", "prior", "ControlNet", "embedding", "memory"]
    assert not any(line.wrong for line in found.values())
    assert str(prior) in found["prior"].found and "folder" in found["prior"].found
    assert found["ControlNet"].found.startswith(f"{prior}/controlnet")
    assert "nobody" in found["embedding"].found and "weights" in found["memory"].found
    write_identity(tmp_path / "anna.safetensors", IdentityEmbedding(torch.zeros(2, 16), {}))
    assert "2 rows of width 16" in lines(replace(settings, identity="anna.safetensors"))["embedding"].found
    assert "renderer" not in lines(settings, sampling=True)


def test_what_is_missing_is_refused_before_anything_loads(settings, monkeypatch):
    def never(*arguments):
        raise AssertionError("loaded before the table")

    for stage in (optimize, preview):
        monkeypatch.setattr(stage, "load_prior", never)
        monkeypatch.setattr(stage, "load_body", never)
        with pytest.raises(UserError, match=r"prior\.path=/nowhere"):
            stage.run(replace(settings, prior=PriorConfig(name="custom", path="/nowhere")))
        with pytest.raises(UserError, match=r"nobody\.safetensors"):
            stage.run(replace(settings, identity="nobody.safetensors"))
        monkeypatch.setattr(preflight, "free_memory", lambda device: GB // 2)
        with pytest.raises(UserError, match="no batch, resolution or precision makes it fit"):
            stage.run(settings)
        monkeypatch.setattr(preflight, "free_memory", lambda device: None)


@pytest.mark.parametrize(
    ("free", "named"), [(16 * GB, "optimize.batch=2"), (11 * GB, "optimize.batch=1"), (24 * GB, "")]
)
def test_what_would_fit_is_named_and_fits(settings, monkeypatch, free, named):
    """An architecture of the true size, on a device that has so much."""
    true = Architecture(memory.PUBLISHED["sd15"])
    monkeypatch.setattr(preflight, "architecture_of", lambda *arguments: (true, []))
    monkeypatch.setattr(preflight, "free_memory", lambda device: free)
    settings = replace(settings, prior=replace(settings.prior, precision=preflight.Precision.bfloat16))
    wrong = lines(settings)["memory"].wrong
    assert (f"{named} would fit" in wrong) if named else wrong == ""
    if named:
        batch = int(named.partition("=")[2])
        assert lines(replace(settings, optimize=replace(settings.optimize, batch=batch)))["memory"].wrong == ""
        assert lines(replace(settings, optimize=replace(settings.optimize, batch=batch + 1)))["memory"].wrong
    cheap = replace(settings, guidance=GuidanceConfig(method=Method.sds))
    assert preflight._load(cheap, "cpu", False).through_networks is False


def test_a_preset_that_is_not_here_yet(settings, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("avatar_gs.prior.folder._hub_answers", lambda: True)
    names = {"path": "someone/base", "controlnet": "someone/pose", "vae": "someone/vae"}
    monkeypatch.setattr(preflight, "free_memory", lambda device: None)
    found = lines(replace(settings, prior=PriorConfig(name="sd15", **names)))
    assert "stage=fetch" in found["prior"].found and "about" in found["memory"].found
    assert "unknown until" in lines(replace(settings, prior=PriorConfig(name="custom", **names)))["memory"].found
    monkeypatch.setattr("avatar_gs.prior.folder._hub_answers", lambda: False)
    assert "cannot be reached" in lines(replace(settings, prior=PriorConfig(name="sd15", **names)))["prior"].wrong
