"""Held-out prompts and their ground truth: the described person on the neutral body, rendered as a mesh."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import binary_erosion, distance_transform_edt

from avatar_gs.lab.metrics.views import Viewpoints
from avatar_gs.lab.world import rendering as pic
from avatar_gs.lab.world.captions import caption
from avatar_gs.lab.world.dataset import OVERSAMPLING, SIZE, part_masks
from avatar_gs.lab.world.measure import COVERED, LEAST_PIXELS
from avatar_gs.lab.world.people import Person, held_out, named_colours, random_person
from avatar_gs.lab.world.rendering import PART_IDS
from avatar_gs.lab.world.vocabulary import paint_of
from avatar_gs.lab.world.wardrobe import dress, load_wardrobe
from avatar_gs.types import Framing

CLOSE_UP = {
    "hair": Framing.HEAD,
    "hat": Framing.HEAD,
    "shirt": Framing.UPPER,
    "bottoms": Framing.LOWER,
    "shoes": Framing.LOWER,
}
"""The framing that shows each part."""
VOLUME_FRAMING = {"long hair": Framing.UPPER, "hat": Framing.HEAD, "skirt": Framing.LOWER}
"""The framing that shows each volume that extends beyond the body."""
VOLUME_PART = {"long hair": pic.HAIR, "hat": pic.HAT, "skirt": pic.BOTTOMS}
NEAR = 0.02
"""Extent of splats' soft edges in metres."""
FIRST_PROMPT = 40_000
LIGHT = np.array([0.3, 0.5, 1.0])
BACKGROUND = 0.75
"""Grey level behind the people of contact sheets."""
_IN_TURN = ("long hair", "", "hat", "", "skirt", "")
"""Volume that each of six prompts in turn must have, so that every list has all of them."""


@dataclass(frozen=True)
class Case:
    """A held-out prompt and the person that it describes."""

    person: Person
    prompt: str

    @property
    def asked(self) -> dict[str, str]:
        """The colour name of each part that the prompt names."""
        return named_colours(self.person)

    @property
    def volumes(self) -> list[str]:
        return volumes(self.person)


def volumes(person: Person) -> list[str]:
    """Hair and clothes that extend beyond the person's body."""
    wears = {
        "long hair": person.long_hair,
        "hat": bool(person.outfit.hat),
        "skirt": person.outfit.bottoms == "skirt",
    }
    return [name for name, worn in wears.items() if worn]


def cases(count: int) -> list[Case]:
    """The first ``count`` of a fixed list of held-out people, in plain shirts since prompts do not describe stripes."""
    return [_case(index, _IN_TURN[index % len(_IN_TURN)]) for index in range(count)]


def _case(index: int, wanted: str) -> Case:
    rng = np.random.default_rng([FIRST_PROMPT, index])
    while True:
        person = random_person(rng)
        if held_out(person) and not person.outfit.stripe and (not wanted or wanted in volumes(person)):
            return Case(person, full_caption(person, rng))


def red_blue_cases(count: int) -> list[Case]:
    """Held-out people in red over blue and blue over red, alternating, with nothing else in these colours."""
    rng = np.random.default_rng(FIRST_PROMPT)
    found: list[Case] = []
    while len(found) < count:
        person = random_person(rng)
        shirt, bottoms = ("red", "blue") if len(found) % 2 == 0 else ("blue", "red")
        person = replace(person, outfit=replace(person.outfit, shirt=shirt, bottoms_colour=bottoms, stripe="", hat=""))
        if held_out(person) and not {"red", "blue"} & {person.hair, person.outfit.shoes}:
            found.append(Case(person, full_caption(person, rng)))
    return found


def full_caption(person: Person, rng: np.random.Generator) -> str:
    """A caption with everything that is measured, including the lengths of hair and sleeves."""
    while True:
        text = caption(person, rng, mention=1.0)
        if "sleeves" in text and (not person.hair or re.search(r"(long|short) \w+ hair", text)):
            return text


