"""Shards of people and the training of the autoencoder on them."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from avatar_gs.core.errors import UserError
from avatar_gs.lab.people import autoencoder, dataset
from avatar_gs.lab.people.__main__ import main
from avatar_gs.lab.people.config import PeopleAutoencoderConfig, PeopleDatasetConfig
from avatar_gs.lab.people.dataset import Images, read_shards

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
    assert "error: world.assets=" in capsys.readouterr().err
    assert main(["autoencoder", "--folder", str(tmp_path)]) == 1
    assert "no shards" in capsys.readouterr().err
