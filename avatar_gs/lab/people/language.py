"""What the lifelike prior has words for."""

from avatar_gs.lab.people.person import SKINS, individual_names
from avatar_gs.lab.people.vocabulary import CLOTHES, HAIR_COLOURS, UNTAUGHT_WORDS, words
from avatar_gs.lab.train_prior.language import Descriptions, Language
from avatar_gs.lab.world.vocabulary import with_article

TONES = ("light", "tan", "brown", "dark")
TOPS = ("shirt", "t-shirt", "jacket", "tank top")
BOTTOMS = ("trousers", "jeans", "leggings", "shorts")


def people_language() -> Language:
    """The words of the lifelike world."""
    return Language(words(), UNTAUGHT_WORDS.split(), individual_names(), descriptions())


def descriptions() -> Descriptions:
    """Alternative phrases for each attribute of a photo."""
    assert {facts[3] for facts in SKINS.values()} <= set(TONES)
    jeans = ("blue", "black", "grey")
    return {
        "person": ["a person", "a man", "a woman", "a young man", "a young woman", "an old man", "an old woman"],
        "looks": {
            "skin": [f"{tone} skin" for tone in TONES],
            "hair": [
                "a bald head",
                *(f"{length} {colour} hair" for colour in HAIR_COLOURS for length in ("short", "long")),
                *(with_article(f"{colour} {style}") for colour in HAIR_COLOURS for style in ("bob", "ponytail")),
            ],
        },
        "clothes": {
            "top": [with_article(f"{colour} {top}") for top in TOPS for colour in CLOTHES],
            "bottoms": [
                *(f"{colour} {word}" for word in BOTTOMS for colour in (jeans if word == "jeans" else CLOTHES)),
                *(with_article(f"{colour} skirt") for colour in CLOTHES),
                *(with_article(f"{colour} dress") for colour in CLOTHES),
            ],
            "shoes": [f"{colour} shoes" for colour in CLOTHES],
            "hat": ["", *(with_article(f"{colour} hat") for colour in CLOTHES)],
            "glasses": ["", "glasses"],
        },
    }
