"""Words that a prior has for what photos show: who it is, how they look, what they wear."""

import json
import re
from pathlib import Path

from avatar_gs.core.errors import UserError
from avatar_gs.protocols import Describable

FILE = "descriptions.json"
WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")
ANY_PLACEHOLDER = re.compile(r"<[^<>\s]*>")
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


WELL_KNOWN = (
    "Adele",
    "Al Pacino",
    "Angela Merkel",
    "Angelina Jolie",
    "Anne Hathaway",
    "Audrey Hepburn",
    "Barack Obama",
    "Beyonce Knowles",
    "Brad Pitt",
    "Cate Blanchett",
    "Charlie Chaplin",
    "Chris Evans",
    "Daniel Craig",
    "David Beckham",
    "David Bowie",
    "Denzel Washington",
    "Elon Musk",
    "Emma Stone",
    "Emma Watson",
    "Frida Kahlo",
    "George Clooney",
    "Halle Berry",
    "Hugh Jackman",
    "Idris Elba",
    "Jackie Chan",
    "Jennifer Lawrence",
    "Jennifer Lopez",
    "Johnny Depp",
    "Julia Roberts",
    "Kate Winslet",
    "Keanu Reeves",
    "Kofi Annan",
    "Leonardo DiCaprio",
    "Lionel Messi",
    "Lucy Liu",
    "Lupita Nyong'o",
    "Madonna",
    "Marilyn Monroe",
    "Meryl Streep",
    "Michael Jackson",
    "Michelle Obama",
    "Michelle Yeoh",
    "Morgan Freeman",
    "Natalie Portman",
    "Nelson Mandela",
    "Nicole Kidman",
    "Oprah Winfrey",
    "Penelope Cruz",
    "Priyanka Chopra",
    "Rihanna",
    "Robert Downey",
    "Roger Federer",
    "Salma Hayek",
    "Samuel Jackson",
    "Sandra Oh",
    "Scarlett Johansson",
    "Serena Williams",
    "Shah Rukh Khan",
    "Taylor Swift",
    "Tom Cruise",
    "Tom Hanks",
    "Usain Bolt",
    "Will Smith",
    "Zendaya Coleman",
)


def read_vocabulary(folder: Path) -> frozenset[str] | None:
    """The words of a prior that was trained on a closed vocabulary (``vocabulary.json``, a list), else None."""
    file = folder / "vocabulary.json"
    return frozenset(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def unknown_words(prompt: str, vocabulary: frozenset[str]) -> list[str]:
    """The words of ``prompt`` outside ``vocabulary``, in lower case, each once; placeholders (<id>) are no words."""
    words = [match.lower() for match in WORD.findall(ANY_PLACEHOLDER.sub(" ", prompt))]
    unknown = [w for w in words if w not in vocabulary and not all(part in vocabulary for part in re.split("[-']", w))]
    return list(dict.fromkeys(unknown))


def known_names(folder: Path | None) -> tuple[str, ...]:
    """Names of people that a prior has seen often: its own list (``names.json`` in its folder), or well-known ones.

    Raises:
        UserError: if the prior's own list is no list of names.
    """
    file = folder / "names.json" if folder is not None else None
    if file is None or not file.is_file():
        return WELL_KNOWN
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON ({error}): expected a list of names") from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError(f"{file}: expected a list of names of people that this prior knows")
    return tuple(names)
