"""Held-out prompts, and what a right avatar of each looks like: the described person on the run's neutral body."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import binary_erosion, distance_transform_edt

from avatar_gs.body.model import Body
from avatar_gs.body.pose import Pose, a_pose
from avatar_gs.lab.world import rendering as pic
from avatar_gs.lab.world.captions import caption
from avatar_gs.lab.world.dataset import OVERSAMPLING, SIZE, part_masks
from avatar_gs.lab.world.measure import COVERED, LEAST_PIXELS
from avatar_gs.lab.world.people import Person, held_out, named_colours, random_person
from avatar_gs.lab.world.rendering import PART_IDS
from avatar_gs.lab.world.vocabulary import paint_of
from avatar_gs.lab.world.wardrobe import dress, load_wardrobe
from avatar_gs.render.cameras import fixed_views, subject
from avatar_gs.types import Framing, PosedBody, Views

DIRECTIONS = {"front": 0.0, "left": 90.0, "back": 180.0, "right": -90.0}
"""Azimuths in degrees; left is the avatar's own."""
CLOSE_UP = {
    "hair": Framing.HEAD,
    "hat": Framing.HEAD,
    "shirt": Framing.UPPER,
    "bottoms": Framing.LOWER,
    "shoes": Framing.LOWER,
}
"""The framing that shows a part."""
VOLUME_FRAMING = {"long hair": Framing.UPPER, "hat": Framing.HEAD, "skirt": Framing.LOWER}
"""The framing that shows all of a volume that stands off the body."""
VOLUME_PART = {"long hair": pic.HAIR, "hat": pic.HAT, "skirt": pic.BOTTOMS}
NEAR = 0.02
"""Metres: the reach of splats' soft edges."""
SPAN = 1.15
FIRST_PROMPT = 40_000
LIGHT = np.array([0.3, 0.5, 1.0])
BACKGROUND = 0.75
"""The grey behind the people of picture sheets."""
_IN_TURN = ("long hair", "", "hat", "", "skirt", "")
"""What every sixth prompt must have; without it, a dozen prompts may show no hat."""


@dataclass(frozen=True)
class Case:
    """A prompt that training never saw, and the person that it describes."""

    person: Person
    prompt: str

    @property
    def asked(self) -> dict[str, str]:
        """The colour name of every part that the prompt names."""
        return named_colours(self.person)

    @property
    def volumes(self) -> list[str]:
        return volumes(self.person)


def volumes(person: Person) -> list[str]:
    """What stands off the person's body."""
    wears = {
        "long hair": person.long_hair,
        "hat": bool(person.outfit.hat),
        "skirt": person.outfit.bottoms == "skirt",
    }
    return [name for name, worn in wears.items() if worn]


def cases(count: int) -> list[Case]:
    """The first prompts of a fixed list of held-out people in plain shirts (no prompt says where stripes run)."""
    return [_case(index, _IN_TURN[index % len(_IN_TURN)]) for index in range(count)]


def _case(index: int, wanted: str) -> Case:
    rng = np.random.default_rng([FIRST_PROMPT, index])
    while True:
        person = random_person(rng)
        if held_out(person) and not person.outfit.stripe and (not wanted or wanted in volumes(person)):
            return Case(person, full_caption(person, rng))


def red_blue_cases(count: int) -> list[Case]:
    """Held-out people in red and blue: by turns a red shirt over blue and a blue one over red, and no more of them."""
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
    """A caption that says all that the person is judged by, also the lengths of hair and sleeves."""
    while True:
        text = caption(person, rng, mention=1.0)
        if "sleeves" in text and (not person.hair or re.search(r"(long|short) \w+ hair", text)):
            return text


def middling(person: Person) -> Person:
    """The person with every length and width that no prompt speaks of (hems, sleeves, hairline) at its middle."""
    return replace(person, cut=(0.5,) * len(person.cut), hairline=0.5, hair_volume=0.5)


@dataclass(frozen=True)
class Stage:
    """The neutral body in one pose and the views that are measured.

    ``bare`` is where the undressed body is at all (a quarter of a pixel counts).
    """

    posed: PosedBody
    views: Views
    directions: tuple[str, ...]
    bare: Bool[np.ndarray, "V S S"]

    def index(self, framing: Framing, direction: str) -> int:
        return list(zip(self.views.framings, self.directions, strict=True)).index((framing, direction))

    def pixel(self, framing: Framing) -> float:
        """The size of a pixel in metres, where the person stands."""
        return SPAN * subject(self.posed, framing)[1] / SIZE


