"""A person from the command line, with a tiny random prior: learning, the cache, the avatar, mistakes."""

import errno
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from avatar_gs import cli
from avatar_gs.core.errors import UserError
from avatar_gs.core.runs import IDENTITY_FILE, RunFolder
from avatar_gs.identity.embedding import IdentityEmbedding, read_identity, write_identity
from avatar_gs.prior.config import PriorConfig
from avatar_gs.prior.stable_diffusion import load_prior
from avatar_gs.settings import Settings
from avatar_gs.stages import embed, optimize, preview
from avatar_gs.types import Bucket, Framing, ViewDirection

STEPS = [
    "device=cpu",
    "embed.steps=2",
    "embed.batch=2",
    "embed.min_size=8",
    "embed.preview_every=1",
    "embed.tokens=1",
    "embed.clothes=bound",
    "threads=1",
]
EVERYWHERE = [
    "prior.prompts.style=mini",
    "prior.prompts.identity_framings=[body,head,upper,lower]",
    "prior.prompts.identity_views=[front,side,back]",
]
SMALL = ["optimize.steps=2", "optimize.batch=1", "splats.count=300", "export.video=false", "optimize.preview_every=0"]


@pytest.fixture(autouse=True)
def few_sampling_steps(monkeypatch):
    monkeypatch.setattr(embed, "SAMPLE_STEPS", 2)
    monkeypatch.setattr(preview, "STEPS", 2)
    monkeypatch.setattr(preview, "SAMPLES", 1)


def test_further_embeddings_are_named_by_their_files(prior, tmp_path, caplog):
    loaded = load_prior(PriorConfig(name="custom", path=str(prior)))
    rows = loaded.token_embeddings("man")
    for name in ("ink", "cloak", "two words", "id"):
        write_identity(tmp_path / f"{name}.safetensors", IdentityEmbedding(rows, {}))

    def known(*names):
        files = [str(tmp_path / f"{name}.safetensors") for name in names]
        return embed.with_embeddings(loaded, Settings(prompt="a man in <ink>", embeddings=files))

    assert list(known("ink", "cloak").prompt_encoder.embeddings) == ["<ink>", "<cloak>"]
    assert "neither prompt names it; write <cloak>" in caplog.text and "write <ink>" not in caplog.text
    assert known() is loaded
    for names in (["two words"], ["id"], ["ink", "ink"]):
        with pytest.raises(UserError, match="cannot be its word in prompts"):
            known(*names)


@pytest.fixture
def anna(tmp_path, monkeypatch):
    """A folder of photos in an empty working folder; returns the folder."""
    monkeypatch.chdir(tmp_path)
    add_photos(tmp_path / "anna", range(3))
    return tmp_path / "anna"


def add_photos(folder, seeds):
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")


def words(prior, *more):
    return [f"prior={prior}", *EVERYWHERE, *STEPS, *more]


def stages(folder):
    return json.loads((folder / "metrics.json").read_text())["stages"]


