"""What a prior has words for: its vocabulary, names of people that it knows, and descriptions of people and clothes."""

import json
import re
from dataclasses import dataclass
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
            _a(f"{colour} {garment}")
            for garment in ("shirt", "t-shirt", "sweater", "jacket", "coat")
            for colour in _COLOURS
        ),
        "bottoms": (
            "blue jeans",
            *(f"{colour} trousers" for colour in _COLOURS),
            *(f"{colour} shorts" for colour in _COLOURS),
            *(_a(f"{colour} skirt") for colour in _COLOURS),
        ),
        "shoes": tuple(f"{colour} {garment}" for garment in ("shoes", "boots") for colour in _COLOURS),
        "hat": ("", *(_a(f"{colour} hat") for colour in _COLOURS)),
        "glasses": ("", "glasses", "sunglasses"),
    },
)


# Well-known people of many backgrounds, whose names a model of captioned photos has read many times. Cross
# initialisation averages their token embeddings: no single name matters, and nobody of them is ever drawn.
_NAMES = """
Adele, Al Pacino, Angela Merkel, Angelina Jolie, Anne Hathaway, Audrey Hepburn, Barack Obama, Beyonce Knowles,
Brad Pitt, Cate Blanchett, Charlie Chaplin, Chris Evans, Daniel Craig, David Beckham, David Bowie, Denzel Washington,
Elon Musk, Emma Stone, Emma Watson, Frida Kahlo, George Clooney, Halle Berry, Hugh Jackman, Idris Elba, Jackie Chan,
Jennifer Lawrence, Jennifer Lopez, Johnny Depp, Julia Roberts, Kate Winslet, Keanu Reeves, Kofi Annan,
Leonardo DiCaprio, Lionel Messi, Lucy Liu, Lupita Nyong'o, Madonna, Marilyn Monroe, Meryl Streep, Michael Jackson,
Michelle Obama, Michelle Yeoh, Morgan Freeman, Natalie Portman, Nelson Mandela, Nicole Kidman, Oprah Winfrey,
Penelope Cruz, Priyanka Chopra, Rihanna, Robert Downey, Roger Federer, Salma Hayek, Samuel Jackson, Sandra Oh,
Scarlett Johansson, Serena Williams, Shah Rukh Khan, Taylor Swift, Tom Cruise, Tom Hanks, Usain Bolt, Will Smith,
Zendaya Coleman
"""
WELL_KNOWN = tuple(name.strip() for name in _NAMES.split(","))


@dataclass(frozen=True)
class Words:
    """What a prior has words for; the defaults are those of a model of captioned photos."""

    vocabulary: frozenset[str] | None = None
    """All words that it was trained on; None: not known."""
    known_names: tuple[str, ...] = WELL_KNOWN
    describable: Describable = COMMON

    @classmethod
    def read(cls, folder: Path) -> "Words":
        """From ``vocabulary.json``, ``names.json`` and ``descriptions.json`` in a prior's folder, where they exist.

        Raises:
            UserError: if a file does not hold what it should.
        """
        return cls(read_vocabulary(folder), known_names(folder), describable(folder))


def read_vocabulary(folder: Path) -> frozenset[str] | None:
    """The words of a prior that was trained on a closed vocabulary (``vocabulary.json``, a list), else None."""
    file = folder / "vocabulary.json"
    return frozenset(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def known_names(folder: Path) -> tuple[str, ...]:
    """Names of people that a prior knows (``names.json``, a list), else well-known ones.

    Raises:
        UserError: if the file is no list of names.
    """
    file = folder / "names.json"
    if not file.is_file():
        return WELL_KNOWN
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON ({error}): expected a list of names") from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError(f"{file}: expected a list of names of people that this prior knows")
    return tuple(names)


def describable(folder: Path) -> Describable:
    """A prior's words for people and clothes (``descriptions.json``), else common ones.

    Raises:
        UserError: if the file does not hold ``person``, a list of words, and ``looks`` and ``clothes``, such lists by
            part.
    """
    file = folder / FILE
    if not file.is_file():
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


def unknown_words(prompt: str, vocabulary: frozenset[str]) -> list[str]:
    """The words of ``prompt`` outside ``vocabulary``, in lower case, each once; placeholders (<id>) are no words."""
    words = [match.lower() for match in WORD.findall(ANY_PLACEHOLDER.sub(" ", prompt))]
    unknown = [w for w in words if w not in vocabulary and not all(part in vocabulary for part in re.split("[-']", w))]
    return list(dict.fromkeys(unknown))
