"""The true architectures of SD 1.5 and SD 2.1, with random weights, through the whole program on small images."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (the annotations in diffusers are narrower than what it takes and returns)

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from avatar_gs import cli
from avatar_gs.export.config import Frame
from avatar_gs.export.ply import read_ply
from avatar_gs.identity.embedding import read_identity
from avatar_gs.prior.parts import Parts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.stages import embed, optimize, preview
from tests import full

LATENT_SIZE = 8
PREDICTIONS = ("epsilon", "v_prediction")
SMALL = ["device=cpu", "threads=1", "seed=1", "embed.steps=1", "embed.batch=1", "embed.min_size=8", "optimize.steps=1"]
SMALL += ["optimize.batch=1", "optimize.preview_every=0", "splats.count=300", "export.video=false"]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty working folder with two photos; sampling takes two steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preview, "STEPS", 2)
    monkeypatch.setattr(preview, "SAMPLES", 1)
    monkeypatch.setattr(embed, "SAMPLE_STEPS", 1)
    (tmp_path / "anna").mkdir()
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "anna" / f"{seed}.png")
    return tmp_path


def runs_through(folder, width, *more):
    """Preview, then embed, optimise and export; returns the metrics."""
    command = ["prompt=<id> in red", "photos=anna", "name=anna", *SMALL, *more]
    assert cli.main(["stage=embed", *command]) == 0
    assert cli.main(["stage=preview", *command]) == 0
    assert cli.main(command) == 0
    run = folder / "outputs" / "anna"
    assert read_identity(run / "identity.safetensors").vectors.shape == (2, width)
    assert (run / "previews" / "prior.png").exists()
    splats = read_ply(run / "avatar.ply", Frame.supersplat)
    assert len(splats) > 0
    return json.loads((run / "metrics.json").read_text())["stages"]


@pytest.mark.parametrize(("family", "width"), [("sd15", 16), ("sd21", 32)])
def test_the_program_with_every_block_and_few_channels(family, width, workplace):
    for name, part in full.few(workplace, family, unet={"sample_size": LATENT_SIZE}).items():
        part.save_pretrained(workplace / "prior" / name)
    stages = runs_through(workplace, width, "prior=./prior")
    assert {"embed", "optimize", "export"} <= set(stages)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("family", "width"), [("sd15", 768), ("sd21", 1024)])
def test_the_program_at_the_true_size(family, width, workplace, monkeypatch):
    """In memory, 5 to 7 GB of float32: nothing of it is written."""
    prior = StableDiffusionPrior(Parts(**full.whole(workplace, family, LATENT_SIZE)))
    assert prior.image_size == 8 * LATENT_SIZE
    for stage in (embed, optimize, preview):
        monkeypatch.setattr(stage, "load_prior", lambda *arguments: prior)
    runs_through(workplace, width, f"experiment={family}", "prior=mini", "prior.prompts.style=sd")
    assert prior.calls > 0


def means_what_diffusers_means(parts, prediction):
    """From one and the same output, read as eps or as v, the clean image that diffusers' scheduler makes of it, at
    several noise levels; and another one where the other is read."""
    parts = {**parts, "scheduler": DDIMScheduler.from_config(parts["scheduler"].config, prediction_type=prediction)}
    prior = StableDiffusionPrior(Parts(**parts))
    random = torch.Generator().manual_seed(0)
    z_t = torch.randn(1, 4, LATENT_SIZE, LATENT_SIZE, generator=random)
    control = torch.rand(1, 8 * LATENT_SIZE, 8 * LATENT_SIZE, 3, generator=random)
    cond = prior.encode_prompts(["a man in red"])
    scheduler = DDIMScheduler.from_config(prior.scheduler.config)
    scheduler.set_timesteps(100)
    for t in (11, 301, 701, 981):
        times = torch.tensor([t])
        eps = prior.eps(z_t, times, cond, control)
        clean = (z_t - prior.sigma(times) * eps) / prior.alpha(times)
        theirs = scheduler.step(prior.denoiser.predict(z_t, times, cond, control), t, z_t).pred_original_sample
        torch.testing.assert_close(clean, theirs, atol=1e-3, rtol=1e-3)
    other = {"epsilon": "v_prediction", "v_prediction": "epsilon"}[prediction]
    parts["scheduler"] = DDIMScheduler.from_config(parts["scheduler"].config, prediction_type=other)
    wrong = StableDiffusionPrior(Parts(**parts)).eps(z_t, times, cond, control)
    assert (wrong - eps).abs().max() > 0.1


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("family", full.FAMILIES)
def test_what_is_predicted_means_the_clean_image_that_diffusers_means(family, prediction, tmp_path):
    means_what_diffusers_means(full.few(tmp_path, family), prediction)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("family", full.FAMILIES)
def test_what_is_predicted_at_the_true_size(family, tmp_path):
    parts = full.whole(tmp_path, family, LATENT_SIZE)
    for prediction in PREDICTIONS:
        means_what_diffusers_means(parts, prediction)
