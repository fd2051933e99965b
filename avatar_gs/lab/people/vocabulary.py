"""The words of the lifelike world and the garments and colours that they name."""

from dataclasses import dataclass

from avatar_gs.lab.world import vocabulary as mini
from avatar_gs.lab.world.vocabulary import RGB

CLOTHES: dict[str, RGB] = {**mini.CLOTHES, "black": (26, 26, 28)}
HAIR_COLOURS: dict[str, RGB] = {
    "black": (26, 22, 22),
    "brown": (78, 50, 34),
    "blonde": (178, 138, 80),
    "red": (146, 62, 28),
    "grey": (140, 136, 130),
    "white": (190, 187, 181),
    "pink": (214, 105, 150),
    "blue": (50, 80, 190),
}


@dataclass(frozen=True)
class HairStyle:
    """A hair mesh of the pack: the word for it, the sexes that wear it (f, m), and its length."""

    word: str
    sexes: str
    is_long: bool


HAIR_STYLES: dict[str, HairStyle] = {
    "long01": HairStyle("long", "f", True),
    "bob02": HairStyle("bob", "f", False),
    "braid01": HairStyle("braided", "f", True),
    "ponytail01": HairStyle("ponytail", "f", True),
    "short01": HairStyle("short", "m", False),
    "short02": HairStyle("short", "m", False),
    "short03": HairStyle("short", "f", False),
    "short04": HairStyle("short", "m", False),
}


@dataclass(frozen=True)
class Suit:
    """A suit of the pack: its sex (f, m), and the words and original colours of its halves.

    ``top_colour`` is empty if no word fits the original colours.
    """

    sex: str
    top: str
    top_colour: str
    long_sleeves: bool
    bottoms: str
    bottoms_colour: str
    striped: bool = False


SUITS: dict[str, Suit] = {
    "female_casualsuit01": Suit("f", "T-shirt", "blue", False, "jeans", "blue"),
    "female_casualsuit02": Suit("f", "T-shirt", "", False, "shorts", ""),
    "female_elegantsuit01": Suit("f", "blouse", "black", True, "skirt", "grey", striped=True),
    "female_sportsuit01": Suit("f", "crop top", "blue", False, "trousers", "black"),
    "male_casualsuit02": Suit("m", "sweater", "blue", True, "jeans", "blue"),
    "male_casualsuit03": Suit("m", "shirt", "black", True, "jeans", "blue", striped=True),
    "male_casualsuit04": Suit("m", "T-shirt", "blue", False, "jeans", "blue"),
    "male_casualsuit05": Suit("m", "jacket", "grey", True, "jeans", "blue"),
    "male_casualsuit06": Suit("m", "T-shirt", "white", False, "jeans", "blue"),
    "male_elegantsuit01": Suit("m", "suit jacket", "black", True, "trousers", "black"),
}
SHOES: dict[str, str] = {
    "shoes01": "shoes",
    "shoes02": "shoes",
    "shoes03": "shoes",
    "shoes04": "shoes",
    "shoes05": "sneakers",
    "shoes06": "sneakers",
}
CUT_TOPS: dict[str, bool] = {
    "long-sleeved shirt": True,
    "T-shirt": False,
    "V-neck T-shirt": False,
    "tank top": False,
    "turtleneck": True,
}
"""Tops cut from the helper mesh, and whether their sleeves are long."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "T-shirt": ("t-shirt", "t-shirt", "shirt", "top"),
    "V-neck T-shirt": ("t-shirt", "shirt", "top"),
    "long-sleeved shirt": ("shirt", "shirt", "top", "sweater"),
    "tank top": ("tank top", "tank top", "shirt", "top"),
    "turtleneck": ("turtleneck", "turtleneck", "shirt", "sweater"),
    "blouse": ("blouse", "shirt", "shirt"),
    "crop top": ("crop top", "top", "shirt"),
    "sweater": ("sweater", "sweater", "shirt"),
    "shirt": ("shirt", "shirt", "top"),
    "jacket": ("jacket", "jacket", "coat"),
    "suit jacket": ("suit jacket", "jacket", "jacket"),
    "jeans": ("jeans", "jeans", "trousers", "pants"),
    "trousers": ("trousers", "trousers", "pants"),
    "leggings": ("leggings", "leggings", "trousers"),
    "shorts": ("shorts",),
    "skirt": ("skirt",),
    "short skirt": ("skirt", "short skirt"),
    "long skirt": ("skirt", "long skirt"),
    "shoes": ("shoes",),
    "sneakers": ("shoes", "shoes", "sneakers"),
    "man": ("man", "man", "guy"),
    "woman": ("woman", "woman", "lady"),
    "person": ("person",),
    "grey": ("grey", "gray"),
    "blonde": ("blonde", "blond"),
}
"""Words that captions use for a term, each as often as it is listed; "shirt" is the general word for tops."""
FRAMING_WORDS = {**mini.FRAMING_WORDS, "hands": "close-up of the hand"}

EXTRA_WORDS = (
    "a an the of and with in on wearing wears dressed who has is photo picture image render style full body "
    "close up head upper lower hand hands front side back view striped stripes short long sleeves hair skin bald hat "
    "glasses shorts skirt young old aged middle slim heavy avatar character colored coloured dark dress bob braid "
    "braided ponytail light tan brown from person plain his her their clothes outfit suit smiling"
)
"""Further words of one token: used in captions, or without an effect that a user could miss."""
UNTAUGHT_WORDS = (
    "overhead cap standing boy girl adult tall eyes face behind people background studio portrait boots beard raincoat "
    "sandals scarf gloves uniform hoodie mustache"
)
"""Words of one token that no caption uses; prompts that contain them get a warning."""


def words() -> list[str]:
    """All words of one token, sorted, without names of individuals."""
    synonyms = [phrase for group in SYNONYMS.values() for phrase in group]
    names = (*CLOTHES, *HAIR_COLOURS)
    return mini.vocabulary(f"{EXTRA_WORDS} {UNTAUGHT_WORDS}", *names, *FRAMING_WORDS.values(), *synonyms)
