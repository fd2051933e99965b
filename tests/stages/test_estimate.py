"""Estimates of memory and arithmetic, compared with what torch allocates and computes, and the settings that fit."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (the annotations in diffusers are narrower than what it takes and returns)

import mmap
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from avatar_gs.cli import compose as config
from avatar_gs.guidance.methods.de_sds import DeSdsConfig
from avatar_gs.prior import memory_estimate
from avatar_gs.prior.compute import Compute
from avatar_gs.prior.config import Encoder, EncoderKeeps, Precision, PriorConfig
from avatar_gs.prior.loading import single_file
from avatar_gs.prior.loading.sources import locate
from avatar_gs.prior.low_memory_layers import use_low_memory_convolutions, use_low_memory_norms
from avatar_gs.prior.memory_estimate import (
    Architecture,
    Load,
    architecture_of,
    expected_flops,
    expected_peak,
    expected_phases,
    packaged_architecture,
)
from avatar_gs.prior.parts import Parts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.settings import Settings
from avatar_gs.stages import estimate
from avatar_gs.stages.estimate import SingleImage, Task
from avatar_gs.training.config import OptimizeConfig
from tests import full, tiny
from tests.live_memory import LiveMemory, measured, without_matrices
from tests.plain import plain_guidance

IMAGE = SingleImage((DeSdsConfig(),), through_encoder=False)
GB = 10**9
FULL = Load(batch=4, supersample=2, splats=200_000, network_bytes=2, through_encoder=True, through_networks=True)


def networks_on_meta(family):
    """The true networks as a prior has them, without weights."""
    with torch.device("meta"):
        parts = full.networks(
            {name: full.layout(family, name) for name in (*memory_estimate.PUBLISHED[family], "scheduler")}
        )
    networks = [parts[name].requires_grad_(False).eval() for name in ("vae", "unet", "controlnet")]
    for network in networks:
        use_low_memory_convolutions(network)
    use_low_memory_norms(networks[0].encoder)
    return networks


def encode(vae, size, batch=1):
    picture = torch.empty(batch, 3, size, size, device="meta", requires_grad=True)
    return torch.cat([vae.encode(one).latent_dist.mean for one in picture.split(1)])


def predict(unet, controlnet, size, dtype):
    with torch.device("meta"):
        z, t = torch.empty(1, 4, size // 8, size // 8, dtype=dtype), torch.empty(1, dtype=torch.long)
        text = torch.empty(1, 77, unet.config.cross_attention_dim, dtype=dtype).requires_grad_()
        down, middle = controlnet(z, t, text, torch.empty(1, 3, size, size, dtype=dtype), return_dict=False)
        extra = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return unet(z, t, encoder_hidden_states=text, return_dict=False, **extra)[0]


@pytest.mark.parametrize("family", full.FAMILIES)
def test_bytes_are_as_many_as_the_estimate_says(family, monkeypatch):
    """Every tensor of the true networks at 512², counted op by op on the meta device."""
    without_matrices(monkeypatch)
    vae, unet, controlnet = networks_on_meta(family)
    for again, kept, within in (
        (False, memory_estimate.ENCODER_GRAPH["least"], memory_estimate.ENCODER_WITHIN["least"]),
        (True, memory_estimate.ENCODER_CHECKPOINTS["least"], memory_estimate.ENCODER_AGAIN["least"]),
    ):
        if again:
            vae.enable_gradient_checkpointing()
        with LiveMemory() as live:
            latents = encode(vae, 512, batch=2)
            assert live.now == pytest.approx(2 * kept, rel=0.05)
            latents.sum().backward()
            assert live.peak == pytest.approx(2 * kept + within, rel=0.05)
    unet.half()
    controlnet.half()
    assert measured(lambda: predict(unet, controlnet, 512, torch.half))[0] == pytest.approx(
        memory_estimate.NETWORKS_GRAPH, rel=0.05
    )
    with torch.no_grad():
        assert measured(lambda: predict(unet, controlnet, 512, torch.half))[1] == pytest.approx(
            memory_estimate.NETWORKS_FORWARD, rel=0.05
        )
        for expected, function in (
            (memory_estimate.ENCODER_FORWARD, lambda: encode(vae, 512)),
            (memory_estimate.DECODER_FORWARD, lambda: vae.decode(torch.empty(1, 4, 64, 64, device="meta")).sample),
        ):
            assert measured(function)[1] == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("keeps", ["all", "convolutions", "least", "tiny"])
@pytest.mark.parametrize("bits", [32, 16])
def test_bytes_of_every_encoder(keeps, bits, monkeypatch):
    """By what it keeps, and in 32 and 16 bits."""
    without_matrices(monkeypatch)
    dtype = torch.float32 if bits == 32 else torch.half
    with torch.device("meta"):
        if keeps == "tiny":
            network: Any = AutoencoderTiny()
        else:
            network = AutoencoderKL.from_config(full.layout("sd15", "vae"))
    network.requires_grad_(False).eval().to(dtype)
    if keeps != "all" and keeps != "tiny":
        use_low_memory_convolutions(network)
    if keeps == "least":
        use_low_memory_norms(network.encoder)
    for again, graphs, withins in (
        (False, memory_estimate.ENCODER_GRAPH, memory_estimate.ENCODER_WITHIN),
        (True, memory_estimate.ENCODER_CHECKPOINTS, memory_estimate.ENCODER_AGAIN),
    ):
        if again and keeps == "tiny":
            continue
        if again:
            network.enable_gradient_checkpointing()
        picture = torch.empty(1, 3, 512, 512, device="meta", dtype=dtype, requires_grad=True)
        with LiveMemory() as live:
            encoded = network.encode(picture)
            latents = encoded.latents if keeps == "tiny" else encoded.latent_dist.mean
            del encoded
            expected = graphs[keeps] * bits / 32
            assert live.now == pytest.approx(expected, rel=0.05)
            live.peak = live.now
            latents.sum().backward()
            assert live.peak == pytest.approx(expected + withins[keeps] * bits / 32, rel=0.05)


@pytest.mark.parametrize("family", full.FAMILIES)
def test_bytes_of_a_prompts_graph(family, monkeypatch):
    without_matrices(monkeypatch)
    with torch.device("meta"):
        encoder = full.networks(
            {name: full.layout(family, name) for name in (*memory_estimate.PUBLISHED[family], "scheduler")}
        )["text_encoder"]
        encoder.requires_grad_(False).eval()
        encoder.get_input_embeddings().register_forward_hook(lambda *args: args[-1].detach().requires_grad_())
        kept = measured(lambda: encoder(torch.empty(8, 77, dtype=torch.long))[0])[0]
    expected = (
        memory_estimate.TEXT_GRAPH
        + memory_estimate.TEXT_GRAPH_PARAMETER * memory_estimate.PUBLISHED[family]["text_encoder"]
    )
    assert kept == pytest.approx(8 * expected, rel=0.05)


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


@pytest.mark.parametrize(
    ("experiment", "most", "documented"),
    [("sd15", 16, "11.4"), ("sd21", 16, "12.2"), ("sd_8gb", 8, "6.0"), ("sd_8gb prior=sd15", 8, None)],
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


@pytest.mark.parametrize("family", full.FAMILIES)
def test_arithmetic_is_as_much_as_the_estimate_says(family):
    vae, unet, controlnet = networks_on_meta(family)
    for expected, function in (
        (memory_estimate.ENCODER_FLOPS, lambda: encode(vae, 512)),
        (memory_estimate.NETWORKS_FLOPS, lambda: predict(unet, controlnet, 512, torch.float32)),
    ):
        counts = []
        for backward in (False, True):
            with FlopCounterMode(display=False) as counter:
                result = function()
                if backward:
                    result.sum().backward()
            counts.append(counter.get_total_flops())
        assert counts == pytest.approx([expected, 2 * expected], rel=0.05)


@pytest.mark.parametrize(("again", "size", "batch"), [(False, 128, 1), (True, 64, 3)])
def test_the_estimate_is_what_the_allocator_gives_out(again, size, batch):
    """The true VAE, really computed on small images; torch's profiler says what its allocator had given out at most.
    The estimate for 512² is scaled down, and leaves the weights, which were there before, out."""
    vae: Any = AutoencoderKL.from_config(full.layout("sd15", "vae")).requires_grad_(False).eval()
    vae.to(memory_format=torch.channels_last)  # as a prior has it; other weights are copied for each convolution
    use_low_memory_convolutions(vae)
    use_low_memory_norms(vae.encoder)
    if again:
        vae.enable_gradient_checkpointing()
    picture = torch.empty(batch, 3, size, size).to(memory_format=torch.channels_last).requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        torch.cat([vae.encode(one).latent_dist.mean for one in picture.split(1)]).sum().backward()
    given = [event.nbytes() for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    architecture = Architecture(memory_estimate.PUBLISHED["sd15"], image_size=size)
    load = replace(FULL, batch=batch, encode_chunk=1, checkpoint_encoder=again, through_networks=False, predicted=0)
    backward = expected_phases(architecture, load)["backward"]
    assert backward["VAE"] + backward["networks"] == pytest.approx(max(accumulate(given)), rel=0.1)


def test_the_estimate_of_the_presets():
    """Whole numbers that a person can check: weights by hand, the parts in proportion."""
    architecture = Architecture(memory_estimate.PUBLISHED["sd15"])
    peak = expected_peak(architecture, FULL)
    assert peak["weights"] == 2 * (859_520_964 + 361_279_120) + 4 * (83_653_863 + 123_060_480)
    assert peak["VAE"] == 4 * memory_estimate.ENCODER_GRAPH["least"]
    assert peak["networks"] == 4 * (memory_estimate.NETWORKS_GRAPH + memory_estimate.NETWORKS_WITHIN)
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
        "all pictures at once are computed anew at once"
    )
    checkpoints = expected_peak(architecture, replace(FULL, checkpoint_encoder=True))["VAE"]
    assert checkpoints == 4 * memory_estimate.ENCODER_CHECKPOINTS["least"]
    sampling = expected_peak(architecture, Load(batch=4, network_bytes=2, predicted=2, decoded=4))
    assert sum(sampling.values()) < total() and not {"renders", "VAE"} & set(sampling)
    assert sampling["networks"] == 4 * memory_estimate.DECODER_FORWARD


def test_the_arithmetic_of_a_step():
    flops = expected_flops(Architecture(memory_estimate.PUBLISHED["sd15"]), FULL, 2, 1)
    assert flops == {"VAE": 4 * 2 * memory_estimate.ENCODER_FLOPS, "networks": 4 * 4 * memory_estimate.NETWORKS_FLOPS}
    more = expected_flops(
        Architecture(memory_estimate.PUBLISHED["sd15"]), replace(FULL, checkpoint_encoder=True, predict_chunk=2), 2, 1
    )
    assert more == {"VAE": 4 * 3 * memory_estimate.ENCODER_FLOPS, "networks": 4 * 5 * memory_estimate.NETWORKS_FLOPS}


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


def test_parameters_are_counted_from_the_headers(prior, tmp_path, monkeypatch):
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
