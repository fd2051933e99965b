"""Samples of other outfits, and what the identity learns from them."""

import pytest
import torch

from avatar_gs.identity import cross_init, outfits
from avatar_gs.identity.config import Clothes, EmbedConfig
from avatar_gs.identity.description import Description
from avatar_gs.identity.embedding import read_identity, write_identity
from avatar_gs.identity.outfits import OutfitSamples, other_outfits, outfit_error, sample_outfits
from avatar_gs.identity.photos import PhotoSet
from avatar_gs.prior.config import PromptStyle
from tests import tiny
from tests.identity.conftest import FAMILIES, WORDS

SOMEBODY = Description("a man", {"height": "very tall"}, {"top": "a red shirt", "bottoms": "red trousers"})


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(outfits, "OWN", 3)
    monkeypatch.setattr(outfits, "OTHERS", 4)
    monkeypatch.setattr(outfits, "STEPS", 2)


def photos():
    images = torch.rand(2, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3, generator=torch.Generator().manual_seed(0))
    return PhotoSet(images, ("0.png", "1.png"), ("0" * 64, "1" * 64))


def test_other_outfits_share_no_clothes_with_the_description():
    others = other_outfits(WORDS, SOMEBODY, 40, torch.Generator().manual_seed(0))
    assert {one.clothes["top"] for one in others} == {"a blue shirt", "a green shirt"}
    assert all("bottoms" not in one.clothes for one in others), "there are but the own ones"
    assert all((one.person, one.looks) == (SOMEBODY.person, SOMEBODY.looks) for one in others)
    bare = Description("a man", {}, {"top": "a red shirt"})
    dressed = sum("bottoms" in one.clothes for one in other_outfits(WORDS, bare, 400, torch.Generator().manual_seed(0)))
    assert dressed / 400 == pytest.approx(outfits.SOMETIMES, abs=0.08)


@pytest.mark.parametrize("style", list(PromptStyle))
def test_prompts_name_other_clothes_but_not_those_of_the_photos(priors, style):
    prior = priors["sd15"]
    found = sample_outfits(prior, SOMEBODY, style, seed=0)
    assert found.latents.shape == (7, prior.latent_channels, prior.latent_size, prior.latent_size)
    assert found.latents.isfinite().all()
    for index, (said, meant) in enumerate(zip(found.with_id, found.described, strict=True)):
        assert said.count("<id>") == 1 and "<id>" not in meant
        assert ("<id> wearing red trousers" in said) == (index < 3), "not everybody wears them: they are said"
        assert ("wearing a" in said) == (index >= 3)
        assert "a man with very tall wearing" in meant and ("a red shirt and red trousers" in meant) == (index < 3)
        called, person = (
            ("<id> wearing red trousers", SOMEBODY.whole()) if index < 3 else ("<id>", "a man with very tall")
        )
        assert meant == said.replace(called, person)
    assert torch.equal(sample_outfits(prior, SOMEBODY, style, seed=0).latents, found.latents)


@pytest.mark.parametrize("family", FAMILIES)
def test_equivalent_embeddings_have_no_error_and_a_gradient_step_reduces_it(priors, family):
    prior = priors[family]
    z = torch.randn(4, prior.latent_channels, 8, 8, generator=torch.Generator().manual_seed(1))
    rehearsals = OutfitSamples(z, ("a <id>, tall",) * 4, ("a red man, tall",) * 4)
    true = prior.token_embeddings("red man")

    def error(rows):
        return outfit_error(prior, rehearsals, rows, 4, torch.Generator().manual_seed(2))

    assert error(true).shape == (4,) and float(error(true).max()) < 1e-8
    rows = prior.token_embeddings("blue shirt").requires_grad_(True)
    before = error(rows).mean()
    (gradient,) = torch.autograd.grad(before, rows)
    step = rows.detach() - 1e-3 * gradient / gradient.norm()
    assert 0 < float(error(step).mean()) < float(before.detach())


def test_outfits_are_all_of_the_first_batches_and_then_half(priors, monkeypatch):
    asked = {"rehearsed": [], "photos": []}
    really, really_photos = cross_init.outfit_error, cross_init.photo_error

    def rehearsed(prior, rehearsals, rows, count, draws):
        asked["rehearsed"].append(count)
        return really(prior, rehearsals, rows, count, draws)

    def shown(prior, lessons, rows, count, weighting, draws):
        asked["photos"].append(count)
        return really_photos(prior, lessons, rows, count, weighting, draws)

    monkeypatch.setattr(cross_init, "outfit_error", rehearsed)
    monkeypatch.setattr(cross_init, "photo_error", shown)
    config = EmbedConfig(tokens=2, steps=5, batch=4, lr=0.05, clothes=Clothes.free)
    cross_init.train_identity(priors["sd15"], photos(), config)
    assert asked == {"rehearsed": [4, 4, 2, 2, 2], "photos": [2, 2, 2]}


@pytest.mark.parametrize(
    ("described", "worn"),
    [("a man wearing a blue shirt and red trousers", "red trousers"), ("a man wearing jeans", "")],
)
def test_accessories_are_in_every_caption_and_in_the_file(priors, tmp_path, described, worn):
    """So that the embeddings need not contain them, and a prompt without clothes can name them."""
    prior, config = priors["sd15"], EmbedConfig(tokens=2, steps=1, batch=2, lr=0.05, describe=described)
    config = config.resolved(PromptStyle.mini)
    lessons = cross_init.prepare(prior, photos(), config, PromptStyle.mini, 0)
    assert lessons.accessories == worn
    asked, really = [], prior.encode_prompts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prior, "encode_prompts", lambda said, rows=None: asked.extend(said) or really(said, rows))
        rows = prior.token_embeddings("red man")
        cross_init.photo_error(prior, lessons, rows, 4, config.weighting, torch.Generator().manual_seed(0))
    assert len(asked) == 4 and all(("<id> wearing red trousers" in prompt) == bool(worn) for prompt in asked)
    write_identity(tmp_path / "a.safetensors", cross_init.train_identity(prior, photos(), config))
    assert read_identity(tmp_path / "a.safetensors").accessories == worn


def test_the_file_contains_the_description(priors, tmp_path):
    config = EmbedConfig(tokens=2, steps=1, batch=2, lr=0.05, describe="a tall man wearing a blue shirt")
    found = cross_init.train_identity(priors["sd15"], photos(), config)
    write_identity(tmp_path / "a.safetensors", found)
    metadata = read_identity(tmp_path / "a.safetensors").metadata
    assert metadata["description"] == "a tall man wearing a blue shirt" and metadata["clothes"] == "free"
    bound = EmbedConfig(tokens=2, steps=1, batch=2, lr=0.05, clothes=Clothes.bound)
    assert "description" not in cross_init.train_identity(priors["sd15"], photos(), bound).metadata
