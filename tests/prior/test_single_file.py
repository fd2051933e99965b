"""Single files: the packaged configurations are the true ones, and weights under the original names load back equal."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from avatar_gs.prior.config import Prediction, PriorConfig
from avatar_gs.prior.loading import single_file
from avatar_gs.prior.loading.sources import locate
from avatar_gs.prior.memory_estimate import architecture_of
from tests import full
from tests.prior.loading import load, refuses

PARAMETERS = {
    "sd15": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480, "controlnet": 361_279_120},
    "sd21": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840, "controlnet": 364_228_240},
}
"""Of the published models (the ControlNet of 2.1: as its configuration makes it)."""
TENSORS = {"sd15": (686, 248, 196), "sd21": (686, 248, 372)}
"""In the published single files: UNet, VAE, and the text encoder that is used (without 2.1's last layer)."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Per family: its parts, its checkpoint and its ControlNet, few channels wide; the layouts are patched alike."""
    folder = tmp_path_factory.mktemp("single")
    made = {}
    for family in full.FAMILIES:
        parts = full.few(folder, family)
        save_file(full.checkpoint(parts, family), folder / f"{family}.safetensors")
        control = full.controlnet_to_ldm(parts["controlnet"].state_dict())
        save_file(
            {f"control_model.{key}": value for key, value in control.items()}, folder / f"{family}_pose.safetensors"
        )
        made[family] = parts, folder / f"{family}.safetensors", folder / f"{family}_pose.safetensors"
    layouts = full.save_layouts(folder / "layouts", len(parts["tokenizer"]))
    return made, layouts


@pytest.fixture(autouse=True)
def patched(request, monkeypatch, no_network):
    if "files" in request.fixturenames:
        monkeypatch.setattr(single_file, "LAYOUTS", request.getfixturevalue("files")[1])
        monkeypatch.setattr(single_file, "WIDTHS", full.FEW_WIDTHS)


@pytest.mark.parametrize("family", full.FAMILIES)
def test_the_packaged_configurations_are_the_published_models(family):
    names = ("text_encoder", "vae", "unet", "controlnet", "scheduler")
    with torch.device("meta"):
        parts = full.networks({name: full.layout(family, name) for name in names})
    counts = {name: sum(value.numel() for value in parts[name].parameters()) for name in PARAMETERS[family]}
    assert counts == PARAMETERS[family]
    text = dict(parts["text_encoder"].named_parameters())
    assert (len(parts["unet"].state_dict()), len(parts["vae"].state_dict()), len(text)) == TENSORS[family]


@pytest.mark.parametrize("family", full.FAMILIES)
def test_a_checkpoint_loads_back_equal(files, family):
    parts, file, controlnet = files[0][family]
    prior = load(file, controlnet, prediction=Prediction.epsilon)
    for name in ("unet", "vae", "text_encoder", "controlnet"):
        expected, found = parts[name].state_dict(), getattr(prior, name).state_dict()
        assert set(found) == set(expected)
        assert all(torch.equal(found[key], expected[key]) for key in expected), name
    assert prior.prediction_type == "epsilon" and prior.image_size == 512 and prior.token_length == 77
    assert prior.tokenizer.pad_token == ("!" if family == "sd21" else "<|endoftext|>")
    torch.testing.assert_close(prior.denoiser.alphas**2, parts["scheduler"].alphas_cumprod)


def test_controlnets_of_every_naming(files, tmp_path):
    parts, file, _ = files[0]["sd15"]
    plain, theirs = tmp_path / "plain.safetensors", tmp_path / "diffusers.safetensors"
    save_file(full.controlnet_to_ldm(parts["controlnet"].state_dict()), plain)
    save_file(parts["controlnet"].state_dict(), theirs)
    parts["controlnet"].save_pretrained(tmp_path / "folder")
    for name in (plain, theirs, tmp_path / "folder"):
        found = load(file, name).controlnet.state_dict()
        assert all(torch.equal(found[key], value) for key, value in parts["controlnet"].state_dict().items())


def test_a_vae_of_its_own_file(files, tmp_path):
    parts, file, controlnet = files[0]["sd15"]
    vae = tmp_path / "vae.safetensors"
    save_file({key: value + 1 for key, value in full.vae_to_ldm(parts["vae"].state_dict()).items()}, vae)
    found = load(file, controlnet, vae=str(vae)).vae.state_dict()
    assert all(torch.equal(found[key], value + 1) for key, value in parts["vae"].state_dict().items())


@pytest.mark.parametrize(
    ("metadata", "extra", "expected"),
    [
        ({"modelspec.prediction_type": "v"}, {}, "v_prediction"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, {}, "v_prediction"),
        ({"modelspec.architecture": "stable-diffusion-v2-512"}, {}, "epsilon"),
        ({}, {"v_pred": torch.zeros(0)}, "v_prediction"),
        ({}, {}, None),
    ],
)
def test_the_stated_prediction_type_of_a_file(tmp_path, metadata, extra, expected):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1), **extra}, file, metadata or None)
    assert single_file.stated_prediction(file, "sd21") == expected
    assert single_file.stated_prediction(file, "sd15") == (expected or "epsilon")


