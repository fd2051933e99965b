"""Training the packaged prior: the linear start, exact resumption, and a folder that stock diffusers reads."""

from typing import cast

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionControlNetPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput

from avatar_gs.core.errors import UserError
from avatar_gs.lab.train_prior.autoencoder import (
    DETAIL_STD,
    balance_latents,
    build_autoencoder,
    decode,
    posterior,
    train_mini_autoencoder,
)
from avatar_gs.lab.train_prior.config import AutoencoderConfig, DatasetConfig, DiffusionConfig
from avatar_gs.lab.train_prior.diffusion import (
    build_networks,
    noise_schedule,
    place_weights,
    time_weights,
    train_diffusion,
)
from avatar_gs.lab.train_prior.language import mini_language
from avatar_gs.lab.train_prior.package import package
from avatar_gs.lab.train_prior.tokenizer import write_tokenizer
from avatar_gs.lab.train_prior.train import encode
from avatar_gs.lab.world.dataset import generate
from avatar_gs.prior.config import PriorConfig
from avatar_gs.prior.stable_diffusion import load_prior
from avatar_gs.types import Framing


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    config = DatasetConfig(people=4, people_per_shard=2, views=2, recolourings=2, workers=1)
    assert list(generate(config, folder))[-1] == (2, 2)
    return sorted(folder.glob("shard_*.npz"))


