"""Shards of people and the training of the autoencoder on them."""

import io
import json
from contextlib import nullcontext
from typing import cast

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from avatar_gs.core.errors import UserError
from avatar_gs.core.paths import MINI_PRIOR
from avatar_gs.lab.people import autoencoder, dataset
from avatar_gs.lab.people.__main__ import main
from avatar_gs.lab.people.config import (
    PeopleAutoencoderConfig,
    PeopleDatasetConfig,
    PeopleDenoiserConfig,
    TrainPeopleConfig,
)
from avatar_gs.lab.people.dataset import ARRAYS, Images, read_shards
from avatar_gs.lab.people.language import people_language
from avatar_gs.lab.people.latents import EncodedPeople, PeopleSet, encode_images, joined, resident
from avatar_gs.lab.people.train import train_people
from avatar_gs.lab.people.warm_start import ARCHITECTURE, start_from_mini
from avatar_gs.lab.train_prior.autoencoder import DETAIL_STD, build_autoencoder
from avatar_gs.lab.train_prior.diffusion import MINI, build_networks, load_networks, train_diffusion
from avatar_gs.lab.train_prior.language import mini_language
from avatar_gs.lab.train_prior.tokenizer import write_tokenizer
from avatar_gs.prior.config import PriorConfig
from avatar_gs.prior.stable_diffusion import load_prior
from tests.accelerator import Accelerator

SIZE = 64
CONFIG = PeopleAutoencoderConfig(steps=4, crop=64, crops=2, whole=1, checkpoint_every=2)


