"""People of the mini world: random ones, and named individuals."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from avatar_gs.lab.world.vocabulary import CLOTHES, HAIR, SKIN

NUM_INDIVIDUALS = 200
NUM_BETAS = 10
GENDER, AGE, WEIGHT = 0, 1, 3
"""Indices of the betas that captions mention (see body_models/README.md)."""
RGBFloat = tuple[float, float, float]


@dataclass(frozen=True)
class Outfit:
    """Clothes by name. ``bottoms`` is trousers, shorts or skirt; ``stripe`` and ``hat`` are colour names or empty."""

    shirt: str
    stripe: str
    long_sleeves: bool
    bottoms: str
    bottoms_colour: str
    shoes: str
    hat: str
    glasses: bool


@dataclass(frozen=True)
class Person:
    """One person. Captions name attributes by the words; renders have the exact colours and lengths as well."""

    betas: tuple[float, ...]
    skin: str
    hair: str
    """Hair colour; empty: bald."""
    long_hair: bool
    outfit: Outfit
    skin_rgb: RGBFloat
    hair_rgb: RGBFloat
    eye_rgb: RGBFloat
    brow_rgb: RGBFloat
    mouth_rgb: RGBFloat
    hairline: float
    hair_volume: float
    brow_width: float
    mouth_width: float
    stripe_width: float
    cut: tuple[float, ...]
    """Lengths in [0, 1]: sleeve, hem, neck, leg, shoe, looseness, hair."""
    name: str = ""

    @property
    def gender(self) -> str:
        value = self.betas[GENDER]
        return "person" if abs(value) < 0.25 else ("man" if value > 0 else "woman")


def named_colours(person: Person) -> dict[str, str]:
    """The colour name of each part that a person has: hair, shirt, bottoms, shoes, hat, stripe."""
    outfit = person.outfit
    names = {
        "hair": person.hair,
        "shirt": outfit.shirt,
        "bottoms": outfit.bottoms_colour,
        "shoes": outfit.shoes,
        "hat": outfit.hat,
        "stripe": outfit.stripe,
    }
    return {part: name for part, name in names.items() if name}


def jittered(rng: np.random.Generator, rgb: tuple[int, int, int]) -> RGBFloat:
    """A colour (0..255) with small random changes of brightness and hue."""
    colour = np.array(rgb) * (1 + rng.uniform(-0.06, 0.06)) + rng.uniform(-8, 8, 3)
    return _rgb(np.clip(colour, 0, 255))


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """One of the options, uniformly."""
    return options[int(rng.integers(len(options)))]


def random_outfit(rng: np.random.Generator) -> Outfit:
    """Clothes of independent colours."""
    shirt = pick(rng, list(CLOTHES))
    other = pick(rng, [colour for colour in CLOTHES if colour != shirt])
    return Outfit(
        shirt=shirt,
        stripe=other if rng.random() < 0.25 else "",
        long_sleeves=bool(rng.random() < 0.6),
        bottoms=str(rng.choice(["trousers", "shorts", "skirt"], p=[0.64, 0.18, 0.18])),
        bottoms_colour=pick(rng, list(CLOTHES)),
        shoes=pick(rng, list(CLOTHES)),
        hat=pick(rng, list(CLOTHES)) if rng.random() < 0.22 else "",
        glasses=bool(rng.random() < 0.15),
    )


def held_out(person: Person) -> bool:
    """Whether this combination of shirt, bottoms and hair colours is reserved for evaluation (one in ten)."""
    shirt = list(CLOTHES).index(person.outfit.shirt)
    bottoms = list(CLOTHES).index(person.outfit.bottoms_colour)
    hair = list(HAIR).index(person.hair) if person.hair else len(HAIR)
    return (shirt * 5 + bottoms * 7 + hair * 3) % 10 == 0


def random_person(rng: np.random.Generator) -> Person:
    """A person whose attributes are sampled independently (betas in [-1.5, 1.5])."""
    skin = pick(rng, list(SKIN))
    bald = rng.random() < 0.06
    hair = "" if bald else pick(rng, list(HAIR))
    skin_rgb = jittered(rng, SKIN[skin])
    hair_rgb = jittered(rng, HAIR[hair]) if hair else skin_rgb
    brow_base = np.array(hair_rgb) * 0.6 if hair and rng.random() < 0.7 else np.array(skin_rgb) * 0.4
    lips = np.array(skin_rgb) * [0.85, 0.5, 0.5] + [rng.uniform(0, 50), 0, rng.uniform(0, 20)]
    betas = np.clip(rng.normal(0, 0.7, NUM_BETAS), -1.5, 1.5)
    betas[6:] = 0.0
    return Person(
        betas=tuple(betas.tolist()),
        skin=skin,
        hair=hair,
        long_hair=bool(hair and rng.random() < 0.45),
        outfit=random_outfit(rng),
        skin_rgb=skin_rgb,
        hair_rgb=hair_rgb,
        eye_rgb=_rgb(rng.uniform([10, 10, 10], [110, 90, 130])),
        brow_rgb=_rgb(brow_base),
        mouth_rgb=_rgb(np.clip(lips, 0, 255)),
        hairline=float(rng.uniform(0, 1)),
        hair_volume=float(rng.uniform(0, 1)),
        brow_width=float(rng.uniform(0, 1)),
        mouth_width=float(rng.uniform(0, 1)),
        stripe_width=float(rng.uniform(0.045, 0.08)),
        cut=tuple(rng.uniform(0, 1, 7).tolist()),
    )


def training_person(rng: np.random.Generator) -> Person:
    """A random person whose colour combination is not held out."""
    while True:
        person = random_person(rng)
        if not held_out(person):
            return person


def redressed(person: Person, rng: np.random.Generator) -> Person:
    """The same person in another outfit (never a held-out combination)."""
    while True:
        other = replace(person, outfit=random_outfit(rng))
        if not held_out(other):
            return other


@lru_cache(maxsize=1)
def individuals() -> tuple[Person, ...]:
    """The named individuals of the mini world, always the same."""
    rng = np.random.default_rng(20_000)
    names = invented_names(rng, NUM_INDIVIDUALS)
    return tuple(replace(training_person(rng), name=name) for name in names)


def invented_names(rng: np.random.Generator, count: int) -> list[str]:
    """``count`` names of two invented words each; no word occurs twice."""
    onsets = ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "kr", "st", "tr"]
    vowels, codas = ["a", "e", "i", "o", "u"], ["l", "m", "n", "r", "s", "x"]
    taken: set[str] = set()

    def invent() -> str:
        while True:
            word = "".join(pick(rng, onsets) + pick(rng, vowels) for _ in range(2)) + pick(rng, codas)
            if word not in taken:
                taken.add(word)
                return word

    return [f"{invent()} {invent()}" for _ in range(count)]


def _rgb(values: np.ndarray) -> RGBFloat:
    r, g, b = np.asarray(values, float).tolist()
    return (r, g, b)
