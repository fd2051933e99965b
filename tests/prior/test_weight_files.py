"""Weight files in practice: pickled, in half precision, in shards, incomplete, not finite."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from avatar_gs.core.errors import UserError
from avatar_gs.prior.config import PriorConfig
from avatar_gs.prior.loading import sources as sources_of
from avatar_gs.prior.loading.components import check_finite
from avatar_gs.prior.loading.sources import Source, choose_weights
from avatar_gs.prior.loading.weight_files import as_safetensors
from avatar_gs.prior.memory_estimate import architecture_of
from avatar_gs.prior.parts import Parts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from tests import tiny
from tests.prior.loading import load, refuses

STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "controlnet": "diffusion_pytorch_model",
    "text_encoder": "model",
}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 34\n"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "avatar_gs" / "weights"


def weights_of(folder, name):
    return folder / name / f"{STEMS[name]}.safetensors"


def pickled(folder, name, **options):
    """Replaces a component's weights by a pickle, as diffusers and transformers used to write it."""
    file = weights_of(folder, name)
    target = file.with_name("pytorch_model.bin" if name == "text_encoder" else f"{file.stem}.bin")
    torch.save(load_file(file), target, **options)
    file.unlink()
    return target


def same(prior, folder, names=tuple(STEMS)):
    for name in names:
        expected = {
            key.removeprefix("text_model."): value for key, value in load_file(weights_of(folder, name)).items()
        }
        found = {key.removeprefix("text_model."): value for key, value in getattr(prior, name).state_dict().items()}
        assert found.keys() == expected.keys(), name
        assert all(torch.equal(found[key], value) for key, value in expected.items()), name


def test_a_folder_of_pickles_is_converted_once_and_left_as_it_is(folder, original, cache, caplog):
    files = [pickled(folder, name) for name in STEMS]
    before = sorted(folder.rglob("*"))
    with caplog.at_level("INFO"):
        same(load(folder), original)
    assert sorted(folder.rglob("*")) == before
    assert [str(file) in caplog.text for file in files] == [True] * 4
    copies = sorted(cache.glob("*/*.safetensors"))
    assert len(copies) == 4
    times = [copy.stat().st_mtime_ns for copy in copies]
    caplog.clear()
    with caplog.at_level("INFO"):
        same(load(folder), original)
    assert [copy.stat().st_mtime_ns for copy in copies] == times and "plain tensors" not in caplog.text
    changed = {key: value + 1 for key, value in torch.load(files[0], weights_only=True).items()}
    torch.save(changed, files[0])
    os.utime(files[0], ns=(1, 1))
    found = load(folder).unet.state_dict()
    assert all(torch.equal(found[key], value) for key, value in changed.items()), "another file, another copy"


def test_pickles_of_every_make(folder, original):
    """Of torch before 1.6, within a training program's checkpoint, of half precision."""
    file = pickled(folder, "unet", _use_new_zipfile_serialization=False)
    same(load(folder), original)
    state = torch.load(file, weights_only=True)
    torch.save({"state_dict": state, "epoch": 3, "optimizer": {"step": torch.ones(2)}}, file)
    same(load(folder), original)
    half = file.with_name("diffusion_pytorch_model.fp16.bin")
    torch.save({key: value.half() for key, value in state.items()}, half)
    file.unlink()
    found = load(folder).unet.state_dict()
    assert all(torch.equal(found[key], value.half().float()) for key, value in state.items())


def test_tied_and_sliced_tensors_of_a_pickle(tmp_path):
    table = torch.randn(4, 6)
    state = {"a": table, "tied": table, "rows": table[1:3], "turned": table.T, "alone": torch.ones(2)}
    torch.save(state, tmp_path / "a.pt")
    found = load_file(as_safetensors([tmp_path / "a.pt"], "a.safetensors"))
    assert found.keys() == state.keys() and all(torch.equal(found[key], value) for key, value in state.items())


def test_parts_of_a_pickle_become_one_file(folder, original):
    file = pickled(folder, "unet")
    state = list(torch.load(file, weights_only=True).items())
    file.unlink()
    for part, items in enumerate((state[::2], state[1::2]), 1):
        torch.save(dict(items), file.with_name(f"diffusion_pytorch_model-0000{part}-of-00002.bin"))
    same(load(folder), original)
    file.with_name("diffusion_pytorch_model-00002-of-00002.bin").unlink()
    refuses(folder, "1 of 2 parts")


