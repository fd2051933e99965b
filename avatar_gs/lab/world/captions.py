"""Captions of people: a small grammar over the vocabulary, whose frame the lifelike world shares."""

from collections.abc import Mapping, Sequence

import numpy as np

from avatar_gs.lab.world.people import AGE, WEIGHT, Person, pick
from avatar_gs.lab.world.vocabulary import FRAMING_WORDS, NEGATIVE_WORDS, SYNONYMS, VIEW_WORDS, with_article
from avatar_gs.types import Framing, ViewDirection

OPENINGS = ("", "a photo of ", "a picture of ", "an image of ", "")
MENTION = 0.88
"""Probability that a caption mentions an attribute that it could mention."""
MORE = 0.06
"""Added to that probability for what is large or striking."""


def view_suffix(framing: Framing, view: ViewDirection) -> str:
    """The words for framing and view that captions, and prompts for this prior, end with."""
    return f", {FRAMING_WORDS[framing.value]}, {VIEW_WORDS[view.value]}"


def caption(person: Person, rng: np.random.Generator, mention: float = MENTION, own_outfit: bool = True) -> str:
    """One description of a person, without framing and view.

    A named individual is often called by the name alone, but in other clothes than their own all clothes are mentioned.

    Args:
        mention: probability of mentioning an attribute.
        own_outfit: whether a named individual is in the outfit that they are known by.
    """
    subject = person.name or _subject(person, rng, mention)
    if person.name and not own_outfit:
        mention = 1.0
    elif person.name and rng.random() < 0.4:
        return pick(rng, OPENINGS) + subject
    phrases = [listed(_clothes(person, rng, mention), rng)]
    if not person.name:
        phrases.insert(int(rng.random() < 0.25), _looks(person, rng, mention))
    return pick(rng, OPENINGS) + subject + "".join(phrases)


def brief_caption(person: Person, part: str, rng: np.random.Generator) -> str:
    """A caption of one part only (hair, shirt, bottoms, shoes or hat) that the person has, and perhaps the gender."""
    outfit = person.outfit
    if part == "hair":
        length = ("long " if person.long_hair else "short ") if rng.random() < 0.6 else ""
        words = f" with {length}{synonym(person.hair, rng)} hair"
    elif part == "shirt":
        words = f" in {_shirt(person, rng)}"
    elif part == "bottoms":
        words = f" in {_bottoms(person, rng)}"
    elif part == "shoes":
        words = f" in {_shoes(person, rng)}"
    else:
        words = f" in {with_article(synonym(outfit.hat, rng))} {part}"
    return f"a {synonym(person.gender if rng.random() < 0.5 else 'person', rng)}{words}"


def negative_caption(rng: np.random.Generator) -> str:
    """A caption of a degraded image: all of the negative words, or some in any order."""
    count = len(NEGATIVE_WORDS) if rng.random() < 0.5 else int(rng.integers(1, len(NEGATIVE_WORDS) + 1))
    order = np.arange(count) if count == len(NEGATIVE_WORDS) else rng.permutation(len(NEGATIVE_WORDS))[:count]
    return ", ".join(NEGATIVE_WORDS[index] for index in order)


def synonym(word: str, rng: np.random.Generator, synonyms: Mapping[str, Sequence[str]] = SYNONYMS) -> str:
    """A random synonym of a word; the word itself if it has none."""
    return pick(rng, synonyms[word]) if word in synonyms else word


def listed(items: list[str], rng: np.random.Generator) -> str:
    """``" wearing a, b and c"``: clothes in random order, verb and punctuation; empty without items."""
    if rng.random() < 0.3:
        items = [items[index] for index in rng.permutation(len(items))]
    if not items:
        return ""
    verb = pick(rng, (" in ", " wearing ", " wearing "))
    if len(items) == 1:
        return verb + items[0]
    if rng.random() < 0.5:
        return verb + ", ".join(items[:-1]) + " and " + items[-1]
    return verb + items[0] + " and " + ", ".join(items[1:])


def with_looks(parts: list[str], skin: str, rng: np.random.Generator) -> str:
    """``" with <hair> and <skin> skin"``: the skin is mentioned half of the time."""
    if rng.random() < 0.5:
        parts = [*parts, f"{skin} skin"]
    if rng.random() < 0.3:
        parts = parts[::-1]
    return " with " + " and ".join(parts) if parts else ""


def _subject(person: Person, rng: np.random.Generator, mention: float) -> str:
    words = []
    if abs(person.betas[AGE]) > 0.8 and rng.random() < mention:
        words.append("old" if person.betas[AGE] > 0 else "young")
    if abs(person.betas[WEIGHT]) > 0.8 and rng.random() < mention:
        words.append("heavy" if person.betas[WEIGHT] > 0 else "slim")
    gender = person.gender if rng.random() < mention else "person"
    return with_article(" ".join([*words, synonym(gender, rng)]))


def _looks(person: Person, rng: np.random.Generator, mention: float) -> str:
    parts = []
    if person.hair and rng.random() < mention + MORE:
        length = ("long " if person.long_hair else "short ") if rng.random() < 0.6 or person.long_hair else ""
        parts.append(f"{length}{synonym(person.hair, rng)} hair")
    elif not person.hair:
        parts.append("bald head")
    return with_looks(parts, person.skin, rng)


def _clothes(person: Person, rng: np.random.Generator, mention: float) -> list[str]:
    outfit, items = person.outfit, []
    if rng.random() < mention + MORE:
        items.append(_shirt(person, rng))
    if rng.random() < mention + MORE:
        items.append(_bottoms(person, rng))
    if rng.random() < mention:
        items.append(_shoes(person, rng))
    if outfit.hat and rng.random() < mention + MORE:
        items.append(f"{with_article(synonym(outfit.hat, rng))} hat")
    if outfit.glasses and rng.random() < mention + MORE:
        items.append("glasses")
    return items


def _shirt(person: Person, rng: np.random.Generator) -> str:
    outfit = person.outfit
    colour, shirt = synonym(outfit.shirt, rng), synonym("shirt", rng)
    if outfit.stripe and rng.random() < 0.5:
        colour = f"{colour} and {synonym(outfit.stripe, rng)} striped"
    elif outfit.stripe:
        colour = f"striped {colour}"
    text = f"{with_article(colour)} {shirt}"
    return text + f" with {'long' if outfit.long_sleeves else 'short'} sleeves" if rng.random() < 0.35 else text


def _bottoms(person: Person, rng: np.random.Generator) -> str:
    outfit = person.outfit
    colour = synonym(outfit.bottoms_colour, rng)
    return f"{with_article(colour) if outfit.bottoms == 'skirt' else colour} {synonym(outfit.bottoms, rng)}"


def _shoes(person: Person, rng: np.random.Generator) -> str:
    return f"{synonym(person.outfit.shoes, rng)} {synonym('shoes', rng)}"