@pytest.mark.parametrize(
    ("share_of_noise", "expected"), [(0.99, "epsilon"), (0.07, "v_prediction"), (0.0, "v_prediction")]
)
def test_a_probe_finds_the_prediction_type_of_a_unet(files, share_of_noise, expected):
    """At the last step alpha = .07: a network of eps repeats the noise, one of v answers .07 eps - z0."""
    unet = files[0]["sd21"][0]["unet"]

    class Network(torch.nn.Module):
        config, device, dtype = unet.config, torch.device("cpu"), torch.float32

        def forward(self, z_t, t, encoder_hidden_states, return_dict):
            z0 = torch.randn(z_t.shape, generator=torch.Generator().manual_seed(5))
            return (share_of_noise * z_t + (1 - share_of_noise) * z0,)

    assert single_file.probe_prediction(Network()) == expected


def test_v_prediction_changes_eps_as_v_means_and_the_size(files):
    _, file, controlnet = files[0]["sd21"]
    as_eps = load(file, controlnet, prediction=Prediction.epsilon)
    as_v = load(file, controlnet, prediction=Prediction.v_prediction)
    assert (as_eps.image_size, as_v.image_size) == (512, 768)
    z_t, t, cond = torch.randn(1, 4, 16, 16), torch.tensor([500]), as_v.encode_prompts(["a man"])
    v = as_eps.eps(z_t, t, cond, None)
    torch.testing.assert_close(as_v.eps(z_t, t, cond, None), as_v.alpha(t) * v + as_v.sigma(t) * z_t)


def test_models_of_768_pixels(files, tmp_path, caplog):
    """Stable Diffusion 2.1: a folder states its size, a file its prediction type or nothing."""
    parts, file, controlnet = files[0]["sd21"]
    said = tmp_path / "said.safetensors"
    save_file(full.checkpoint(parts, "sd21"), said, {"modelspec.architecture": "stable-diffusion-v2-768-v"})
    shutil.copytree(file.parent / "tokenizer", tmp_path / "tokenizer")
    for name, config in {
        said: {},
        file: {"prediction": Prediction.v_prediction},
    }.items():
        sources = locate(PriorConfig(path=str(name), controlnet=str(controlnet), **config))
        assert architecture_of(sources, "custom")[0].image_size == 768
        prior = load(name, controlnet, **config)
        assert (prior.image_size, prior.latent_size, prior.prediction_type) == (768, 96, "v_prediction")
        assert prior.encode_images(torch.rand(1, 1536, 1536, 3)).shape == (1, 4, 96, 96)
    assert not caplog.records
    assert load(file, controlnet).image_size == 768, "as these random weights answer"
    assert "768², which take 2.25 times" in caplog.text

    folder = tmp_path / "folder"
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    for component, change in {"unet": {"sample_size": 96}, "scheduler": {"prediction_type": "v_prediction"}}.items():
        (place,) = (folder / component).glob("*config.json")
        place.write_text(json.dumps(json.loads(place.read_text()) | change))
    prior = load(folder)
    assert (prior.image_size, prior.prediction_type) == (768, "v_prediction")
    assert architecture_of(locate(PriorConfig(path=str(folder))), "custom")[0].image_size == 768


