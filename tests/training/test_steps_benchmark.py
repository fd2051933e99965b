"""``stage=benchmark benchmark.step=true``, and the calls of the prior in a step of DE-SDS."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from avatar_gs.core.console import rounded_duration
from avatar_gs.core.errors import UserError
from avatar_gs.guidance.config import METHODS
from avatar_gs.lab.benchmarks import random_weights
from avatar_gs.lab.benchmarks.config import BenchmarkConfig
from avatar_gs.lab.benchmarks.random_weights import random_prior
from avatar_gs.lab.benchmarks.steps import FLOOR, NETWORKS, RASTERISER, _mean, time_steps
from avatar_gs.lab.stages import benchmark
from avatar_gs.prior.config import EncoderKeeps, PriorConfig, VaePrecision
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.stages import estimate
from tests import full, tiny
from tests.lab.settings import lab_settings
from tests.plain import plain_guidance
from tests.training.conftest import small_settings

BATCH = 2


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return PriorConfig(name="custom", path=str(tiny.save_prior(tmp_path_factory.mktemp("prior"))))


@pytest.fixture
def settings(config):
    settings = small_settings(steps=30, batch=BATCH, supersample=2)
    settings.guidance = plain_guidance(method="de_sds")
    return lab_settings(settings, prior=config, device="cpu", benchmark=BenchmarkConfig(step=True, repeats=4))


def test_the_stage_prints_the_step_and_its_floor(settings, capsys):
    (row,) = benchmark.run(settings)
    out = capsys.readouterr().out
    assert json.loads(json.dumps(row))["step"] == row["step"]
    assert {"scene", "render", "encode", "prior", "backward", "update", "densify"} == set(row["parts"])
    assert set(FLOOR) < set(row["alone"]) and all(seconds > 0 for seconds in row["alone"].values())
    assert row["floor"] == pytest.approx(sum(row["alone"][part] for part in FLOOR))
    assert row["ratio"] == pytest.approx(row["step"] / row["floor"])
    assert re.search(rf"{row['ratio']:.3f} floors a step", out) and "2 views of 16² drawn at 32²" in out
    assert (
        "4, 2 with a backward pass" in out
        and f"30 steps of {1e3 * row['step']:.1f} ms: {rounded_duration(30 * row['step'])}" in out
    )
    drawn, asked = (sum(row["alone"].get(part, 0.0) for part in parts) for parts in (RASTERISER, NETWORKS))
    assert f"forward and backward: {drawn / asked:.3f} of UNet and ControlNet's time" in out
    assert f"expected peak of memory: weights {row['predicted_mib']['weights']:,.0f} MiB" in out
    assert row["peak_memory_mib"]["host"] > 0
    assert {"scenes", "step", "densify", "preview"} < set(row["phases_mib"])
    assert re.search(r"^  step +[\d,]+ +[\d,]+$", out, re.MULTILINE), "expected and measured"


def memory_of_a_benchmark(*overrides):
    """``(expected, measured)`` MiB by what takes them or where, of a program of its own, which knows no other peak."""
    command = [sys.executable, "-m", "avatar_gs", "stage=benchmark", "benchmark.step=true", "benchmark.repeats=2"]
    done = subprocess.run([*command, *overrides], capture_output=True, text=True, check=True, timeout=1500)
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    return [
        {
            name: float(size.replace(",", ""))
            for name, size in re.findall(r"([a-zA-Z][a-zA-Z ]*) ([\d,]+) MiB", lines[title])
        }
        for title in ("expected peak of memory", "measured")
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_host_memory_is_as_expected():
    """The default job's."""
    expected, measured = memory_of_a_benchmark("device=cpu", "threads=1")
    assert sum(expected.values()) == pytest.approx(measured["host"], rel=0.1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory of a GPU, and torch finds none here")
@pytest.mark.parametrize("experiment", ["sd15", "sd21", "sd_8gb"])
def test_gpu_memory_is_as_expected(experiment):
    """Of tensors, that is without what CUDA and cuDNN keep."""
    expected, measured = memory_of_a_benchmark("device=cuda", f"experiment={experiment}")
    assert sum(expected.values()) - expected["overhead"] == pytest.approx(measured["gpu"], rel=0.1)


def test_a_floor_that_does_not_fit_is_left_out(settings, monkeypatch, capsys):
    """A run that saves memory may fit where its floor, all images at once, does not."""
    settings = replace(settings, prior=replace(settings.prior, encode_chunk=1))
    monkeypatch.setattr(estimate, "fits", lambda architecture, load, free: load.encode_chunk == 1)
    (row,) = benchmark.run(settings)
    out = capsys.readouterr().out
    assert row["alone"] == {} and row["floor"] == 0 and row["step"] > 0 and row["ratio"] is None
    assert "does not fit" in out and "floors a step" not in out and "30 steps of" in out and "measured: host" in out


def test_too_little_memory_is_reported_first(settings, monkeypatch):
    monkeypatch.setattr(estimate, "free_memory", lambda device: 10**9 // 2)
    monkeypatch.setattr(random_weights, "random_prior", None)
    with pytest.raises(UserError, match="this needs about"):
        benchmark.run(settings)
    preset = replace(settings, prior=PriorConfig(name="sd21", path="someone/base", controlnet="someone/pose"))
    with pytest.raises(UserError, match=r"would fit|no chunks, batch, resolution or precision make it fit"):
        benchmark.run(preset)


def test_the_architecture_of_an_unknown_hub_name_is_not_guessed(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("avatar_gs.prior.loading.sources._hub_answers", lambda: True)
    config = PriorConfig(name="custom", path="someone/base", controlnet="someone/pose")
    for made in (random_prior, random_weights.architecture_of):
        with pytest.raises(UserError, match=r"prior\.path=someone/base: .*unet.* not here yet.*stage=fetch"):
            made(config)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.predictions])
def test_a_step_has_one_batched_call_and_one_for_y_con(settings, body, monkeypatch, method):
    """Text and negative in one call without gradients; y_con's loss takes the residual's own prediction. Texts are
    encoded before the first step, all at once, and the images once a step."""
    asked = {"encode_prompts": 0, "encode_images": 0}
    for name in asked:
        original = getattr(StableDiffusionPrior, name)

        def counted(*arguments, name=name, original=original):
            asked[name] += 1
            return original(*arguments)

        monkeypatch.setattr(StableDiffusionPrior, name, counted)
    settings.guidance = plain_guidance(method=method)
    repeats = 2
    found = time_steps(settings, body, random_prior(settings.prior), repeats)
    forward, backward = METHODS[method].predictions or (0, 0)
    expected = [(forward * BATCH, False), (backward * BATCH, True)]
    assert list(found.calls) == [call for call in expected if call[0]]
    assert asked["encode_prompts"] == 1
    assert asked["encode_images"] == 2 * repeats + 3, "a step's, and its floor's; two warm-up steps and a recorded one"


def test_steps_without_an_update_of_y_con_have_one_call(settings, body):
    settings.guidance.de_sds.update_every = 1000
    found = time_steps(settings, body, random_prior(settings.prior), 1)
    assert found.calls == ((3 * BATCH, False),)


def test_the_benchmark_prints_its_configuration(settings, capsys):
    """And times the encoder that the step uses."""
    prior = replace(settings.prior, encoder_keeps=EncoderKeeps.all, vae_precision=VaePrecision.bfloat16)
    benchmark.run(lab_settings(settings, prior=prior, benchmark=BenchmarkConfig(step=True, repeats=1)))
    out = capsys.readouterr().out
    assert "networks in float32, encoder in bfloat16 (it keeps all), compile=never; " in out


def test_steps_with_an_update_of_y_con_are_weighted_by_frequency(settings, body):
    """Every second step: both types are recorded, and the floor is their mean."""
    settings.guidance.de_sds.update_every = 2
    found = time_steps(settings, body, random_prior(settings.prior), 1)
    assert found.calls == ((2 * BATCH, False), (BATCH, True))
    assert found.resting_calls == ((3 * BATCH, False),)
    assert found.floor == pytest.approx(sum(found.alone[name] for name in FLOOR))


def test_the_mean_of_learning_and_other_steps():
    assert _mean({True: 9.0, False: 1.0}, 4) == 3.0
    assert _mean({False: 1.0}, 4) == 1.0


def test_the_floor_runs_the_networks_in_whole_batches(config):
    """Memory savings of a step are disabled for the floor and restored after it."""
    prior = random_prior(replace(config, encode_chunk=1, checkpoint_encoder=True, predict_chunk=1))
    with prior.at_once():
        assert (prior.codec.encode_chunk, prior.denoiser.predict_chunk, prior.vae.encoder.gradient_checkpointing) == (
            0,
            0,
            False,
        )
    assert (prior.codec.encode_chunk, prior.denoiser.predict_chunk, prior.vae.encoder.gradient_checkpointing) == (
        1,
        1,
        True,
    )


def test_editing_methods_are_refused(settings, body):
    settings.guidance = plain_guidance(method="pds")
    with pytest.raises(UserError, match="guidance=pds edits an existing avatar"):
        time_steps(settings, body, random_prior(settings.prior), 1)


@pytest.mark.parametrize("family", full.FAMILIES)
def test_presets_need_no_download(family, tmp_path, monkeypatch):
    """The packaged layouts with few channels; prompts are read without the preset's tokenizer."""
    from avatar_gs.prior.loading import single_file

    monkeypatch.setattr(single_file, "LAYOUTS", full.save_layouts(tmp_path, 300))
    prior = random_prior(PriorConfig(name=family, path="someone/base", controlnet="someone/pose"))
    rows = prior.encode_prompts(["a man", "a woman in red, and a very long sentence after her " * 4])
    assert rows.shape == (2, 77, prior.text_width) and (rows[0] - rows[1]).abs().max() > 1e-3
    assert prior.image_size == 512
