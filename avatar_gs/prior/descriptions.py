"""Words that a prior has for what photos show: who it is, how they look, what they wear."""

import json
from pathlib import Path

from avatar_gs.core.errors import UserError
from avatar_gs.protocols import Describable

FILE = "descriptions.json"
_COLOURS = ("black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "beige")


def _a(words: str) -> str:
    return f"an {words}" if words.startswith("orange") else f"a {words}"


# What is commonly photographed, in words that captions on the web have for it.
COMMON = Describable(
    person=("a man", "a woman", "a boy", "a girl", "an old man", "an old woman"),
    looks={
        "hair": (
            "a bald head",
            *(
                f"{length} {colour} hair"
                for colour in ("black", "brown", "blonde", "red", "grey")
                for length in ("short", "long")
            ),
        ),
        "beard": ("", "a beard"),
    },
    clothes={
        "top": tuple(
            _a(f"{colour} {kind}") for kind in ("shirt", "t-shirt", "sweater", "jacket", "coat") for colour in _COLOURS
        ),
        "bottoms": (
            "blue jeans",
            *(f"{colour} trousers" for colour in _COLOURS),
            *(f"{colour} shorts" for colour in _COLOURS),
            *(_a(f"{colour} skirt") for colour in _COLOURS),
        ),
        "shoes": tuple(f"{colour} {kind}" for kind in ("shoes", "boots") for colour in _COLOURS),
        "hat": ("", *(_a(f"{colour} hat") for colour in _COLOURS)),
        "glasses": ("", "glasses", "sunglasses"),
    },
)


def describable(folder: Path | None) -> Describable:
    """A prior's own words (``descriptions.json`` in its folder), or common ones.

    Raises:
        UserError: if the prior's own file does not hold ``person``, a list of words, and ``looks`` and ``clothes``,
            such lists by part.
    """
    file = folder / FILE if folder is not None else None
    if file is None or not file.is_file():
        return COMMON
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Describable(
            person=_options(content["person"]),
            looks={part: _options(options) for part, options in content["looks"].items()},
            clothes={part: _options(options) for part, options in content["clothes"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'{file}: expected {{"person": [words], "looks": {{part: [words]}}, "clothes": {{…}}}} ({error})'
        ) from error


def _options(found: object) -> tuple[str, ...]:
    if not isinstance(found, list) or not found or not all(isinstance(option, str) for option in found):
        raise ValueError(f"{found!r} instead of a list of words")
    return tuple(found)