def test_a_pickle_without_weights(folder):
    file = pickled(folder, "unet")
    torch.save({"epoch": 1}, file)
    refuses(folder, str(file), "no weights are in it")
    torch.save(load_file(weights_of(folder, "vae")), file)
    file.write_bytes(file.read_bytes()[:-500])
    refuses(folder, str(file), "is damaged")


def test_a_copy_that_cannot_be_written(folder, monkeypatch, tmp_path):
    pickled(folder, "unet")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    refuses(folder, "cannot be written", "XDG_CACHE_HOME")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["m.safetensors", "m.fp16.safetensors"], (None, ["m.safetensors"])),
        (["m.fp16.safetensors", "m.non_ema.safetensors"], ("fp16", ["m.fp16.safetensors"])),
        (["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors", "m.safetensors"], (None, ["m.safetensors"])),
        (
            ["m.fp16-00002-of-00002.safetensors", "m.fp16-00001-of-00002.safetensors"],
            ("fp16", ["m.fp16-00001-of-00002.safetensors", "m.fp16-00002-of-00002.safetensors"]),
        ),
        (["m-00001-of-00001.fp16.safetensors"], ("fp16", ["m-00001-of-00001.fp16.safetensors"])),
        (["m.bin", "other.safetensors", "m.safetensors.index.json", "xm.safetensors"], (None, [])),
    ],
)
def test_which_files_are_chosen(names, expected):
    assert choose_weights(names, "m", ".safetensors") == expected


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_parts_of_safetensors(folder, original, variant):
    prior = load(original)
    for name in ("unet", "controlnet"):
        weights_of(folder, name).unlink()
        getattr(prior, name).save_pretrained(folder / name, max_shard_size="20KB", variant=variant)
        assert len(list((folder / name).glob("*-of-*.safetensors"))) > 1
    same(load(folder), original)
    _, absent = architecture_of({name: Source(str(folder), name, True, variant) for name in STEMS}, "custom")
    assert absent == []
    next((folder / "unet").glob("*-of-*.safetensors")).unlink()
    refuses(folder, str(folder / "unet"), "parts of its weights")


def test_the_estimate_counts_pickled_weights(folder, original):
    expected = architecture_of({name: Source(str(original), name, True) for name in STEMS}, "custom")[0]
    for name in STEMS:
        pickled(folder, name)
    sources = sources_of.locate(PriorConfig(path=str(folder)))
    assert architecture_of(sources, "custom")[0] == expected
    assert all(sources[name].weight_files(name) for name in STEMS)


def test_a_missing_weight_is_not_made_up(folder):
    for name, missing in {
        "unet": "mid_block.attentions.0.proj_in.weight",
        "text_encoder": ".layers.0.mlp.fc1.bias",
    }.items():
        file = weights_of(folder, name)
        state = load_file(file)
        (key,) = [key for key in state if key.endswith(missing)]
        save_file({other: value for other, value in state.items() if other != key}, file, {"format": "pt"})
        refuses(folder, str(folder / name), "lack", missing)
        save_file(state | {key: torch.zeros(3)}, file, {"format": "pt"})
        refuses(folder, str(folder / name) if name == "text_encoder" else "cannot load the unet", missing)
        save_file(state | {"more.weight": torch.zeros(3)}, file, {"format": "pt"})
        refuses(folder, str(folder / name), "an unexpected", "more.weight")
        save_file(state, file, {"format": "pt"})


def test_other_weights_in_text_encoders_files_are_ignored(folder, original):
    file = weights_of(folder, "text_encoder")
    more = {
        "text_model.embeddings.position_ids": torch.arange(tiny.TOKEN_LENGTH)[None],
        "text_projection.weight": torch.zeros(4, 4),
        "logit_scale": torch.ones(1),
    }
    save_file(load_file(file) | more, file, {"format": "pt"})
    same(load(folder), original)