def set_stage() -> Stage:
    """The views that avatars are measured in: the A-pose in every framing from every direction."""
    framings = [framing for framing in Framing for _ in DIRECTIONS]
    azimuths = [azimuth for _ in Framing for azimuth in DIRECTIONS.values()]
    return stage_of(a_pose(), framings, azimuths, tuple(DIRECTIONS) * len(Framing))


def stage_of(pose: Pose, framings: Sequence[Framing], azimuths: Sequence[float], directions: tuple[str, ...]) -> Stage:
    """Named views (azimuths in degrees) of the free body, which the synthetic people are made of, in a pose."""
    wardrobe = load_wardrobe()
    posed = wardrobe.body.pose(pose)
    fine = fixed_views(posed, framings, azimuths, SIZE * OVERSAMPLING, span=SPAN)
    depth = pic.mesh_depth(posed.vertices.numpy(), wardrobe.faces, fine.cameras)
    cells = np.isfinite(depth).reshape(len(fine), SIZE, OVERSAMPLING, SIZE, OVERSAMPLING)
    views = replace(fine, cameras=fine.cameras.resized(SIZE, SIZE))
    return Stage(posed, views, directions, np.asarray(cells.any((2, 4))))


@dataclass(frozen=True)
class Truth:
    """A right avatar of a case, drawn as a mesh in the stage's views."""

    case: Case
    stage: Stage
    maps: list[pic.PartMap]

    def mask(self, view: int, part: str) -> Bool[np.ndarray, "S S"]:
        """The pixels that a part covers fully, and whose eight neighbours it covers fully too: at a part's very edge,
        even splats that are the truth mix two colours."""
        # Maps hold stripes on plain shirts too, in the shirt's colour.
        return self.covered(view, (pic.SHIRT, pic.STRIPE) if part == "shirt" else (PART_IDS[part],))

    def covered(self, view: int, ids: Sequence[int]) -> Bool[np.ndarray, "S S"]:
        """The same for what has any of these part ids (``mini.picture``)."""
        covered = np.sum([part_masks(self.maps[view], number) for number in ids], 0) > COVERED
        return np.asarray(binary_erosion(covered, np.ones((3, 3))))

    def shows(self, view: int, part: str) -> bool:
        """Whether there is enough of a part to judge it by."""
        return bool(self.mask(view, part).sum() >= LEAST_PIXELS)

    @cached_property
    def silhouettes(self) -> Bool[np.ndarray, "V S S"]:
        """Where the dressed person is at all."""
        return np.stack([part_masks(part_map, pic.BACKGROUND) < 1 for part_map in self.maps])

    def volume(self, view: int, name: str) -> tuple[Bool[np.ndarray, "S S"], Bool[np.ndarray, "S S"]]:
        """The true pixels of a volume outside the bare body, and the pixels where it is judged: those, and what is
        more than ``NEAR`` from the bare body and from the person's other clothes and hair (nearer, the soft edge of any
        splat is no mistake)."""
        of_part = part_masks(self.maps[view], VOLUME_PART[name])
        others = 1 - part_masks(self.maps[view], pic.BACKGROUND) - of_part > 0.05
        true = (of_part > 0.5) & ~self.stage.bare[view]
        away = np.asarray(distance_transform_edt(~(self.stage.bare[view] | others)))
        return true, true | (away * self.stage.pixel(VOLUME_FRAMING[name]) > NEAR)

    @cached_property
    def colours(self) -> Float[np.ndarray, "P 3"]:
        """The colour of every part id in 0..255, before shading: the palette's own."""
        colour = {part: paint_of(name) for part, name in self.case.asked.items()}
        clothes = {"stripe": colour["shirt"], "hat": (0.0, 0.0, 0.0)} | colour
        return pic.palette(self.case.person, clothes, np.full(3, 255 * BACKGROUND))

    def picture(self, view: int) -> Float[np.ndarray, "S S 3"]:
        """What the person looks like."""
        out = np.empty((SIZE, SIZE, 3), np.uint8)
        pic.colour_image(self.maps[view].parts, self.maps[view].shade, self.colours, out, OVERSAMPLING)
        return out.astype(np.float32) / 255


def draw_truth(case: Case, stage: Stage) -> Truth:
    """The case's person (see ``middling``) on the stage's body, whatever shape the prompt speaks of."""
    wardrobe = load_wardrobe()
    person = middling(case.person)
    size = SIZE * OVERSAMPLING
    fine = stage.views.cameras.resized(size, size)
    unshaped = np.zeros_like(wardrobe.vertices)
    maps = pic.render_parts(wardrobe, dress(wardrobe, person), person, stage.posed, unshaped, fine, LIGHT)
    return Truth(case, stage, maps)


def neutral_body(device: torch.device | str) -> Body:
    """The body that avatars are measured on."""
    return load_wardrobe().body.to(device)
