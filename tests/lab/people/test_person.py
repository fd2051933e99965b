"""Random people and their captions."""

import re

import numpy as np
import pytest

from avatar_gs.lab.people import captions, person, vocabulary
from avatar_gs.lab.people.person import (
    NUM_INDIVIDUALS,
    held_out,
    individuals,
    random_person,
    redressed,
    training_person,
)
from avatar_gs.lab.world import vocabulary as mini

CHANGES = (
    "local_change:l-eye-scale-incr",
    "local_change:r-eye-scale-incr",
    "local_change:nose-hump-incr",
    "local_change:head-trans-up",
    "local_change:measure-hips-circ-incr",
)
COLOURS = set(vocabulary.CLOTHES) | set(vocabulary.HAIR_COLOURS) | {"gray", "blond"}


def people(count, make=random_person):
    rng = np.random.default_rng(0)
    return [make(rng, CHANGES) for _ in range(count)]


def test_every_word_of_a_caption_is_in_the_vocabulary():
    known, rng = set(vocabulary.words()), np.random.default_rng(1)
    for someone in people(400):
        for text in (captions.caption(someone, rng), captions.negative_caption(rng)):
            for framing in vocabulary.FRAMING_WORDS:
                said = re.findall("[a-z]+", (text + captions.view_suffix(framing, "side")).lower())
                assert set(said) <= known, set(said) - known


def test_the_vocabulary_contains_that_of_the_mini_world():
    assert set(mini.words()) - {"boots"} <= set(vocabulary.words()) | {"boots"}


def test_captions_with_mention_1_contain_the_colours_of_all_clothes():
    rng = np.random.default_rng(2)
    for someone in people(200):
        said = captions.caption(someone, rng, mention=1.0).replace("gray", "grey").replace("blond ", "blonde ")
        outfit = someone.outfit
        worn = [outfit.shoes_colour, outfit.hat, captions.top_facts(outfit.top)[1]]
        worn += [] if outfit.is_dress else [captions.bottoms_facts(outfit.bottoms)[1]]
        assert all(colour in said for colour in worn if colour), (worn, said)
        assert ("glasses" in said) == outfit.glasses
        assert ("dress" in said) == outfit.is_dress


def test_a_name_alone_stands_for_a_person_in_their_usual_clothes_only():
    rng, known = np.random.default_rng(3), individuals(CHANGES)[0]
    own = [captions.caption(known, rng) for _ in range(40)]
    assert all(known.name in text for text in own)
    assert any(re.fullmatch(f"(a|an)?.*{known.name}", text) for text in own), "often the name is all"
    other = redressed(known, rng)
    for _ in range(40):
        said = captions.caption(other, rng, own_outfit=False)
        assert known.name in said and any(colour in said for colour in COLOURS)


def test_individuals_are_fixed_and_have_distinct_names():
    known = individuals(CHANGES)
    assert len({someone.name for someone in known}) == len(known) == NUM_INDIVIDUALS
    individuals.cache_clear()
    again = individuals(CHANGES)
    assert [someone.outfit for someone in again] == [someone.outfit for someone in known]
    assert not any(held_out(someone) for someone in known)


def test_a_tenth_of_the_combinations_is_held_out():
    fraction = np.mean([held_out(someone) for someone in people(2000)])
    assert 0.07 < fraction < 0.13
    assert not any(held_out(someone) for someone in people(200, training_person))


def test_faces_are_nearly_symmetric_and_heads_stay_where_they_are():
    for someone in people(100):
        assert "local_change:head-trans-up" not in someone.changes
        assert "local_change:measure-hips-circ-incr" not in someone.changes
        left, right = (someone.changes.get(f"local_change:{side}-eye-scale-incr", 0.0) for side in "lr")
        assert left == right == 0 or 0.8 < right / left < 1.2


def test_hair_fits_under_the_hat():
    hatted = [someone for someone in people(500) if someone.outfit.hat]
    assert len(hatted) > 20
    assert {someone.hair for someone in hatted} <= {"", "short03", "short04"}


@pytest.mark.parametrize("sex", person.SEXES)
def test_clothes_and_hair_fit_the_sex(sex):
    for someone in people(300):
        if someone.sex != sex:
            continue
        garbs = [someone.outfit.top, someone.outfit.bottoms]
        assert all(vocabulary.SUITS[garb.item].sex == sex for garb in garbs if garb.is_suit)
        assert not someone.hair or someone.outfit.hat or sex in vocabulary.HAIR_STYLES[someone.hair].sexes
        assert person.SKINS[someone.skin][0] == person.SKINS[someone.second_skin][0] == sex