def with_average_cut(person: Person) -> Person:
    """The person with lengths and widths that prompts do not describe (hems, sleeves, hairline) at their means."""
    return replace(person, cut=(0.5,) * len(person.cut), hairline=0.5, hair_volume=0.5)


@dataclass(frozen=True)
class Truth:
    """The ground truth of a case: part maps of the person's mesh in each view."""

    case: Case
    viewpoints: Viewpoints
    maps: list[pic.PartMap]

    def mask(self, view: int, part: str) -> Bool[np.ndarray, "S S"]:
        """The pixels that a part covers fully together with their eight neighbours: at its edge, even correct splats
        mix two colours."""
        # part maps have stripes on plain shirts too, in the shirt's colour
        return self.covered(view, (pic.SHIRT, pic.STRIPE) if part == "shirt" else (PART_IDS[part],))

    def covered(self, view: int, ids: Sequence[int]) -> Bool[np.ndarray, "S S"]:
        """``mask`` for a set of part ids (``world.rendering``)."""
        covered = np.sum([part_masks(self.maps[view], number) for number in ids], 0) > COVERED
        return np.asarray(binary_erosion(covered, np.ones((3, 3))))

    def shows(self, view: int, part: str) -> bool:
        """Whether enough pixels of a part are visible to measure it."""
        return bool(self.mask(view, part).sum() >= LEAST_PIXELS)

    @cached_property
    def silhouettes(self) -> Bool[np.ndarray, "V S S"]:
        """The pixels that the dressed person touches."""
        return np.stack([part_masks(part_map, pic.BACKGROUND) < 1 for part_map in self.maps])

    def volume(self, view: int, name: str) -> tuple[Bool[np.ndarray, "S S"], Bool[np.ndarray, "S S"]]:
        """The mask of a volume outside the bare body, and the domain where it is measured: the mask and all pixels more
        than ``NEAR`` from the bare body and the person's other clothes and hair, where soft edges are no error."""
        of_part = part_masks(self.maps[view], VOLUME_PART[name])
        others = 1 - part_masks(self.maps[view], pic.BACKGROUND) - of_part > 0.05
        true = (of_part > 0.5) & ~self.viewpoints.bare[view]
        away = np.asarray(distance_transform_edt(~(self.viewpoints.bare[view] | others)))
        return true, true | (away * self.viewpoints.pixel(VOLUME_FRAMING[name]) > NEAR)

    @cached_property
    def colours(self) -> Float[np.ndarray, "P 3"]:
        """The unshaded palette colour of each part id in 0..255."""
        colour = {part: paint_of(name) for part, name in self.case.asked.items()}
        clothes = {"stripe": colour["shirt"], "hat": (0.0, 0.0, 0.0)} | colour
        return pic.palette(self.case.person, clothes, np.full(3, 255 * BACKGROUND))

    def image(self, view: int) -> Float[np.ndarray, "S S 3"]:
        """The rendered person in [0, 1] on grey."""
        out = np.empty((SIZE, SIZE, 3), np.uint8)
        pic.colour_image(self.maps[view].parts, self.maps[view].shade, self.colours, out, OVERSAMPLING)
        return out.astype(np.float32) / 255


def render_truth(case: Case, viewpoints: Viewpoints) -> Truth:
    """Render the case's person (see ``with_average_cut``) on the neutral body, not in the prompt's body shape."""
    wardrobe = load_wardrobe()
    person = with_average_cut(case.person)
    size = SIZE * OVERSAMPLING
    fine = viewpoints.views.cameras.resized(size, size)
    unshaped = np.zeros_like(wardrobe.vertices)
    maps = pic.render_parts(wardrobe, dress(wardrobe, person), person, viewpoints.posed, unshaped, fine, LIGHT)
    return Truth(case, viewpoints, maps)
