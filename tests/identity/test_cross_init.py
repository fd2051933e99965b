"""The training of an identity, on Stable Diffusion's real classes in miniature: epsilon (sd15) and v (sd21)."""

import copy

import pytest
import torch

from avatar_gs.core.errors import UserError
from avatar_gs.core.runs import IDENTITY_CHECKPOINT
from avatar_gs.identity import cross_init, denoising, description
from avatar_gs.identity.config import RECIPES, Clothes, EmbedConfig, IdentityMethod
from avatar_gs.identity.description import templates
from avatar_gs.identity.photos import PhotoSet
from avatar_gs.prior.config import PromptStyle
from avatar_gs.protocols import IdentityPrior
from tests import tiny
from tests.identity.conftest import FAMILIES, NAMES


def photos(count=3):
    images = torch.rand(count, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3, generator=torch.Generator().manual_seed(0))
    return PhotoSet(images, tuple(f"{i}.png" for i in range(count)), tuple(f"{i:064x}" for i in range(count)))


def small(**changes):
    return EmbedConfig(**({"tokens": 2, "steps": 4, "batch": 2, "lr": 0.05, "clothes": Clothes.bound} | changes))


def with_new_tokens(prior, rows):
    """The usual method: new tokens in a larger embedding. Returns text -> hidden states."""
    tokenizer, encoder = copy.deepcopy(prior.tokenizer), copy.deepcopy(prior.text_encoder)
    names = [f"<new{index}>" for index in range(len(rows))]
    tokenizer.add_tokens(names)
    encoder.resize_token_embeddings(len(tokenizer))
    with torch.no_grad():
        encoder.get_input_embeddings().weight[-len(rows) :] = rows

    def encode(text):
        ids = tokenizer(
            text.replace("<id>", " ".join(names)),
            padding="max_length",
            max_length=tiny.TOKEN_LENGTH,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return encoder(ids)[0]

    return encode


@pytest.mark.parametrize("family", ["sd15", "sd21"])
def test_initial_embeddings_are_the_outputs_for_the_mean_name(priors, family):
    prior = priors[family]
    weight = prior.text_encoder.get_input_embeddings().weight
    ids = [prior.tokenizer(name, add_special_tokens=False).input_ids for name in NAMES]
    first = weight[[tokens[0] for tokens in ids]].mean(0)
    second = weight[[tokens[1] for tokens in ids[:3]]].mean(0)  # "body" has no second token
    with torch.no_grad():
        expected = with_new_tokens(prior, torch.stack([first, second]))("<id>")[0, 1:3]
        repeated = with_new_tokens(prior, torch.stack([first, second, first]))("<id>")[0, 1:4]
    torch.testing.assert_close(cross_init.initial_embeddings(prior, small()), expected)
    torch.testing.assert_close(cross_init.initial_embeddings(prior, small(tokens=3)), repeated)
    assert (repeated[0] - repeated[2]).abs().max() > 1e-3, "a repetition begins elsewhere"
    assert isinstance(prior, IdentityPrior)


def test_textual_inversion_starts_at_a_word_without_regularisation(priors):
    prior = priors["sd15"]
    word = prior.token_embeddings("person")
    plain = small(method=IdentityMethod.textual_inversion, regularisation=1e6)
    rows = cross_init.initial_embeddings(prior, plain)
    torch.testing.assert_close(rows, word[:2])
    held = cross_init.train_identity(prior, photos(), small(regularisation=1e6, lr=1e-3)).vectors
    free = cross_init.train_identity(prior, photos(), plain).vectors
    assert (held - cross_init.initial_embeddings(prior, small())).norm(dim=-1).max() < 0.05
    assert (free - rows).norm(dim=-1).min() > 0.2


@pytest.mark.parametrize("family", FAMILIES)
def test_training_changes_the_embeddings_only(priors, family):
    prior = priors[family]
    networks = (prior.text_encoder, prior.unet, prior.vae, prior.controlnet)
    before = [{name: value.clone() for name, value in network.state_dict().items()} for network in networks]
    words = prior.encode_prompts(["a red man"])
    seen = []
    embedding = cross_init.train_identity(prior, photos(), small(), on_preview=lambda state: seen.append(state.step))
    start = cross_init.initial_embeddings(prior, small())
    assert embedding.vectors.shape == start.shape and embedding.vectors.isfinite().all()
    assert ((embedding.vectors - start).norm(dim=-1) > 0.05).all()
    for network, values in zip(networks, before, strict=True):
        assert all(torch.equal(value, values[name]) for name, value in network.state_dict().items())
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(prior.encode_prompts(["a red man"]), words)
    assert prior.identity is None and seen == [4]


def test_training_lowers_the_loss_on_its_photos(priors):
    prior, config = priors["sd15"], small(steps=25, batch=4, lr=0.1, flips=False)
    latents = cross_init.encode_photos(prior, photos(1).images, flips=False)
    t = denoising.stratified_times(torch.full((1000,), 0.001), 32, torch.Generator().manual_seed(5))
    noise = torch.randn(32, 4, 8, 8, generator=torch.Generator().manual_seed(6))

    def error(rows):
        with torch.no_grad():
            cond = prior.encode_prompts(["<id>"] * 32, rows)
            return float(denoising.prediction_error(prior, latents.expand(32, -1, -1, -1), t, noise, cond).mean())

    trained = cross_init.train_identity(prior, photos(1), config).vectors
    assert error(trained) < error(cross_init.initial_embeddings(prior, config))


def test_an_interrupted_training_ends_with_the_same_bytes(priors, tmp_path):
    prior, config = priors["sd15"], small(preview_every=3, checkpoint_every=2)
    whole = cross_init.train_identity(prior, photos(), config, 3)

    def stop(state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cross_init.train_identity(prior, photos(), config, 3, tmp_path, key="a", on_preview=stop)
    assert (tmp_path / IDENTITY_CHECKPOINT).exists()
    sorting = 2 * len(photos().images) * len(templates(PromptStyle.mini)) * len(description.SORTING_TIMES)
    calls, losses = prior.calls, []
    resumed = cross_init.train_identity(
        prior, photos(), config, 3, tmp_path, key="a", on_preview=lambda state: losses.append(len(state.losses))
    )
    assert prior.calls - calls == sorting + 2 * 2, "two of four steps were left"
    assert losses == [3, 4], "the preview that was interrupted is drawn again"
    assert torch.equal(resumed.vectors, whole.vectors)
    calls = prior.calls
    cross_init.train_identity(prior, photos(), config, 3, tmp_path, key="other photos")
    assert prior.calls - calls == sorting + 4 * 2, "another training's checkpoint is not gone on from"


def test_randomness_is_the_seeds(priors):
    train = lambda seed: cross_init.train_identity(priors["sd15"], photos(), small(steps=2), seed).vectors
    assert torch.equal(train(1), train(1))
    assert not torch.equal(train(1), train(2))


def test_flips_are_mirror_images(priors):
    prior, images = priors["sd15"], photos().images
    both = cross_init.encode_photos(prior, images, flips=True)
    torch.testing.assert_close(both[3:], prior.encode_images(images.flip(2)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both[:3], cross_init.encode_photos(prior, images, flips=False))


def test_batches_cover_all_photos():
    draws = torch.Generator().manual_seed(0)
    assert sorted(cross_init.pick_photos(5, 5, draws).tolist()) == [0, 1, 2, 3, 4]
    counts = cross_init.pick_photos(3, 8, draws).bincount(minlength=3)
    assert sorted(counts.tolist()) == [2, 3, 3]


def test_a_loss_that_is_not_finite_is_named(priors):
    broken = PhotoSet(torch.full((1, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3), torch.nan), ("a.png",), ("0",))
    with pytest.raises(UserError, match=r"not finite.*embed\.lr"):
        cross_init.train_identity(priors["sd15"], broken, small())


@pytest.mark.parametrize("style", list(PromptStyle))
def test_templates_name_the_person_once_in_three_framings(style):
    phrases = [phrase for group in templates(style) for phrase in group]
    assert len(set(phrases)) >= 81
    assert all(phrase.count("{}") == 1 for phrase in phrases)
    words = ("head", "upper body", "full body") if style is PromptStyle.mini else ("face", "portrait", "full body")
    for word in words:
        assert sum(word in phrase for phrase in phrases) >= 10


def test_given_values_override_fast_and_fast_overrides_the_recipe():
    sd = RECIPES[PromptStyle.sd, Clothes.bound]
    assert (sd.tokens, sd.steps, sd.batch, sd.lr) == (2, 320, 8, 5e-3)
    own, fast = EmbedConfig().resolved(PromptStyle.sd), EmbedConfig(fast=True).resolved(PromptStyle.sd)
    assert (own.steps, own.lr) == (320, 5e-3)
    assert fast.steps == 25 and fast.lr > own.lr and fast.tokens == 2
    given = EmbedConfig(fast=True, steps=7, tokens=3).resolved(PromptStyle.sd)
    assert (given.steps, given.tokens, given.lr) == (7, 3, fast.lr)


def test_clothes_are_free_where_that_was_tried_or_words_for_them_are_given():
    textual_inversion = EmbedConfig(method=IdentityMethod.textual_inversion)
    for config in (EmbedConfig(), EmbedConfig(fast=True), textual_inversion):
        assert config.resolved(PromptStyle.sd).clothes is Clothes.bound
    assert EmbedConfig().resolved(PromptStyle.mini).clothes is Clothes.free
    assert EmbedConfig(fast=True).resolved(PromptStyle.mini).clothes is Clothes.bound
    assert textual_inversion.resolved(PromptStyle.mini).clothes is Clothes.bound
    assert EmbedConfig(describe="a man wearing a hat").resolved(PromptStyle.sd).clothes is Clothes.free
    assert EmbedConfig(clothes=Clothes.bound).resolved(PromptStyle.mini).clothes is Clothes.bound


@pytest.mark.parametrize("text", ["a man", "wearing a hat", " wearing a hat", "a man wearing "])
def test_a_description_names_a_person_and_their_clothes(text):
    with pytest.raises(UserError, match=r"embed\.describe="):
        EmbedConfig(describe=text)


@pytest.mark.parametrize("wrong", [{"tokens": -1}, {"tokens": 99}, {"lr": -1.0}, {"batch": 1000}, {"min_size": 0}])
def test_impossible_settings_are_named(wrong):
    with pytest.raises(UserError, match=f"embed.{next(iter(wrong))}="):
        EmbedConfig(**wrong)


def test_training_out_of_memory_continues_with_less(priors, caplog):
    """The result is the same as with less memory from the start."""
    chunked, cramped = copy.deepcopy(priors["sd15"]), copy.deepcopy(priors["sd15"])
    chunked.codec.encode_chunk = chunked.denoiser.predict_chunk = 1
    call = cramped.denoiser.call

    def no_memory(z_t, *others):
        if len(z_t) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return call(z_t, *others)

    cramped.denoiser.call = no_memory
    expected, found = (cross_init.train_identity(prior, photos(), small(), seed=1) for prior in (chunked, cramped))
    torch.testing.assert_close(found.vectors, expected.vectors, atol=1e-5, rtol=1e-4)
    lines = [record.getMessage() for record in caplog.records if "out of memory" in record.getMessage()]
    assert len(lines) == 1 and "prior.encode_chunk=1 prior.predict_chunk=1" in lines[0]