def test_a_pickled_checkpoint(files, tmp_path, monkeypatch):
    """A .ckpt of a training program, a ControlNet's .pth and a VAE's .pt: read as plain tensors."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    parts, file, _ = files[0]["sd15"]
    ckpt, pth, vae = tmp_path / "model.ckpt", tmp_path / "pose.pth", tmp_path / "x.vae.pt"
    torch.save({"state_dict": full.checkpoint(parts, "sd15"), "global_step": 7, "callbacks": {}}, ckpt)
    torch.save(full.controlnet_to_ldm(parts["controlnet"].state_dict()), pth)
    torch.save({"state_dict": full.vae_to_ldm(parts["vae"].state_dict())}, vae)
    prior = load(ckpt, pth, vae=str(vae), tokenizer=str(file.parent / "tokenizer"))
    for name in ("unet", "vae", "text_encoder", "controlnet"):
        expected, found = parts[name].state_dict(), getattr(prior, name).state_dict()
        assert all(torch.equal(found[key], expected[key]) for key in expected), name
    torch.save({"state_dict": {"a": torch.zeros(1)}}, ckpt)
    refuses(ckpt, f"prior.path={ckpt}", "no weights of unet", controlnet=pth)


def test_what_is_missing_is_named(files, tmp_path):
    _, file, controlnet = files[0]["sd15"]
    lonely = shutil.copy(file, tmp_path / "lonely.safetensors")
    refuses(lonely, "no tokenizer", "vocab.json and merges.txt", "prior.tokenizer=", controlnet=controlnet)
    refuses(lonely, "prior.tokenizer=/nowhere", controlnet=controlnet, tokenizer="/nowhere")
    assert load(lonely, controlnet, tokenizer=str(file.parent / "tokenizer")).text_width == 16
    refuses(file, "no ControlNet", "a single file holds none", "lllyasviel/control_v11p_sd15_openpose")
    refuses(file, "no ControlNet is in it", controlnet=file.parent / "sd21.safetensors")
    refuses(file, "different widths", controlnet=files[0]["sd21"][2])
    refuses(file, "no VAE is in it", controlnet=controlnet, vae=str(controlnet))


def test_other_checkpoints_are_refused(files, tmp_path):
    parts, _, controlnet = files[0]["sd15"]
    tensors = full.checkpoint(parts, "sd15")
    file = tmp_path / "model.safetensors"
    shutil.copytree(controlnet.parent / "tokenizer", tmp_path / "tokenizer")

    def refused(*words, **changed):
        save_file({**tensors, **changed}, file)
        refuses(file, "prior.path=", *words, controlnet=controlnet)

    refused("9 channels", **{"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 9, 3, 3)})
    width = {key: torch.zeros(8, 2048) for key in tensors if key.endswith("attn2.to_k.weight")}
    refused("width 2048", "Stable Diffusion XL", "folders and hub names", **width)
    save_file({key: value for key, value in tensors.items() if not key.startswith("first_stage")}, file)
    refuses(file, "no weights of vae", "prior.vae=", controlnet=controlnet)
    save_file(parts["unet"].state_dict(), file)
    refuses(file, "no weights of unet, vae, text_encoder", controlnet=controlnet)
    lacking = "model.diffusion_model.middle_block.1.proj_in.weight"
    save_file({key: value for key, value in tensors.items() if key != lacking}, file)
    refuses(file, "weights of the unet are not in it", "incomplete", controlnet=controlnet)
    lacking = "cond_stage_model.transformer.text_model.final_layer_norm.bias"
    save_file({key: value for key, value in tensors.items() if key != lacking}, file)
    refuses(file, "weights of the text_encoder are not in it", controlnet=controlnet)
    file.write_bytes(file.read_bytes()[:-100])
    refuses(file, "damaged or cut short", controlnet=controlnet)
