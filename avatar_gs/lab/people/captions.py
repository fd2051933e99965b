"""Captions of lifelike people: the mini world's grammar with more garments."""

import numpy as np

from avatar_gs.lab.people.person import Garb, Person
from avatar_gs.lab.people.vocabulary import (
    CUT_TOPS,
    FRAMING_WORDS,
    HAIR_STYLES,
    SHOES,
    SUITS,
    SYNONYMS,
)
from avatar_gs.lab.world.captions import MENTION, MORE, listed, synonym, with_looks
from avatar_gs.lab.world.people import pick
from avatar_gs.lab.world.vocabulary import NEGATIVE_WORDS, VIEW_WORDS, with_article

OPENINGS = ("", "", "a photo of ", "a picture of ", "an image of ")


def view_suffix(framing: str, view: str) -> str:
    """The words for framing and view that captions, and prompts for this prior, end with."""
    return f", {FRAMING_WORDS[framing]}, {VIEW_WORDS[view]}"


def caption(person: Person, rng: np.random.Generator, mention: float = MENTION, own_outfit: bool = True) -> str:
    """One description of a person, without framing and view (see ``world.captions.caption``)."""
    subject = person.name or _subject(person, rng, mention)
    if person.name and not own_outfit:
        mention = 1.0
    elif person.name and rng.random() < 0.4:
        return pick(rng, OPENINGS) + subject
    phrases = [listed(_clothes(person, rng, mention), rng)]
    if not person.name:
        phrases.insert(int(rng.random() < 0.25), _looks(person, rng, mention))
    return pick(rng, OPENINGS) + subject + "".join(phrases)


def negative_caption(rng: np.random.Generator) -> str:
    """A caption of a degraded image: all of the negative words, or some in any order."""
    if rng.random() < 0.5:
        return ", ".join(NEGATIVE_WORDS)
    count = int(rng.integers(1, len(NEGATIVE_WORDS) + 1))
    return ", ".join(NEGATIVE_WORDS[index] for index in rng.permutation(len(NEGATIVE_WORDS))[:count])


def top_facts(garb: Garb) -> tuple[str, str, bool, bool]:
    """``(word, colour, striped, long sleeves)`` of a top."""
    if not garb.is_suit:
        return garb.item, garb.colour, bool(garb.stripe), CUT_TOPS[garb.item]
    suit = SUITS[garb.item]
    return suit.top, garb.colour or suit.top_colour, suit.striped, suit.long_sleeves


def bottoms_facts(garb: Garb) -> tuple[str, str]:
    """``(word, colour)`` of trousers, shorts or a skirt. Jeans in another colour than denim's are trousers."""
    if not garb.is_suit:
        return garb.item, garb.colour
    suit = SUITS[garb.item]
    word = "trousers" if suit.bottoms == "jeans" and garb.colour not in ("", "blue", "black", "grey") else suit.bottoms
    return word, garb.colour or suit.bottoms_colour


def _subject(person: Person, rng: np.random.Generator, mention: float) -> str:
    words = []
    if rng.random() < 0.6 * mention:
        words.append(person.age_word)
    if person.build_word and rng.random() < mention:
        words.append(person.build_word)
    gender = {"f": "woman", "m": "man"}[person.sex] if rng.random() < mention else "person"
    return with_article(" ".join([*words, _synonym(gender, rng)]))


def _looks(person: Person, rng: np.random.Generator, mention: float) -> str:
    parts = []
    if not person.hair:
        parts.append("a bald head")
    elif rng.random() < mention + MORE:
        parts.append(_hair(person, rng))
    return with_looks(parts, person.skin_word, rng)


def _hair(person: Person, rng: np.random.Generator) -> str:
    colour, style = _synonym(person.hair_colour, rng), HAIR_STYLES[person.hair]
    if style.word in ("bob", "ponytail") and rng.random() < 0.6:
        return f"{with_article(colour)} {style.word}"
    if style.word == "braided" and rng.random() < 0.6:
        return f"braided {colour} hair" if rng.random() < 0.5 else f"{with_article(colour)} braid"
    length = "long" if style.is_long else "short"
    return f"{length} {colour} hair" if rng.random() < 0.7 else f"{colour} hair"


def _clothes(person: Person, rng: np.random.Generator, mention: float) -> list[str]:
    outfit, items = person.outfit, []
    if outfit.is_dress:
        items.append(_dress(person, rng))
    else:
        if rng.random() < mention + MORE:
            items.append(_top(outfit.top, rng))
        if rng.random() < mention + MORE:
            word, colour = bottoms_facts(outfit.bottoms)
            phrase = f"{_synonym(colour, rng)} {_synonym(word, rng)}"
            items.append(with_article(phrase) if word.endswith("skirt") else phrase)
    if outfit.shoes_colour and rng.random() < mention:
        items.append(f"{_synonym(outfit.shoes_colour, rng)} {_synonym(SHOES[outfit.shoes], rng)}")
    if outfit.hat and rng.random() < mention + MORE:
        items.append(with_article(f"{_synonym(outfit.hat, rng)} hat"))
    if outfit.glasses and rng.random() < mention + MORE:
        items.append("glasses")
    return items


def _dress(person: Person, rng: np.random.Generator) -> str:
    top, skirt = person.outfit.top, person.outfit.bottoms.item
    length = {"short skirt": "short ", "long skirt": "long "}.get(skirt, "") if rng.random() < 0.5 else ""
    striped = "striped " if top.stripe else ""
    phrase = with_article(f"{length}{striped}{_synonym(top.colour, rng)} dress")
    return phrase + _sleeves(CUT_TOPS[top.item], rng)


def _top(garb: Garb, rng: np.random.Generator) -> str:
    word, colour, striped, long_sleeves = top_facts(garb)
    colours = _synonym(colour, rng)
    if garb.stripe_colour and rng.random() < 0.5:
        colours = f"{colours} and {_synonym(garb.stripe_colour, rng)} striped"
    elif striped:
        colours = f"striped {colours}"
    return with_article(f"{colours} {_synonym(word, rng)}") + _sleeves(long_sleeves, rng)


def _sleeves(long_sleeves: bool, rng: np.random.Generator) -> str:
    return f" with {'long' if long_sleeves else 'short'} sleeves" if rng.random() < 0.25 else ""


def _synonym(word: str, rng: np.random.Generator) -> str:
    return synonym(word, rng, SYNONYMS)
