"""The words of the mini world and the colours that they name, shared by captions, renders and measurements."""

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2lab

RGB = tuple[int, int, int]
AMBIENT = 0.84
"""Shading of renders is within [AMBIENT, 1] of the albedo: darker, and yellow would be measured as brown."""
SHADING = (1 + AMBIENT) / 2
"""Mean shading of a lit surface."""

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
"""Words that captions use for a term, each as often as it is listed."""

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
    "light from person plain his her their clothes outfit"
)
"""Further words of one token: used in captions, or without an effect that a user could miss."""

UNTAUGHT_WORDS = (
    "overhead stripes cap standing boy girl adult tall eyes face behind people background studio portrait jacket jeans "
    "dress boots beard raincoat coat"
)
"""Words of one token that no caption uses; prompts that contain them get a warning."""


def words() -> list[str]:
    """All words of one token, sorted, without names of individuals."""
    synonyms = [word for group in SYNONYMS.values() for word in group]
    return vocabulary(f"{EXTRA_WORDS} {UNTAUGHT_WORDS}", *CLOTHES, *HAIR, *SKIN, *FRAMING_WORDS.values(), *synonyms)


def vocabulary(*phrases: str) -> list[str]:
    """The distinct words of ``phrases``, of negative prompts and of view directions, lower case and sorted."""
    text = " ".join((*phrases, *NEGATIVE_WORDS, *VIEW_WORDS.values())).lower()
    return sorted({word for word in text.replace("-", " ").split() if word.isalpha()})


def with_article(words: str) -> str:
    """ "an orange hat", "a blue hat"."""
    return f"an {words}" if words[0] in "aeio" else f"a {words}"


def descriptions() -> dict[str, list[str] | dict[str, list[str]]]:
    """Alternative phrases for each attribute, from which ``prior.descriptions`` picks those that fit a photo.

    Stripes and sleeves are left out: samples hardly follow their words.
    """
    return {
        "person": ["a person", "a man", "a woman"],
        "looks": {
            "skin": [f"{name} skin" for name in SKIN],
            "hair": ["a bald head", *(f"{length} {name} hair" for name in HAIR for length in ("short", "long"))],
        },
        "clothes": {
            "shirt": [with_article(f"{name} shirt") for name in CLOTHES],
            "bottoms": [
                *(f"{name} trousers" for name in CLOTHES),
                *(f"{name} shorts" for name in CLOTHES),
                *(with_article(f"{name} skirt") for name in CLOTHES),
            ],
            "shoes": [f"{name} shoes" for name in CLOTHES],
            "hat": ["", *(with_article(f"{name} hat") for name in CLOTHES)],
            "glasses": ["", "glasses"],
        },
    }


# ---- colours of images


def to_lab(rgb: NDArray[np.floating]) -> NDArray[np.float64]:
    """CIELAB (D65) of sRGB colours ``[..., 3]`` in [0, 1]."""
    return rgb2lab(np.asarray(rgb, np.float64)[..., None, :])[..., 0, :]


def albedo(rgb: NDArray[np.floating]) -> NDArray[np.float64]:
    """Colours in [0, 1] divided by the mean shading."""
    return np.clip(np.asarray(rgb, np.float64) / SHADING, 0, 1)


def paint_of(name: str) -> tuple[float, float, float]:
    """The palette's colour of a name, 0..255."""
    red, green, blue = (CLOTHES | HAIR)[name]
    return float(red), float(green), float(blue)


def table(part: str) -> dict[str, RGB]:
    """Colours that a part can have, by name."""
    return HAIR if part == "hair" else CLOTHES


def nearest_names(rgb: NDArray[np.floating], part: str) -> NDArray:
    """The name of the nearest colour (in CIELAB, without shading) of each pixel.

    Args:
        rgb: ``[..., 3]`` in [0, 1].
        part: determines the candidates, see ``table``.
    """
    names = np.array(list(table(part)))
    reference = to_lab(np.array([table(part)[name] for name in names]) / 255)
    distance = np.linalg.norm(to_lab(albedo(rgb))[..., None, :] - reference, axis=-1)
    return np.asarray(names[distance.argmin(-1)])