def test_text_encoders_of_every_version(folder, original):
    """Those of the hub name their layers with text_model in front, what transformers since 5.6 saves without."""
    file = weights_of(folder, "text_encoder")
    plain = {key.removeprefix("text_model."): value for key, value in load_file(file).items()}
    for prefix in ("", "text_model."):
        save_file({prefix + key: value for key, value in plain.items()}, file, {"format": "pt"})
        same(load(folder), original)


def test_a_vae_of_the_first_names(folder, original):
    """SD 1.5's own VAE on the hub calls the layers of its attention query, key, value and proj_attn."""
    file = weights_of(folder, "vae")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for key, value in load_file(file).items():
        for new, name in old.items():
            key = key.replace(f".{new}.", f".{name}.")
        state[key] = value
    assert any(".query." in key for key in state)
    save_file(state, file, {"format": "pt"})
    same(load(folder), original)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", STEMS)
def test_weights_that_are_not_finite_are_reported_at_loading(folder, name, bad):
    file = weights_of(folder, name)
    state = load_file(file)
    key = sorted(key for key in state if key.endswith("weight") and state[key].ndim == 2)[0]
    state[key][1, 2] = bad
    save_file(state, file, {"format": "pt"})
    refuses(folder, str(folder / name), "1 weights that are NaN or infinite", key.removeprefix("text_model."))


def test_finite_weights_whose_sum_overflows_are_finite():
    large = torch.nn.Linear(2, 2, bias=False)
    large.weight.data[:] = 3e38
    check_finite(large, "it")
    check_finite(torch.nn.Linear(70000, 1, bias=False).half(), "it")


def test_components_of_other_models(folder):
    refuses(folder, "holds a UNet2DConditionModel, expected the controlnet", controlnet=str(folder / "unet"))
    refuses(folder, "holds a ControlNetModel, expected the vae", vae=str(folder / "controlnet"))
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "t5"}))
    refuses(folder, "holds a t5, expected the text_encoder")


def change(folder, name, **settings):
    file = folder / name / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def test_a_controlnet_of_other_layers(folder, tmp_path):
    from diffusers import ControlNetModel

    config = json.loads((folder / "controlnet" / "config.json").read_text())
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    ControlNetModel(**own | {"layers_per_block": 2}).save_pretrained(tmp_path / "other")
    refuses(folder, "other blocks than the UNet", "prior.controlnet=", controlnet=str(tmp_path / "other"))


def test_what_diffusers_would_fill_in_or_leave_out_is_refused(folder, tmp_path):
    vae = shutil.copytree(folder / "vae", tmp_path / "vae")
    change(tmp_path, "vae", scaling_factor=0.13025)
    refuses(folder, "scales its latents by 0.13025", "this prior's by 0.18215", vae=str(vae))
    change(tmp_path, "vae", scaling_factor=0.18215, latents_mean=[0.1] * 4, latents_std=[1.0] * 4)
    refuses(folder, "latents_mean", vae=str(vae))
    change(folder, "unet", sample_size=None)
    assert load(folder).latent_size == 64


@pytest.mark.parametrize(("name", "value"), [("class_embed_type", "timestep"), ("addition_embed_type", "text_time")])
def test_a_unet_with_other_conditions_is_refused(tmp_path, name, value):
    parts = tiny.parts(tmp_path)
    parts["unet"].register_to_config(**{name: value})
    with pytest.raises(UserError, match=f"reads more than text .{name}."):
        StableDiffusionPrior(Parts(**parts))


@pytest.mark.parametrize(
    "file",
    [
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
    ],
)
def test_git_lfs_pointers(folder, file):
    if file.startswith("tokenizer"):
        (folder / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    (folder / file).write_text(POINTER)
    refuses(folder, str(folder / file), "git-lfs pointer", "git lfs pull")


def test_an_incomplete_download_is_named(folder):
    file = weights_of(folder, "unet")
    file.rename(file.with_name(f"{file.name}.incomplete"))
    refuses(folder, "diffusion_pytorch_model.safetensors.incomplete, a download that has not ended")


def test_a_broken_tokenizer(folder):
    for file in Path(folder / "tokenizer").glob("tokenizer.json"):
        file.unlink()
    (folder / "tokenizer" / "vocab.json").write_text("{}")
    refuses(folder, "tokenizer")