def test_the_linear_start_is_a_thumbnail(shards):
    vae = build_autoencoder()
    with np.load(shards[0]) as data:
        pictures = torch.from_numpy(data["pictures"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        decoded = decode(vae, posterior(vae, pictures).mean)
        thumbnail = torch.nn.functional.avg_pool2d(pictures, 8)
        blurred = torch.nn.functional.interpolate(thumbnail, scale_factor=8, mode="bilinear")
    error = (decoded - pictures).square().mean()
    assert error < 2 * (blurred - pictures).square().mean()
    assert error < 0.2 * pictures.var()


def test_balancing_latents_changes_their_deviation_and_no_image(shards):
    vae = build_autoencoder()
    with np.load(shards[0]) as data:
        pictures = torch.from_numpy(data["pictures"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        before = posterior(vae, pictures)
        decoded = decode(vae, before.mean)
        balance_latents(vae, before.mean.mean((0, 2, 3)), before.mean.std((0, 2, 3)))
        after = posterior(vae, pictures)
        torch.testing.assert_close(decode(vae, after.mean), decoded, atol=1e-4, rtol=1e-4)
    wanted = torch.tensor([1.0] * 3 + [DETAIL_STD] * 5)
    torch.testing.assert_close(after.mean.std((0, 2, 3)), wanted, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(after.mean.mean((0, 2, 3)), torch.zeros(8), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        after.std / before.std, (wanted / before.mean.std((0, 2, 3)))[:, None, None].expand_as(after.std)
    )


def test_shards_depend_on_the_seed_only_and_existing_ones_are_skipped(shards, tmp_path):
    config = DatasetConfig(people=2, people_per_shard=2, views=2, recolourings=2, workers=1)
    list(generate(config, tmp_path))
    with np.load(shards[0]) as first, np.load(tmp_path / "shard_0000.npz") as again:
        assert all((first[name] == again[name]).all() for name in first.files)
    before = (tmp_path / "shard_0000.npz").stat().st_mtime_ns
    assert list(generate(config, tmp_path)) == [(1, 1)]
    assert (tmp_path / "shard_0000.npz").stat().st_mtime_ns == before


def test_autoencoder_training_resumes_exactly(shards, tmp_path):
    with np.load(shards[0]) as data:
        pictures, foreground = data["pictures"], np.repeat(data["foreground"], 2, 0)

    def run(steps, name, stop=None):
        config = AutoencoderConfig(steps=steps, batch=2, checkpoint_every=2)

        def on_step(done, total, loss):
            if done == stop:
                raise KeyboardInterrupt

        return train_mini_autoencoder(config, pictures, foreground, tmp_path / name, on_step)

    whole = run(4, "a.safetensors")
    with pytest.raises(KeyboardInterrupt):
        run(4, "b.safetensors", stop=3)
    resumed = run(4, "b.safetensors")
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_diffusion_training_resumes_exactly_and_its_folder_opens_in_diffusers(shards, tmp_path):
    tokenizer = write_tokenizer(tmp_path / "prior" / "tokenizer", mini_language().tokens)
    built = build_autoencoder()
    built.register_to_config(scaling_factor=0.7)
    built.save_pretrained(str(tmp_path / "vae"))
    vae = AutoencoderKL.from_pretrained(str(tmp_path / "vae")).eval().requires_grad_(False)
    data = encode(shards, vae, tokenizer, tmp_path / "latents.npz", lambda *report: None)
    assert len(data.latents) == 2 * len(data.controls) == 16

    def run(name, stop=None):
        def on_step(done, total, loss):
            if done == stop:
                raise KeyboardInterrupt

        config = DiffusionConfig(steps=4, batch=4, checkpoint_every=2)
        return train_diffusion(
            config, build_networks(tokenizer), lambda step: data, tokenizer, tmp_path / name, on_step
        )

    whole = run("a.safetensors")
    with pytest.raises(KeyboardInterrupt):
        run("b.safetensors", stop=3)
    resumed = run("b.safetensors")
    for name, value in whole.parameters().items():
        assert torch.equal(value, resumed.parameters()[name]), name

    package(whole, vae, tokenizer, mini_language(), tmp_path / "prior", {})
    texts = [file.read_text() for file in (tmp_path / "prior").rglob("*.json")]
    assert len(texts) > 5 and not any(str(tmp_path) in text for text in texts), "a machine's path is nobody's business"
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        str(tmp_path / "prior"), safety_checker=None, torch_dtype=torch.float32
    )
    control = torch.rand(1, 3, 128, 128)
    drawn = pipeline("a man", image=control, num_inference_steps=2, output_type="np", height=128, width=128)
    assert np.asarray(cast(StableDiffusionPipelineOutput, drawn).images).shape == (1, 128, 128, 3)
    prior = load_prior(PriorConfig(path=str(tmp_path / "prior")), "cpu")
    assert (prior.image_size, prior.latent_size, prior.token_length) == (128, 16, 64)
    assert prior.unknown_words("a man with a trombone") == ["trombone"]


def test_time_weights_have_mean_one_and_favour_noise():
    weights = time_weights(noise_schedule().alphas_cumprod)
    assert weights.mean() == pytest.approx(1.0, abs=1e-5)
    assert weights[900] > 10 * weights[20]


def test_place_weights_have_mean_one_and_are_equal_on_both_sides_of_an_outline():
    foreground, details = torch.zeros(2, 1, 16, 16)
    foreground[0, 4:12, 4:12], details[0, 4:6, 6:8] = 1.0, 1.0
    weights = place_weights(foreground, details)[0]
    assert weights.mean() == pytest.approx(1.0, abs=1e-6)
    assert weights[8, 12] == weights[8, 11] == pytest.approx(3 * weights[0, 0]), "the person, and one cell beyond"
    assert weights[3, 6] == weights[4, 6] == pytest.approx(6 * weights[0, 0]), "hair, and one cell beyond"


def test_details_are_part_of_the_person_and_present_in_close_ups(shards):
    head = list(Framing).index(Framing.HEAD)
    for shard in shards:
        with np.load(shard) as data:
            assert (data["details"] <= data["foreground"]).all()
            close = data["kinds"][:, 0] == head
            assert (data["details"][close].max((1, 2)) > 0.1).all()
            assert (data["details"].mean((1, 2)) < data["foreground"].mean((1, 2))).all()


def test_shards_of_an_earlier_version_are_refused(shards, tmp_path):
    with np.load(shards[0]) as data:
        np.savez(tmp_path / "shard_0000.npz", **{name: data[name] for name in data.files if name != "details"})
    tokenizer = write_tokenizer(tmp_path / "tokenizer", mini_language().tokens)
    with pytest.raises(UserError, match="earlier version"):
        encode([tmp_path / "shard_0000.npz"], build_autoencoder(), tokenizer, tmp_path / "l.npz", lambda *report: None)
