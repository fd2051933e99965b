"""What is said about an image of a person: a small grammar over the vocabulary."""

import numpy as np

from avatar_gs.lab.people.person import Garb, Person
from avatar_gs.lab.people.vocabulary import (
    CUT_TOPS,
    FRAMING_WORDS,
    HAIR_STYLES,
    NEGATIVE_WORDS,
    SHOES,
    SUITS,
    SYNONYMS,
    VIEW_WORDS,
)

OPENINGS = ("", "", "a photo of ", "a picture of ", "an image of ")
MENTION = 0.88
"""Probability that a caption mentions an attribute that it could mention."""


def view_suffix(framing: str, view: str) -> str:
    """The words for framing and view that captions, and prompts for this prior, end with."""
    return f", {FRAMING_WORDS[framing]}, {VIEW_WORDS[view]}"


def caption(person: Person, rng: np.random.Generator, mention: float = MENTION, own_outfit: bool = True) -> str:
    """One description of a person, without framing and view.

    A named individual is often called by the name alone, but not in other clothes than their own: those are then all
    mentioned.
    """
    subject = person.name or _subject(person, rng, mention)
    if person.name and not own_outfit:
        mention = 1.0
    elif person.name and rng.random() < 0.4:
        return _pick(rng, OPENINGS) + subject
    phrases = [_clothes(person, rng, mention)]
    if not person.name:
        phrases.insert(int(rng.random() < 0.25), _looks(person, rng, mention))
    return _pick(rng, OPENINGS) + subject + "".join(phrases)


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


def with_article(words: str) -> str:
    """ "an orange hat", "a blue hat"."""
    return f"an {words}" if words[0] in "aeio" else f"a {words}"


def _subject(person: Person, rng: np.random.Generator, mention: float) -> str:
    words = []
    if rng.random() < 0.6 * mention:
        words.append(person.age_word)
    if person.build_word and rng.random() < mention:
        words.append(person.build_word)
    gender = {"f": "woman", "m": "man"}[person.sex] if rng.random() < mention else "person"
    return with_article(" ".join([*words, _say(gender, rng)]))


def _looks(person: Person, rng: np.random.Generator, mention: float) -> str:
    parts = []
    if not person.hair:
        parts.append("a bald head")
    elif rng.random() < mention + 0.06:
        parts.append(_hair(person, rng))
    if rng.random() < 0.5:
        parts.append(f"{person.skin_word} skin")
    if rng.random() < 0.3:
        parts.reverse()
    return " with " + " and ".join(parts) if parts else ""


def _hair(person: Person, rng: np.random.Generator) -> str:
    colour, style = _say(person.hair_colour, rng), HAIR_STYLES[person.hair]
    word = style.words[0]
    if word in ("bob", "ponytail") and rng.random() < 0.6:
        return f"{with_article(colour)} {word}"
    if word == "braided" and rng.random() < 0.6:
        return f"braided {colour} hair" if rng.random() < 0.5 else f"{with_article(colour)} braid"
    length = "long" if style.is_long else "short"
    return f"{length} {colour} hair" if rng.random() < 0.7 else f"{colour} hair"


def _clothes(person: Person, rng: np.random.Generator, mention: float) -> str:
    outfit, items = person.outfit, []
    if outfit.is_dress:
        items.append(_dress(person, rng))
    else:
        if rng.random() < mention + 0.06:
            items.append(_top(outfit.top, rng))
        if rng.random() < mention + 0.06:
            word, colour = bottoms_facts(outfit.bottoms)
            said = f"{_say(colour, rng)} {_say(word, rng)}"
            items.append(with_article(said) if word.endswith("skirt") else said)
    if outfit.shoes_colour and rng.random() < mention:
        items.append(f"{_say(outfit.shoes_colour, rng)} {_say(SHOES[outfit.shoes], rng)}")
    if outfit.hat and rng.random() < mention + 0.06:
        items.append(with_article(f"{_say(outfit.hat, rng)} hat"))
    if outfit.glasses and rng.random() < mention + 0.06:
        items.append("glasses")
    if rng.random() < 0.3:
        items = [items[index] for index in rng.permutation(len(items))]
    if not items:
        return ""
    verb = _pick(rng, (" in ", " wearing ", " wearing "))
    if len(items) == 1:
        return verb + items[0]
    if rng.random() < 0.5:
        return verb + ", ".join(items[:-1]) + " and " + items[-1]
    return verb + items[0] + " and " + ", ".join(items[1:])


def _dress(person: Person, rng: np.random.Generator) -> str:
    top, skirt = person.outfit.top, person.outfit.bottoms.item
    length = {"short skirt": "short ", "long skirt": "long "}.get(skirt, "") if rng.random() < 0.5 else ""
    striped = "striped " if top.stripe else ""
    said = with_article(f"{length}{striped}{_say(top.colour, rng)} dress")
    return said + _sleeves(CUT_TOPS[top.item], rng)


def _top(garb: Garb, rng: np.random.Generator) -> str:
    word, colour, striped, long_sleeves = top_facts(garb)
    colours = _say(colour, rng)
    if garb.stripe_colour and rng.random() < 0.5:
        colours = f"{colours} and {_say(garb.stripe_colour, rng)} striped"
    elif striped:
        colours = f"striped {colours}"
    return with_article(f"{colours} {_say(word, rng)}") + _sleeves(long_sleeves, rng)


def _sleeves(long_sleeves: bool, rng: np.random.Generator) -> str:
    return f" with {'long' if long_sleeves else 'short'} sleeves" if rng.random() < 0.25 else ""


def _say(word: str, rng: np.random.Generator) -> str:
    return _pick(rng, SYNONYMS[word]) if word in SYNONYMS else word


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]
