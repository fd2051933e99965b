import json
import pickle
import shutil

import pytest

from avatar_gs.prior.loading.sources import _hub_answers
from tests import tiny
from tests.prior.loading import load, refuses


def test_a_folder_loads_without_network(folder, no_network):
    assert load(folder).name == "custom"


def test_missing_folder():
    refuses("/nowhere/at/all", "prior.path=/nowhere/at/all", "no such folder", "prior=mini")


def test_a_file_of_another_type(tmp_path):
    (tmp_path / "model.txt").write_bytes(b"")
    refuses(tmp_path / "model.txt", "is a file in no known format", "expected a .safetensors file")
    (tmp_path / "model.ckpt").write_bytes(b"")
    refuses(tmp_path / "model.ckpt", "damaged, or a pickle", "read as plain tensors only")
    (tmp_path / "model.safetensors").write_bytes(b"")
    refuses(tmp_path / "model.safetensors", "damaged or cut short")


def test_not_a_prior_names_what_is_missing(folder):
    shutil.rmtree(folder / "vae")
    (folder / "scheduler" / "scheduler_config.json").unlink()
    refuses(folder, "not a Stable Diffusion folder", "vae/config.json", "scheduler/scheduler_config.json")


def test_no_controlnet(folder, original):
    shutil.rmtree(folder / "controlnet")
    refuses(folder, "no ControlNet", "prior.controlnet=")
    assert load(folder, controlnet=str(original / "controlnet")).controlnet is not None
    refuses(folder, "prior.controlnet=/nowhere/x", controlnet="/nowhere/x")


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder", "controlnet"])
def test_truncated_weights(folder, name):
    file = next((folder / name).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    refuses(folder, str(file), "damaged or cut short")


def test_pickles_are_read_as_plain_tensors_only(folder):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was loaded",))

    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    refuses(folder, "diffusion_pytorch_model.bin", "could run a program", "read as plain tensors only")


def test_broken_config(folder):
    (folder / "unet" / "config.json").write_text("{not json")
    refuses(folder, "config.json", "not valid JSON")


def test_weights_of_another_shape(folder):
    config = json.loads((folder / "unet" / "config.json").read_text())
    config["block_out_channels"] = [8, 32]
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    refuses(folder, "cannot load the unet", "do not fit together")


def test_half_precision_variant_files_are_found(folder):
    for name in ("unet", "vae", "controlnet"):
        file = folder / name / "diffusion_pytorch_model.safetensors"
        file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    file = folder / "text_encoder" / "model.safetensors"
    file.rename(file.with_name("model.fp16.safetensors"))
    assert load(folder).image_size == tiny.IMAGE_SIZE


def test_separate_vae(folder, original, tmp_path):
    vae = shutil.copytree(original / "vae", tmp_path / "other_vae")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert load(folder, vae=str(vae)).image_size == tiny.IMAGE_SIZE


@pytest.mark.parametrize(("setting", "value"), [("HF_HUB_OFFLINE", True), ("ENDPOINT", "http://127.0.0.1:9")])
def test_hub_names_without_a_network_fail_at_once(monkeypatch, setting, value):
    monkeypatch.setattr(f"huggingface_hub.constants.{setting}", value)
    _hub_answers.cache_clear()
    refuses("nobody/no-such-model", "nobody/no-such-model", "cannot be reached")
    _hub_answers.cache_clear()


def test_vocabulary(folder):
    assert load(folder).unknown_words("a zebra") == []
    (folder / "vocabulary.json").write_text(json.dumps(["a", "man", "t", "shirt", "close", "up"]))
    prior = load(folder)
    assert prior.unknown_words("A man, <id>: zebra in a t-shirt (Zebra), close-up, être") == ["zebra", "in", "être"]
