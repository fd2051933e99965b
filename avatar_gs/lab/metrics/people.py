"""The people of suite=identity, held out from training, and their photos (synthetic images)."""

import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from avatar_gs.core.images import write_png
from avatar_gs.lab.metrics.views import ORBIT
from avatar_gs.lab.world.dataset import CAMERAS, paint, render_sample
from avatar_gs.lab.world.people import Outfit, Person, held_out, random_person
from avatar_gs.lab.world.vocabulary import CLOTHES
from avatar_gs.lab.world.wardrobe import load_wardrobe
from avatar_gs.render.config import CamerasConfig, FramingConfig
from avatar_gs.types import Framing

SUBJECTS, DISTRACTORS = 20, 12
"""Number of people to measure, and of others in the crowd for retrieval."""
FIRST_PERSON = 50_000
FACING = 60.0
"""Maximum azimuth in degrees of head images and the first full-body image, as is usual in photos."""
AWAY = 3.0
"""Minimum azimuth difference in degrees between every image and the measured views."""
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
"""The framing of each image; None: any framing and azimuth. Experiments with n images use the first n."""
PHOTOS = len(FRAMINGS)


@lru_cache(maxsize=1)
def crowd() -> tuple[Person, ...]:
    """A fixed list of people without names, in held-out colour combinations: ``SUBJECTS``, then ``DISTRACTORS``."""
    return tuple(_person(index) for index in range(SUBJECTS + DISTRACTORS))


def _person(index: int) -> Person:
    rng = np.random.default_rng([FIRST_PERSON, index])
    while True:
        person = random_person(rng)
        if held_out(person):
            return person


@lru_cache(maxsize=SUBJECTS)
def photograph(index: int) -> tuple[UInt8[np.ndarray, "S S 3"], ...]:
    """The ``PHOTOS`` images of a person in their clothes, each with its own pose, camera, light and background."""
    rng = np.random.default_rng([FIRST_PERSON, index, 1])
    return tuple(_photo(crowd()[index], framing, rng) for framing in FRAMINGS)


def _photo(person: Person, framing: Framing | None, rng: np.random.Generator) -> UInt8[np.ndarray, "S S 3"]:
    while True:
        sample = render_sample(load_wardrobe(), person, _cameras(framing), 1, rng, float(rng.uniform(0.1, 0.9)))
        if _nearest_measured(math.degrees(float(sample.views.azimuth[0]))) > AWAY:
            return paint(person, sample.maps[0], rng)


def _nearest_measured(azimuth: float) -> float:
    """Difference in degrees to the nearest measured azimuth."""
    return min(abs(math.remainder(azimuth - measured, 360.0)) for measured in ORBIT)


def _cameras(framing: Framing | None) -> CamerasConfig:
    if framing is None:
        return CAMERAS
    absent = {other.value: FramingConfig(probability=0.0) for other in Framing if other is not framing}
    return replace(CAMERAS, azimuth_min=-FACING, azimuth_max=FACING, **absent)


def write_photos(index: int, folder: Path) -> Path:
    """Write the person's images as PNG files to a folder of ``folder``, unless they exist; returns that folder."""
    own = folder / f"person_{index:02d}"
    for number, image in enumerate(photograph(index)):
        path = own / f"picture_{number}.png"
        if not path.exists():
            write_png(path, image)
    return own


def other_outfit(index: int) -> Outfit:
    """Clothes for the person in three colours that they do not wear, without items that the prompt does not mention."""
    rng = np.random.default_rng([FIRST_PERSON, index, 2])
    own = crowd()[index].outfit
    worn = {own.shirt, own.stripe, own.bottoms_colour, own.shoes, own.hat}
    names = rng.permutation([name for name in CLOTHES if name not in worn])[:3]
    shirt, bottoms, shoes = (str(name) for name in names)
    plain = replace(own, stripe="", bottoms="trousers", hat="", glasses=False)
    return replace(plain, shirt=shirt, bottoms_colour=bottoms, shoes=shoes)


def outfit_prompt(outfit: Outfit) -> str:
    """The prompt of an outfit, including the length of sleeves."""
    article, sleeves = "an" if outfit.shirt == "orange" else "a", "long" if outfit.long_sleeves else "short"
    shirt = f"{article} {outfit.shirt} shirt with {sleeves} sleeves"
    return f"<id> wearing {shirt}, {outfit.bottoms_colour} trousers and {outfit.shoes} shoes"
