"""What is said of a photo while an identity is learned from it: ``{}`` is the place of ``<id>``.

A photo's own framing is not known, so the templates range over faces, portraits and whole bodies, and what they say
besides stays vague; the identity learns what they leave unsaid.
"""

from itertools import product

from avatar_gs.prior.config import PromptStyle
from avatar_gs.prior.prompts import FRAMING_WORDS, MINI_DIRECTION_WORDS

# Stable Diffusion: 9 kinds of picture of each of 3 framings, said in 3 ways.
_SD_KINDS = (
    "a photo",
    "a close photo",
    "a bright photo",
    "a cropped photo",
    "a good photo",
    "a studio photo",
    "a snapshot",
    "a picture",
    "a rendering",
)
_SD_FRAMINGS = ("{kind} of the face of {{}}", "{kind}, a portrait of {{}}", "{kind} of {{}}, full body")
_SD_ENDINGS = ("", ", plain background", ", looking natural")

# The packaged prior: the openings of its captions. Most templates leave framing and view unsaid.
_MINI_OPENINGS = ("", "a photo of ", "a picture of ", "an image of ", "a portrait of ")
_MINI_WORDS = (
    *("", "", "", "", ""),
    *(f", {words}" for words in FRAMING_WORDS.values()),
    *(f", {framing}, {view}" for framing, view in product(FRAMING_WORDS.values(), MINI_DIRECTION_WORDS.values())),
)


def templates(style: PromptStyle) -> tuple[str, ...]:
    """The templates of a prior's style; some more than once where they should be drawn more often."""
    if style is PromptStyle.mini:
        return tuple(f"{opening}{{}}{words}" for opening, words in product(_MINI_OPENINGS, _MINI_WORDS))
    patterns = product(_SD_KINDS, _SD_FRAMINGS, _SD_ENDINGS)
    return tuple(framing.format(kind=kind) + ending for kind, framing, ending in patterns)