def test_photos_become_an_identity_and_the_identity_an_avatar(prior, anna, tmp_path, capsys, monkeypatch):
    assert cli.main(["stage=embed", "name=first", "photos=./anna", *words(prior)]) == 0
    first = tmp_path / "outputs" / "first"
    embedding = read_identity(first / "identity.safetensors")
    record = stages(first)["embed"]
    assert embedding.vectors.shape == (1, 16) and not record["cached"]
    assert record["steps"] == 2 and len(record["loss_curve"]) == 2 and record["photos"] == ["0.png", "1.png", "2.png"]
    for name in ("identity_000001.png", "identity_000002.png", "identity_loss.png"):
        with Image.open(first / "previews" / name) as image:
            assert min(image.size) > 100
    assert "learned 3 photos" in capsys.readouterr().err

    trained = []
    monkeypatch.setattr(embed, "train_identity", lambda *arguments, **more: trained.append(arguments))
    asked = []
    really = optimize.optimize

    def look(settings, body, prior, prompts, folder, **_):
        asked.append((settings, prompts, prior.identity))
        return really(settings, body, prior, prompts, folder)

    monkeypatch.setattr(optimize, "optimize", look)
    few_heads = "cameras.head.probability=0.3"
    command = ["photos=./anna", "prompt=red", "name=second", few_heads, *words(prior, *SMALL)]
    assert cli.main(command) == 0
    assert "learned before" in capsys.readouterr().err and not trained, "another run of the same photos"
    second = tmp_path / "outputs" / "second"
    assert (second / "identity.safetensors").read_bytes() == (first / "identity.safetensors").read_bytes()
    assert {"avatar.ply", "avatar.html"} <= {path.name for path in second.iterdir()}
    settings, prompts, rows = asked[0]
    assert torch.equal(rows, embedding.vectors)
    assert prompts[Bucket(Framing.HEAD, ViewDirection.FRONT)].positive.startswith("<id>, red, close-up")
    head = settings.cameras.head.probability
    others = settings.cameras.body.probability + settings.cameras.upper.probability + settings.cameras.lower.probability
    assert head / (head + others) == pytest.approx(0.35)

    assert cli.main(command) == 0
    assert "is finished" in capsys.readouterr().err
    add_photos(anna, [7])
    assert cli.main(["stage=embed", "name=second"]) == 1
    assert "made from other photos" in capsys.readouterr().err


def test_a_run_with_only_an_identity_takes_any_prompt_but_no_other_person(prior, anna, tmp_path, capsys):
    assert cli.main(["stage=embed", "name=anna", "photos=./anna", *words(prior)]) == 0
    add_photos(tmp_path / "bob", [8])
    assert cli.main(["name=anna", "stage=preview", "prompt=red"]) == 0
    assert cli.main(["name=anna", "photos=./bob", "stage=preview", "prompt=red"]) == 1
    assert "has no identity yet" in capsys.readouterr().err, "Bob's, and not the run's own"
    assert cli.main(["name=anna", "photos=./bob", "prompt=red", *SMALL]) == 1
    assert "photos (saved './anna', given './bob')" in capsys.readouterr().err
    assert cli.main(["name=anna", "prompt=wearing red", "stage=optimize", *SMALL]) == 0
    saved = (tmp_path / "outputs" / "anna" / "config.yaml").read_text()
    assert "prompt: wearing red" in saved and "photos: ./anna" in saved
    assert cli.main(["name=anna", "prompt=wearing blue", "stage=optimize"]) == 1
    assert "prompt (saved" in capsys.readouterr().err


