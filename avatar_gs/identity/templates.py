"""What is said of a photo while an identity is learned from it: ``{}`` is the place of ``<id>``.

Templates come in groups, one for each framing that a photo may have (a face, a whole body, …). A photo is
only ever described by the group that the prior itself finds fits it best (``description.sort_photos``): words that
contradict the picture would teach the identity to undo them. What the templates leave unsaid, the identity learns.
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

# The packaged prior: openings as in its captions, which end in framing and view.
_MINI_OPENINGS = ("", "a photo of ", "a picture of ", "an image of ", "a portrait of ", "a photograph of ", "here is ")
_MINI_ENDINGS = tuple(
    tuple(f", {framing}, {view}" for view in MINI_DIRECTION_WORDS.values()) for framing in FRAMING_WORDS.values()
)


def templates(style: PromptStyle) -> tuple[tuple[str, ...], ...]:
    """The templates of a prior's style, a group for each framing; 81 or more in all. Framings are told apart by the
    prior (a test asks the packaged one); views are not, since pose maps show it those: so a group names them all."""
    if style is PromptStyle.mini:
        return tuple(
            tuple(f"{opening}{{}}{ending}" for opening, ending in product(_MINI_OPENINGS, endings))
            for endings in _MINI_ENDINGS
        )
    patterns = list(product(_SD_KINDS, _SD_ENDINGS))
    return tuple(tuple(framing.format(kind=kind) + ending for kind, ending in patterns) for framing in _SD_FRAMINGS)
