"""``stage=benchmark benchmark.step=true``, and what a step of DE-SDS asks of its prior."""

import json
import re
from dataclasses import replace

import pytest

from avatar_gs.errors import UserError
from avatar_gs.guidance.config import GuidanceConfig, Method
from avatar_gs.prior.config import PriorConfig
from avatar_gs.prior.random_weights import random_prior
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.render.config import BenchmarkConfig
from avatar_gs.settings import Device
from avatar_gs.stages import benchmark
from avatar_gs.stages.forecast import PREDICTIONS
from avatar_gs.training.benchmark import FLOOR, time_steps
from tests import full, tiny
from tests.training.conftest import small_settings

BATCH = 2


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return PriorConfig(name="custom", path=str(tiny.save_prior(tmp_path_factory.mktemp("prior"))))


@pytest.fixture
def settings(config):
    settings = small_settings(steps=30, batch=BATCH, supersample=2)
    settings.guidance = GuidanceConfig(method=Method.de_sds)
    return replace(settings, prior=config, device=Device.cpu, benchmark=BenchmarkConfig(step=True, repeats=4))


def test_the_stage_prints_the_step_beside_its_floor(settings, capsys):
    (row,) = benchmark.run(settings)
    out = capsys.readouterr().out
    assert json.loads(json.dumps(row))["step"] == row["step"]
    assert {"scene", "render", "encode", "prior", "backward", "update", "densify"} == set(row["parts"])
    assert set(FLOOR) < set(row["alone"]) and all(seconds > 0 for seconds in row["alone"].values())
    assert row["floor"] == pytest.approx(sum(row["alone"][part] for part in FLOOR))
    assert row["ratio"] == pytest.approx(row["step"] / row["floor"])
    assert re.search(rf"{row['ratio']:.3f} floors a step", out) and "2 views of 16² drawn at 32²" in out
    assert "4, 2 with a backward pass" in out and "MiB predicted" in out
    assert row["peak_memory_mib"]["host"] > 0 and sum(row["predicted_mib"].values()) > 0


@pytest.mark.parametrize("method", PREDICTIONS)
def test_a_step_makes_one_batched_call_and_one_that_y_con_learns_from(settings, body, monkeypatch, method):
    """Text and negative in one call without gradients; y_con's loss takes the residual's own prediction. Texts are
    encoded before the first step, all at once, and the pictures once a step."""
    asked = {"encode_prompts": 0, "encode_images": 0}
    for name in asked:
        original = getattr(StableDiffusionPrior, name)

        def counted(*arguments, name=name, original=original):
            asked[name] += 1
            return original(*arguments)

        monkeypatch.setattr(StableDiffusionPrior, name, counted)
    settings.guidance = GuidanceConfig(method=method)
    repeats = 2
    found = time_steps(settings, body, random_prior(settings.prior), repeats)
    forward, backward = PREDICTIONS[method]
    expected = [(forward * BATCH, False), (backward * BATCH, True)]
    assert list(found.calls) == [call for call in expected if call[0]]
    assert asked["encode_prompts"] == 1
    assert asked["encode_images"] == 2 * repeats + 3, "a step's, and its floor's; two warm-up steps and a recorded one"


def test_between_two_updates_of_y_con_all_is_one_call(settings, body):
    settings.guidance.de_sds.update_every = 1000
    found = time_steps(settings, body, random_prior(settings.prior), 1)
    assert found.calls == ((3 * BATCH, False),)


def test_the_floor_is_the_networks_at_once(config):
    """Whatever saves memory in a step is no part of the floor, and comes back after it."""
    prior = random_prior(replace(config, encode_chunk=1, checkpoint_encoder=True, predict_chunk=1))
    with prior.at_once():
        assert (prior.encode_chunk, prior.predict_chunk, prior.vae.encoder.gradient_checkpointing) == (0, 0, False)
    assert (prior.encode_chunk, prior.predict_chunk, prior.vae.encoder.gradient_checkpointing) == (1, 1, True)


def test_editing_has_nothing_to_edit(settings, body):
    settings.guidance = GuidanceConfig(method=Method.pds)
    with pytest.raises(UserError, match="guidance=pds edits an avatar"):
        time_steps(settings, body, random_prior(settings.prior), 1)


@pytest.mark.parametrize("kind", full.KINDS)
def test_presets_need_no_download(kind, tmp_path, monkeypatch):
    """The packaged layouts with few channels; prompts are read without the preset's tokenizer."""
    from avatar_gs.prior import single_file

    monkeypatch.setattr(single_file, "LAYOUTS", full.save_layouts(tmp_path, 300))
    prior = random_prior(PriorConfig(name=kind, path="someone/base", controlnet="someone/pose"))
    rows = prior.encode_prompts(["a man", "a woman in red, and a very long sentence after her " * 4])
    assert rows.shape == (2, 77, prior.text_width) and (rows[0] - rows[1]).abs().max() > 1e-3
    assert prior.image_size == 512
