"""What is said about a picture of a person: a small grammar over the vocabulary."""

import numpy as np

from avatar_gs.lab.world.people import AGE, WEIGHT, Person, pick
from avatar_gs.lab.world.vocabulary import FRAMING_WORDS, NEGATIVE_WORDS, SYNONYMS, VIEW_WORDS
from avatar_gs.types import Framing, ViewDirection

OPENINGS = ("", "a photo of ", "a picture of ", "an image of ", "")
MENTION = 0.88
"""Chance that a caption mentions an attribute that it could mention."""


def view_suffix(framing: Framing, view: ViewDirection) -> str:
    """The words that say framing and view, as captions end and as prompts for this prior end."""
    return f", {FRAMING_WORDS[framing.value]}, {VIEW_WORDS[view.value]}"


def caption(person: Person, rng: np.random.Generator, mention: float = MENTION, own_outfit: bool = True) -> str:
    """One description of a person, without framing and view. A named individual is often called by the name alone,
    but not in clothes other than their own: those are then all mentioned."""
    subject = person.name or _subject(person, rng, mention)
    if person.name and not own_outfit:
        mention = 1.0
    elif person.name and rng.random() < 0.4:
        return pick(rng, list(OPENINGS)) + subject
    phrases = [_clothes(person, rng, mention)]
    if not person.name:
        phrases.insert(int(rng.random() < 0.25), _looks(person, rng, mention))
    return pick(rng, list(OPENINGS)) + subject + "".join(phrases)


def brief_caption(person: Person, part: str, rng: np.random.Generator) -> str:
    """Says nothing of a person but one part that they have (hair, shirt, bottoms, shoes or hat) and perhaps the
    gender."""
    outfit = person.outfit
    if part == "hair":
        length = ("long " if person.long_hair else "short ") if rng.random() < 0.6 else ""
        words = f" with {length}{_say(person.hair, rng)} hair"
    elif part == "shirt":
        words = f" in {_shirt(person, rng)}"
    elif part == "bottoms":
        colour = _say(outfit.bottoms_colour, rng)
        words = f" in {with_article(colour) if outfit.bottoms == 'skirt' else colour} {_say(outfit.bottoms, rng)}"
    elif part == "shoes":
        words = f" in {_say(outfit.shoes, rng)} {_say('shoes', rng)}"
    else:
        words = f" in {with_article(_say(outfit.hat, rng))} {part}"
    return f"a {_say(person.gender if rng.random() < 0.5 else 'person', rng)}{words}"


def negative_caption(rng: np.random.Generator) -> str:
    """A caption of a degraded picture: some or all of the negative words, in any order."""
    count = len(NEGATIVE_WORDS) if rng.random() < 0.5 else int(rng.integers(1, len(NEGATIVE_WORDS) + 1))
    order = np.arange(count) if count == len(NEGATIVE_WORDS) else rng.permutation(len(NEGATIVE_WORDS))[:count]
    return ", ".join(NEGATIVE_WORDS[index] for index in order)


def _say(word: str, rng: np.random.Generator) -> str:
    return pick(rng, list(SYNONYMS[word])) if word in SYNONYMS else word


def with_article(words: str) -> str:
    """ "an orange hat", "a blue hat"."""
    return f"an {words}" if words.startswith("orange") else f"a {words}"


def _subject(person: Person, rng: np.random.Generator, mention: float) -> str:
    words = ["a"]
    if abs(person.betas[AGE]) > 0.8 and rng.random() < mention:
        words.append("old" if person.betas[AGE] > 0 else "young")
    if abs(person.betas[WEIGHT]) > 0.8 and rng.random() < mention:
        words.append("heavy" if person.betas[WEIGHT] > 0 else "slim")
    gender = person.gender if rng.random() < mention else "person"
    if words[1:2] == ["old"]:
        words[0] = "an"
    return " ".join([*words, _say(gender, rng)])


def _looks(person: Person, rng: np.random.Generator, mention: float) -> str:
    parts = []
    if person.hair and rng.random() < mention + 0.06:
        length = ("long " if person.long_hair else "short ") if rng.random() < 0.6 or person.long_hair else ""
        parts.append(f"{length}{_say(person.hair, rng)} hair")
    elif not person.hair:
        parts.append("bald head")
    if rng.random() < 0.5:
        parts.append(f"{person.skin} skin")
    if rng.random() < 0.3:
        parts.reverse()
    return " with " + " and ".join(parts) if parts else ""


def _clothes(person: Person, rng: np.random.Generator, mention: float) -> str:
    outfit = person.outfit
    items = []
    if rng.random() < mention + 0.06:
        items.append(_shirt(person, rng))
    if rng.random() < mention + 0.06:
        colour = _say(outfit.bottoms_colour, rng)
        items.append(f"{with_article(colour) if outfit.bottoms == 'skirt' else colour} {_say(outfit.bottoms, rng)}")
    if rng.random() < mention:
        items.append(f"{_say(outfit.shoes, rng)} {_say('shoes', rng)}")
    if outfit.hat and rng.random() < mention + 0.06:
        items.append(f"{with_article(_say(outfit.hat, rng))} hat")
    if outfit.glasses and rng.random() < mention + 0.06:
        items.append("glasses")
    if rng.random() < 0.3:
        items = [items[index] for index in rng.permutation(len(items))]
    if not items:
        return ""
    verb = pick(rng, [" in ", " wearing ", " wearing "])
    if len(items) == 1:
        return verb + items[0]
    if rng.random() < 0.5:
        return verb + ", ".join(items[:-1]) + " and " + items[-1]
    return verb + items[0] + " and " + ", ".join(items[1:])


def _shirt(person: Person, rng: np.random.Generator) -> str:
    outfit = person.outfit
    colour, shirt = _say(outfit.shirt, rng), _say("shirt", rng)
    if outfit.stripe:
        striped = f"{colour} and {_say(outfit.stripe, rng)} striped" if rng.random() < 0.5 else f"striped {colour}"
        text = f"{with_article(striped)} {shirt}"
    else:
        text = f"{with_article(colour)} {shirt}"
    if rng.random() < 0.35:
        text += f" with {'long' if outfit.long_sleeves else 'short'} sleeves"
    return text
