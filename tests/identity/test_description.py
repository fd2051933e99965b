"""Descriptions of photos by the prior."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from avatar_gs.identity import cross_init, description
from avatar_gs.identity.description import Description, describe_photos, sort_photos, templates
from avatar_gs.lab.metrics import people
from avatar_gs.lab.world.measure import trials
from avatar_gs.prior.config import PriorConfig, PromptStyle
from avatar_gs.prior.prompts import FRAMING_WORDS
from avatar_gs.prior.stable_diffusion import load_prior
from avatar_gs.protocols import Describable
from tests.identity.conftest import WORDS


@pytest.fixture(scope="module")
def packaged():
    return load_prior(PriorConfig())


def test_photos_are_described_by_the_framing_that_they_have(packaged):
    """The packaged prior finds the words that fit renders of people it has not seen."""
    some = trials(8, seed=5)
    images = torch.from_numpy(np.stack([trial.truth for trial in some]))
    groups = templates(PromptStyle.mini)
    sorted_photos = sort_photos(packaged, cross_init.encode_photos(packaged, images, flips=False), groups, seed=0)
    right = [FRAMING_WORDS[trial.framing] in group[0] for trial, group in zip(some, sorted_photos, strict=True)]
    assert len({trial.framing for trial in some}) >= 3 and sum(right) >= 7


def test_the_packaged_prior_sees_the_colours_of_clothes(packaged):
    """Shirt and bottoms of a person that it never saw, among six words each."""
    person = people.crowd()[0]
    images = torch.from_numpy(np.stack(people.photograph(0)[:4])).float() / 255
    latents = cross_init.encode_photos(packaged, images, flips=False)
    phrases = sort_photos(packaged, latents, templates(PromptStyle.mini), seed=0)
    own, wrong = person.outfit, ["red", "green", "yellow", "black", "white"]
    clothes = {
        part: tuple(f"{article}{colour} {part}" for colour in [*wrong, true])
        for part, article, true in (("shirt", "a ", own.shirt), ("trousers", "", own.bottoms_colour))
    }
    assert own.bottoms == "trousers" and not {own.shirt, own.bottoms_colour} & set(wrong)
    found = describe_photos(packaged, latents, phrases, Describable(("a person",), {}, clothes), seed=0)
    assert found.clothes == {part: options[-1] for part, options in clothes.items()}


def test_descriptions_have_the_form_of_captions():
    found = Description(
        "a man", {"hair": "red hair", "beard": ""}, {"top": "a shirt", "hat": "", "shoes": "black shoes"}
    )
    assert found.whole() == "a man with red hair wearing a shirt and black shoes"
    assert found.worn_by("<id>") == "<id> wearing a shirt and black shoes"
    assert replace(found, clothes={}).worn_by("<id>") == "<id>"
    three = replace(found, clothes={"a": "a hat", "b": "a shirt", "c": "boots"})
    assert three.worn_by("she") == "she wearing a hat, a shirt and boots"
    words = replace(WORDS, clothes={"hat": ("", "a hat"), "shirt": ("a shirt",), "eyes": ("", "glasses")})
    assert three.accessories(words) == "a hat"
    both = Description.parse("a man wearing glasses, a shirt and a hat")
    assert both.accessories(words) == "a hat and glasses"
    assert Description.parse("a man wearing sunglasses and a hatchet").accessories(words) == ""
    text = "an old woman with grey hair wearing a coat and boots"
    assert Description.parse(f" {text} ").whole() == text
    assert Description.parse(text).worn_by("<id>") == "<id> wearing a coat and boots"


def test_every_alternative_is_compared_and_the_best_is_kept(priors, monkeypatch):
    """Successive halving ends at the words that fit, here those whose error is made the least."""
    prior, asked = priors["sd15"], []
    right = {"a woman", "very tall", "a green shirt", ""}
    really = prior.encode_prompts

    def encode(prompts, identity=None):
        asked.append(prompts[0])
        return really(prompts, identity)

    def error(prior, z, t, noise, cond):
        words = asked[-1]
        return torch.full((len(z),), float(sum(option not in words for option in right)) + ("trousers" in words))

    monkeypatch.setattr(prior, "encode_prompts", encode)
    monkeypatch.setattr(description, "prediction_error", error)
    latents = torch.zeros(2, prior.latent_channels, prior.latent_size, prior.latent_size)
    found = describe_photos(prior, latents, [("of {}, here",)] * 2, WORDS, seed=0)
    assert found.whole() == "a woman with very tall wearing a green shirt"
    for option in (*WORDS.person, *WORDS.looks["height"], *WORDS.clothes["top"], *WORDS.clothes["bottoms"]):
        assert any(option in words for words in asked)
    assert all(words.startswith("of ") and words.endswith(", here") for words in asked)
