"""The words of the mini world and what they look like. Captions, pictures and measurements share this page."""

RGB = tuple[int, int, int]

CLOTHES: dict[str, RGB] = {
    "red": (200, 30, 30),
    "orange": (240, 130, 20),
    "yellow": (240, 220, 40),
    "green": (30, 150, 60),
    "cyan": (40, 200, 220),
    "blue": (40, 70, 210),
    "purple": (130, 40, 170),
    "pink": (245, 130, 180),
    "brown": (120, 75, 40),
    "black": (20, 20, 20),
    "white": (240, 240, 240),
    "grey": (128, 128, 128),
}
HAIR: dict[str, RGB] = {name: CLOTHES[name] for name in ("black", "brown", "red", "grey", "white", "pink", "blue")} | {
    "blonde": (225, 190, 110)
}
SKIN: dict[str, RGB] = {
    "light": (240, 205, 180),
    "tan": (215, 165, 125),
    "brown": (150, 100, 70),
    "dark": (95, 60, 45),
}

SYNONYMS: dict[str, tuple[str, ...]] = {
    "shirt": ("shirt", "shirt", "shirt", "top"),
    "trousers": ("trousers", "trousers", "pants"),
    "shoes": ("shoes", "shoes", "shoes", "sneakers"),
    "man": ("man", "man", "guy"),
    "woman": ("woman", "woman", "lady"),
    "person": ("person",),
    "grey": ("grey", "gray"),
    "blonde": ("blonde", "blond"),
}
"""What captions say for a word (repeated words are more frequent)."""

NEGATIVE_WORDS = ("blurry", "noisy", "low quality", "wrong colours")
FRAMING_WORDS = {
    "body": "full body",
    "head": "close-up of the head",
    "upper": "upper body",
    "lower": "lower body",
}
VIEW_WORDS = {"front": "front view", "side": "side view", "back": "back view"}

EXTRA_WORDS = (
    "a an the of and with in on wearing wears dressed who has is photo picture image render style full body "
    "close up head upper lower front side back view striped short long sleeves hair skin bald hat "
    "glasses shorts skirt young old slim heavy avatar character colored coloured dark "
    "light from person plain his her their clothes outfit t-shirt"
)
"""Words besides those above that are one token: of the captions, or asking for nothing that could be missed."""

UNTAUGHT_WORDS = (
    "overhead stripes cap standing boy girl adult tall eyes face behind people background studio portrait jacket jeans "
    "dress boots beard raincoat coat"
)
"""One token each, but no caption says them: a prompt that does is told so."""


def words() -> list[str]:
    """Every word that is one token, sorted; names of individuals excluded."""
    found = set(EXTRA_WORDS.split()) | set(UNTAUGHT_WORDS.split()) | set(CLOTHES) | set(HAIR) | set(SKIN)
    for phrase in (*NEGATIVE_WORDS, *FRAMING_WORDS.values(), *VIEW_WORDS.values()):
        found |= set(phrase.replace("-", " ").split())
    for group in SYNONYMS.values():
        found |= set(group)
    return sorted(word for word in found if word.isalpha())
