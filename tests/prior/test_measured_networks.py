"""Bytes and arithmetic of the true networks, measured, and the constants that estimates are made of."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (the annotations in diffusers are narrower than what it takes and returns)

from itertools import accumulate
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from avatar_gs.prior import memory_estimate
from avatar_gs.prior.low_memory_layers import use_low_memory_convolutions, use_low_memory_norms
from avatar_gs.prior.memory_estimate import Architecture, Load, expected_phases
from tests import full
from tests.live_memory import LiveMemory, measured, without_matrices


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
    image = torch.empty(batch, 3, size, size, device="meta", requires_grad=True)
    return torch.cat([vae.encode(one).latent_dist.mean for one in image.split(1)])


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
        memory_estimate.SD.graph, rel=0.05
    )
    with torch.no_grad():
        assert measured(lambda: predict(unet, controlnet, 512, torch.half))[1] == pytest.approx(
            memory_estimate.SD.forward, rel=0.05
        )
        for expected, function in (
            (memory_estimate.ENCODER_FORWARD, lambda: encode(vae, 512)),
            (memory_estimate.DECODER_FORWARD, lambda: vae.decode(torch.empty(1, 4, 64, 64, device="meta")).sample),
        ):
            assert measured(function)[1] == pytest.approx(expected, rel=0.05)


def test_bytes_and_arithmetic_of_sdxl(monkeypatch):
    """Of the true networks for one image of 1024², which is four times 512²."""
    without_matrices(monkeypatch)
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(full.layout("sdxl", "unet"))
        controlnet = ControlNetModel.from_unet(unet)
        # the first encoder is Stable Diffusion 1.5's
        config = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
        second = CLIPTextModelWithProjection(CLIPTextConfig(**config, projection_dim=1280))
    counts = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in (("unet", unet), ("controlnet", controlnet), ("text", second))
    }
    published = memory_estimate.PUBLISHED["sdxl"]
    assert (counts["unet"], counts["controlnet"]) == (published["unet"], published["controlnet"])
    assert counts["text"] + memory_estimate.PUBLISHED["sd15"]["text_encoder"] == published["text_encoder"]
    for network in (unet, controlnet):
        network.requires_grad_(False).eval().half()
        use_low_memory_convolutions(network)

    def call():
        with torch.device("meta"):
            z, t = torch.empty(1, 4, 128, 128, dtype=torch.half), torch.empty(1, dtype=torch.long)
            text = torch.empty(1, 77, 2048, dtype=torch.half).requires_grad_()
            added = {"text_embeds": torch.empty(1, 1280).half(), "time_ids": torch.empty(1, 6).half()}
            shared = {"added_cond_kwargs": added, "return_dict": False}
            pose_map = torch.empty(1, 3, 1024, 1024, dtype=torch.half)
            down, middle = controlnet(z, t, text, pose_map, **shared)
            extra = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            return unet(z, t, encoder_hidden_states=text, **extra, **shared)[0]

    cost = memory_estimate.SDXL
    kept, peak = measured(call)[:2]
    assert kept == pytest.approx(4 * cost.graph, rel=0.05) and peak - kept == pytest.approx(4 * cost.within, rel=0.1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert measured(call)[1] == pytest.approx(4 * cost.forward, rel=0.05)
        assert counter.get_total_flops() == pytest.approx(4 * cost.flops, rel=0.05)


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
        image = torch.empty(1, 3, 512, 512, device="meta", dtype=dtype, requires_grad=True)
        with LiveMemory() as live:
            encoded = network.encode(image)
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


@pytest.mark.parametrize("family", full.FAMILIES)
def test_arithmetic_is_as_much_as_the_estimate_says(family):
    vae, unet, controlnet = networks_on_meta(family)
    for expected, function in (
        (memory_estimate.ENCODER_FLOPS, lambda: encode(vae, 512)),
        (memory_estimate.SD.flops, lambda: predict(unet, controlnet, 512, torch.float32)),
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
    image = torch.empty(batch, 3, size, size).to(memory_format=torch.channels_last).requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        torch.cat([vae.encode(one).latent_dist.mean for one in image.split(1)]).sum().backward()
    given = [event.nbytes() for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    architecture = Architecture(memory_estimate.PUBLISHED["sd15"], image_size=size)
    load = Load(batch, 2, through_encoder=True, encode_chunk=1, checkpoint_encoder=again, predicted=0)
    backward = expected_phases(architecture, load)["backward"]
    assert backward["VAE"] + backward["networks"] == pytest.approx(max(accumulate(given)), rel=0.1)