def test_an_identity_file_serves_in_place_of_photos(prior, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_identity("anna.safetensors", IdentityEmbedding(torch.randn(3, 16), {"accessories": "hat"}))
    write_identity("wide.safetensors", IdentityEmbedding(torch.randn(3, 24), {}))
    assert cli.main(["stage=embed", "name=wide", "identity=wide.safetensors", *words(prior)]) == 1
    assert "identity=wide.safetensors was made for" in capsys.readouterr().err
    assert cli.main(["stage=preview", "name=a", "identity=anna.safetensors", *words(prior)]) == 0
    said = capsys.readouterr().err
    assert "“<id>, close-up of the head, front view”" in said, "without a prompt: the person as is"
    assert "does not read “wearing hat”" in said, "of the photos; more than this prior has room for"
    assert cli.main(["stage=optimize", "identity=anna.safetensors", "name=a", *words(prior, *SMALL)]) == 0


def test_a_preview_before_anything_was_learned_says_what_to_do(prior, anna, capsys):
    assert cli.main(["stage=preview", "name=a", "photos=./anna", "prompt=<id>", *words(prior)]) == 1
    assert "stage=embed learns it from photos=./anna" in capsys.readouterr().err


def lora_for(prior, file, seed=0):
    """A small LoRA for a layer of the prior's text encoder."""
    shapes = {name: value.shape for name, value in load_file(prior / "text_encoder" / "model.safetensors").items()}
    out, into = next(shape for name, shape in shapes.items() if name.endswith("encoder.layers.0.mlp.fc1.weight"))
    name, random = "lora_te_text_model_encoder_layers_0_mlp_fc1", torch.Generator().manual_seed(seed)
    down, up = torch.randn(1, into, generator=random), torch.randn(out, 1, generator=random)
    save_file({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}, file)
    return file


def test_a_lora_belongs_to_the_run_and_to_the_identity(prior, anna, tmp_path, capsys):
    one, other = (lora_for(prior, tmp_path / f"{seed}, x.safetensors", seed) for seed in range(2))
    command = ["stage=embed", "photos=./anna", *words(prior)]
    assert cli.main([*command, "name=plain"]) == 0
    assert cli.main([*command, "name=lora", f"prior.lora={one}:0.5"]) == 0
    assert "learned before" not in capsys.readouterr().err, "the LoRA changes what is learned"
    run = tmp_path / "outputs" / "lora"
    assert f"- {one}:0.5" in (run / "config.yaml").read_text()
    embedding = read_identity(run / "identity.safetensors")
    assert embedding.metadata["lora"].startswith("0, x.safetensors:0.5:")
    assert not torch.equal(
        embedding.vectors, read_identity(tmp_path / "outputs" / "plain" / "identity.safetensors").vectors
    )
    assert cli.main(["stage=embed", "name=lora", f"prior.lora=[{str(other)!r}]"]) == 1
    said = capsys.readouterr().err
    assert "is a run with another configuration: prior.lora (saved" in said and str(other) in said
    assert cli.main(["stage=embed", "name=lora", f"prior.lora={one}:0.5"]) == 0
    assert cli.main(["stage=embed", "name=lora"]) == 0, "the run's own is taken"
    assert "lora" not in (tmp_path / "outputs" / "plain" / "config.yaml").read_text().replace("lora: []", "")
    capsys.readouterr()
    given = f"identity={run / 'identity.safetensors'}"
    assert cli.main(["stage=embed", "name=elsewhere", given, *words(prior)]) == 0
    assert "learned with the LoRA files 0, x.safetensors:0.5" in capsys.readouterr().err
    assert cli.main(["stage=embed", "name=again", given, *words(prior), f"prior.lora={one}:0.5"]) == 0
    assert "learned with" not in capsys.readouterr().err


def test_the_key_is_all_that_an_identity_depends_on(prior, anna, tmp_path):
    loaded = load_prior(PriorConfig(name="custom", path=str(prior)))

    def key(seed=0, **options):
        settings = Settings(photos=str(anna), seed=seed)
        for name, value in ({"min_size": 8} | options).items():
            setattr(settings.embed, name, value)
        return embed.key_of(settings, loaded, embed.read_photos(settings, loaded))

    same = key()
    assert key(preview_every=5, checkpoint_every=7) == same
    changed = [key(seed=1), key(steps=3), key(tokens=2), key(lr=0.5), key(flips=False), key(fast=True)]
    add_photos(anna, [9])
    changed.append(key())
    assert len({same, *changed}) == 8


def test_a_run_is_not_said_to_have_an_identity_before_it_is_written(prior, anna, tmp_path, monkeypatch):
    """A process that is killed in between would never write it."""
    command = ["stage=embed", f"photos={anna}", "prompt=<id> in red", "name=a", f"prior={prior}", *STEPS]
    write = embed.write_identity

    def write_but_not_into_the_run(path, embedding):
        if path.name == IDENTITY_FILE:
            raise OSError(errno.ENOSPC, "full", str(path))
        write(path, embedding)

    for _ in ("learned", "cached"):
        monkeypatch.setattr(embed, "write_identity", write_but_not_into_the_run)
        assert cli.main(command) == 1
        assert not RunFolder("outputs/a").finished("embed")
    monkeypatch.setattr(embed, "write_identity", write)
    assert cli.main(command) == 0
    assert RunFolder("outputs/a").finished("embed") and (tmp_path / "outputs/a" / IDENTITY_FILE).exists()
