"""The people of suite=identity, who are nobody that training knew, and the pictures that are given of each."""

import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from avatar_gs.core.images import write_png
from avatar_gs.lab.metrics.portraits import AZIMUTHS
from avatar_gs.lab.world.dataset import CAMERAS, paint, render_sample
from avatar_gs.lab.world.people import Outfit, Person, held_out, random_person
from avatar_gs.lab.world.vocabulary import CLOTHES
from avatar_gs.lab.world.wardrobe import load_wardrobe
from avatar_gs.render.config import CamerasConfig, FramingConfig
from avatar_gs.types import Framing

SUBJECTS, DISTRACTORS = 20, 12
"""People who can be measured, and others among whom they must be found as well."""
FIRST_PERSON = 50_000
FACING = 60.0
"""Degrees: pictures of a head, and the first full-body one, are taken from within this of the front, as people's
photos are."""
AWAY = 3.0
"""Degrees that the camera of every picture stands from all measured views."""
FRAMINGS: tuple[Framing | None, ...] = (
    Framing.BODY,
    Framing.HEAD,
    None,
    Framing.HEAD,
    None,
    None,
    Framing.HEAD,
    None,
)
"""The framing of each picture; None: any framing from any side. The first n pictures are what n pictures show."""
PICTURES = len(FRAMINGS)


@lru_cache(maxsize=1)
def crowd() -> tuple[Person, ...]:
    """A fixed list of people without names, in colour combinations that are kept from training: ``SUBJECTS`` to be
    measured, then ``DISTRACTORS``."""
    return tuple(_person(index) for index in range(SUBJECTS + DISTRACTORS))


def _person(index: int) -> Person:
    rng = np.random.default_rng([FIRST_PERSON, index])
    while True:
        person = random_person(rng)
        if held_out(person):
            return person


@lru_cache(maxsize=SUBJECTS)
def photograph(index: int) -> tuple[UInt8[np.ndarray, "S S 3"], ...]:
    """The ``PICTURES`` pictures of a person in their own clothes: another pose, camera, light and background each."""
    rng = np.random.default_rng([FIRST_PERSON, index, 1])
    return tuple(_picture(crowd()[index], framing, rng) for framing in FRAMINGS)


def _picture(person: Person, framing: Framing | None, rng: np.random.Generator) -> UInt8[np.ndarray, "S S 3"]:
    while True:
        sample = render_sample(load_wardrobe(), person, _cameras(framing), 1, rng, float(rng.uniform(0.1, 0.9)))
        if _nearest_measured(math.degrees(float(sample.views.azimuth[0]))) > AWAY:
            return paint(person, sample.maps[0], rng)


def _nearest_measured(azimuth: float) -> float:
    """Degrees to the nearest measured azimuth."""
    return min(abs(math.remainder(azimuth - measured, 360.0)) for measured in AZIMUTHS)


def _cameras(framing: Framing | None) -> CamerasConfig:
    if framing is None:
        return CAMERAS
    absent = {other.value: FramingConfig(probability=0.0) for other in Framing if other is not framing}
    return replace(CAMERAS, azimuth_min=-FACING, azimuth_max=FACING, **absent)


def write_pictures(index: int, folder: Path) -> Path:
    """Writes the person's pictures as PNG files (those that are not there yet) into a folder of their own, and returns
    it."""
    own = folder / f"person_{index:02d}"
    for number, picture in enumerate(photograph(index)):
        path = own / f"picture_{number}.png"
        if not path.exists():
            write_png(path, picture)
    return own


def other_outfit(index: int) -> Outfit:
    """Clothes for the person in three colours that no piece of their own has, and nothing that the pictures do not
    show or the prompt does not say."""
    rng = np.random.default_rng([FIRST_PERSON, index, 2])
    own = crowd()[index].outfit
    worn = {own.shirt, own.stripe, own.bottoms_colour, own.shoes, own.hat}
    names = rng.permutation([name for name in CLOTHES if name not in worn])[:3]
    shirt, bottoms, shoes = (str(name) for name in names)
    return replace(
        own,
        shirt=shirt,
        stripe="",
        bottoms="trousers",
        bottoms_colour=bottoms,
        shoes=shoes,
        hat="",
        glasses=False,
    )


def outfit_prompt(outfit: Outfit) -> str:
    """What is asked for, as an avatar's prompt; also the sleeves, where skin begins."""
    article, sleeves = "an" if outfit.shirt == "orange" else "a", "long" if outfit.long_sleeves else "short"
    shirt = f"{article} {outfit.shirt} shirt with {sleeves} sleeves"
    return f"<id> wearing {shirt}, {outfit.bottoms_colour} trousers and {outfit.shoes} shoes"