def encoded(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    pictures = [encoded(rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)) for _ in range(4)]
    maps = rng.integers(0, 255, (4, SIZE // 8, SIZE // 8), dtype=np.uint8)
    faces = np.zeros((4, 64, 64), np.uint8)
    faces[:2, 10:20, 30:40] = 255
    zeros = np.zeros(4, np.int64)
    return Images(pictures, pictures, maps, maps, faces, zeros, zeros, zeros, [["a man"]] * 4)


@pytest.fixture
def tokenizer(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"), people_language().tokens)


def weights(vae):
    return {name: value.clone() for name, value in vae.state_dict().items()}


def test_an_interrupted_training_ends_with_the_same_bytes(images, tmp_path):
    class Stop(Exception):
        pass

    def stop_after_two(done, total, loss):
        if done == 3:
            raise Stop

    whole = autoencoder.train_autoencoder(CONFIG, images, SIZE, tmp_path / "a.safetensors", lambda *_: None)
    with pytest.raises(Stop):
        autoencoder.train_autoencoder(CONFIG, images, SIZE, tmp_path / "b.safetensors", stop_after_two)
    resumed = autoencoder.train_autoencoder(CONFIG, images, SIZE, tmp_path / "b.safetensors", lambda *_: None)
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())


def test_most_crops_show_faces(images):
    rng, faces = np.random.default_rng(0), np.zeros((256, 256), np.uint8)
    faces[40:60, 180:200] = 255
    inside = 0
    for _ in range(300):
        top, left = autoencoder._corner(faces, 256, 128, rng)
        assert 0 <= top <= 128 and 0 <= left <= 128
        inside += top <= 40 and left + 128 >= 200
    assert inside > 160


def test_pixels_of_eyes_have_the_largest_weights():
    plain, cover = torch.zeros(1, 3, 32, 32), torch.ones(1, 1, 32, 32)
    face = torch.zeros(1, 1, 32, 32)
    face[..., 10:14, 10:14] = 1
    found = autoencoder.pixel_weights(plain, cover, face)
    assert float(found.mean()) == pytest.approx(1, abs=1e-6)
    assert float(found[0, 0, 11, 11] / found[0, 0, 25, 25]) == pytest.approx(6.5 / 2.5)


def test_damaged_shards_and_other_versions_are_refused(tmp_path):
    (tmp_path / "shard_0.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"shard_0\.npz: not a shard of this version"):
        read_shards([tmp_path / "shard_0.npz"])
    np.savez(tmp_path / "shard_1.npz", version=np.array(0))
    with pytest.raises(UserError, match=r"version 0, expected 1"):
        read_shards([tmp_path / "shard_1.npz"])


def test_the_coverage_of_latent_cells():
    parts = np.zeros((32, 32), np.uint8)
    parts[:16, :8] = dataset.Part.HAIR
    cover = dataset._cover(parts, dataset.SMALL_PARTS)
    assert cover.tolist() == [[128, 0], [0, 0]]


@pytest.mark.parametrize("wrong", [{"people": 0}, {"size": 100}, {"degraded_fraction": 1.0}])
def test_wrong_settings_are_named(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        PeopleDatasetConfig(**wrong)


def test_the_command_reports_missing_files(tmp_path, capsys):
    assert main(["sheet", "--assets", str(tmp_path / "nowhere")]) == 1
    assert "error: people.assets=" in capsys.readouterr().err


def write_shard(path, images):
    arrays = {name: getattr(images, name) for name in ARRAYS}
    for name, parts in (("image", images.encoded), ("control", images.encoded_controls)):
        arrays[f"{name}s"] = np.frombuffer(b"".join(parts), np.uint8)
        arrays[f"{name}_sizes"] = np.array([len(part) for part in parts])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, version=np.array(dataset.SHARD_VERSION), captions=np.array(json.dumps(images.captions)), **arrays)


@pytest.fixture
def large_images():
    """Six images of 256 pixels of people that are rectangles."""
    rng = np.random.default_rng(1)
    pixels = np.full((6, 256, 256, 3), 200, np.uint8)
    for image in pixels:
        image[60:220, 90:160] = rng.integers(0, 255, 3)
    maps = np.zeros((6, 32, 32), np.uint8)
    maps[:, 8:28, 11:20] = 255
    faces, zeros = np.zeros((6, 64, 64), np.uint8), np.zeros(6, np.int64)
    encoded_images = [encoded(image) for image in pixels]
    return Images(encoded_images, encoded_images, maps, maps // 2, faces, zeros, zeros, zeros, [["a man", "a guy"]] * 6)


def test_the_warm_start_repeats_the_mini_prior(tokenizer, tmp_path):
    own_tokens = write_tokenizer(tmp_path, mini_language().tokens)
    mini, people = build_networks(own_tokens, MINI), build_networks(tokenizer, ARCHITECTURE)
    load_networks(mini, MINI_PRIOR)
    start_from_mini(people, tokenizer, MINI_PRIOR)
    text = "a man with brown hair in a red shirt and blue trousers"
    embeddings = []
    for networks, tokens in ((mini, own_tokens), (people, tokenizer)):
        ids = torch.tensor([tokens(text, padding="max_length").input_ids])
        with torch.no_grad():
            embeddings.append(networks.text_encoder(ids).last_hidden_state)
    torch.testing.assert_close(embeddings[0], embeddings[1])
    noisy = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    repeated = noisy.repeat_interleave(2, 2).repeat_interleave(2, 3)
    condition = embeddings[0].expand(2, -1, -1)
    with torch.no_grad():
        coarse = mini.unet(noisy, 500, encoder_hidden_states=condition).sample
        fine = people.unet(repeated, 500, encoder_hidden_states=condition).sample
    averaged = torch.nn.functional.avg_pool2d(fine, 2)
    assert torch.corrcoef(torch.stack([coarse.flatten(), averaged.flatten()]))[0, 1] > 0.97


def test_new_words_start_near_similar_ones(tokenizer):
    networks = build_networks(tokenizer, ARCHITECTURE)
    start_from_mini(networks, tokenizer, MINI_PRIOR)
    rows = cast(torch.nn.Embedding, networks.text_encoder.get_input_embeddings()).weight.detach()
    ids = tokenizer.get_vocab()
    distance = (rows[ids["jeans</w>"]] - rows[ids["trousers</w>"]]).norm()
    assert 0 < distance < 0.5 * (rows[ids["jeans</w>"]] - rows[ids["shirt</w>"]]).norm()


def test_a_set_in_device_memory_gives_the_same_batches(large_images):
    latents, tokens = torch.randn(6, 8, 32, 32).half(), torch.arange(6 * 2 * 64, dtype=torch.int16).view(6, 2, 64)
    people = EncodedPeople(large_images, latents, tokens)
    picks = torch.tensor([4, 0, 4])
    one, other = people.batch(picks), resident(people, torch.device("cpu")).batch(picks)
    for name in ("latents", "controls", "foreground", "details", "tokens"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    twice = joined([people, people])
    assert len(twice) == 12 and torch.equal(twice.batch(picks + 6).latents, one.latents)


def test_the_whole_training_resumes_exactly_and_its_prior_loads(large_images, tmp_path):
    """Autoencoder and denoiser; an interrupted run ends with the bytes of another, and continues from its own prior."""

    def config(folder, decoder_steps=0, **denoiser):
        return TrainPeopleConfig(
            folder=str(tmp_path / folder),
            dataset=PeopleDatasetConfig(people=2, people_per_shard=2),
            autoencoder=PeopleAutoencoderConfig(steps=1, crops=1, whole=1, decoder_steps=decoder_steps),
            denoiser=PeopleDenoiserConfig(steps=3, batch=2, checkpoint_every=1, **denoiser),
        )

    def run(folder, stop=None, **options):
        def report(part, done, total, loss):
            if part == "training the denoiser" and done == stop:
                raise KeyboardInterrupt

        write_shard(tmp_path / folder / "data" / "shard_00000.npz", large_images)
        return train_people(config(folder, **options), report, torch.device("cpu"), tmp_path / "none")

    whole = run("a")
    with pytest.raises(KeyboardInterrupt):
        run("b", stop=2)
    first = json.loads((tmp_path / "b" / "prior" / "training.json").read_text())
    assert first["batches"] == 2
    resumed = run("b")
    for file in sorted(whole.rglob("*.safetensors")):
        assert file.read_bytes() == (resumed / file.relative_to(whole)).read_bytes(), file.name
    trained = AutoencoderKL.from_pretrained(str(tmp_path / "a" / "vae"))
    latents = encode_images(trained, [large_images.image(index) for index in range(6)])
    wanted = torch.tensor([1.0] * 3 + [DETAIL_STD] * 5)
    torch.testing.assert_close(latents.std((0, 2, 3)), wanted, atol=0.01, rtol=0.01)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(8), atol=0.01, rtol=0)
    prior = load_prior(PriorConfig(path=str(whole)), "cpu")
    assert (prior.image_size, prior.latent_size) == (256, 32)
    assert prior.unknown_words("a man in jeans with a trombone") == ["trombone"]
    assert json.loads((run("c", start=str(whole)) / "training.json").read_text())["batches"] == 6

    def latents_of(folder):
        vae = AutoencoderKL.from_pretrained(str(tmp_path / folder / "vae"))
        return vae.decoder.conv_out.weight, encode_images(vae, [large_images.image(0)])

    before = latents_of("c")
    run("f", start=str(whole), decoder_steps=2)
    after = latents_of("f")
    assert torch.equal(before[1], after[1]) and not torch.equal(before[0], after[0])
    with pytest.raises(UserError, match=r"people\.denoiser\.start=nowhere: no prior"):
        run("d", start="nowhere")
    with pytest.raises(UserError, match=r"people\.assets: images are missing"):
        train_people(config("e"), lambda *_: None, torch.device("cpu"), tmp_path / "none")


def test_the_denoiser_trains_on_a_device_that_refuses_what_cuda_refuses(large_images, tokenizer, tmp_path):
    """Set, noise, captions and checkpoint; weights end as on the CPU up to rounding."""
    random = torch.Generator().manual_seed(0)
    latents = torch.randn(6, 8, 32, 32, generator=random).half()
    tokens = torch.randint(0, 400, (6, 2, 64), generator=random).short()
    config = PeopleDenoiserConfig(steps=2, batch=2, checkpoint_every=1)
    ended = {}
    for name in ("cpu", "cuda"):
        with Accelerator() if name == "cuda" else nullcontext():
            device = torch.device(name, 0) if name == "cuda" else torch.device("cpu")
            people = EncodedPeople(large_images, latents, tokens)
            data = resident(people, device) if name == "cuda" else people
            networks = build_networks(tokenizer, ARCHITECTURE)
            for module in networks.modules().values():
                module.to(device)  # pyright: ignore[reportArgumentType]  # its wrapper hides self
            written = []
            train_diffusion(
                config, networks, lambda step, data=data: data, tokenizer, tmp_path / f"{name}.safetensors",
                lambda *_: None, on_checkpoint=lambda averaged, done, written=written: written.append(done),
            )  # fmt: skip
            assert written == [1, 2]
            ended[name] = {key: value.detach().cpu() for key, value in networks.parameters().items()}
    for key, value in ended["cpu"].items():
        torch.testing.assert_close(ended["cuda"][key], value, atol=2e-3, rtol=1e-2, msg=key)


def test_on_a_gpu_images_and_latents_move_together(large_images, tokenizer, tmp_path):
    """The autoencoder encodes on the device, and the set stays there."""
    write_shard(tmp_path / "data" / "shard_00000.npz", large_images)
    with Accelerator():
        vae = build_autoencoder(size=256).eval().requires_grad_(False)
        vae.to("cuda")  # pyright: ignore[reportArgumentType]  # its wrapper hides self
        vae.register_to_config(scaling_factor=1.0)
        people = PeopleSet(tmp_path / "data", vae, tokenizer, tmp_path / "latents", lambda *_: None)
        batch = people.at(0).batch(torch.tensor([5, 1]))
        assert batch.latents.device.type == batch.controls.device.type == "cuda"
        expected = [large_images.control(index) for index in (5, 1)]
        assert (batch.controls.cpu().numpy() == np.stack(expected)).all()
