"""Prompts with a known right answer: random people in random poses and views, as text, pose map and drawn truth."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from avatar_gs.lab.world.captions import caption, view_suffix
from avatar_gs.lab.world.dataset import (
    CAMERAS,
    SIZE,
    Sample,
    beyond_doubt,
    draw_sample,
    paint,
    part_masks,
    view_of,
)
from avatar_gs.lab.world.heads import Head, find_heads
from avatar_gs.lab.world.people import Person, held_out, random_person
from avatar_gs.lab.world.wardrobe import load_wardrobe
from avatar_gs.render.config import CamerasConfig
from avatar_gs.types import Framing, ViewDirection

COVERED = 0.95


@dataclass(frozen=True)
class Trial:
    """One prompt and what a right picture of it is. ``truth`` is the drawn picture in [0, 1]."""

    person: Person
    framing: Framing
    view: ViewDirection
    prompt: str
    sample: Sample
    truth: NDArray[np.float32]

    @property
    def control(self) -> NDArray[np.float32]:
        return self.sample.controls[0].astype(np.float32) / np.float32(255)

    @cached_property
    def head(self) -> Head:
        """Where the head is in a right picture, and how it is turned."""
        return find_heads(self.sample.posed, self.sample.views.cameras.resized(SIZE, SIZE))[0]

    @property
    def clear(self) -> bool:
        """Whether the camera, and the head on its own, are well inside the view that the prompt names."""
        turns = (float(self.sample.views.azimuth[0]), self.head.turn)
        return all(view_of(turn) is self.view and beyond_doubt(turn) for turn in turns)

    def mask(self, part: int) -> NDArray[np.bool_]:
        return part_masks(self.sample.maps[0], part) > COVERED


def trials(count: int, seed: int, *, held: bool = True, cameras: CamerasConfig | None = None) -> list[Trial]:
    """Random people in random poses, framings and views; with ``held``, only combinations kept from training."""
    wardrobe = load_wardrobe()
    rng = np.random.default_rng(seed)
    found: list[Trial] = []
    while len(found) < count:
        person = random_person(rng)
        if held_out(person) != held:
            continue
        spread = 0.1 if len(found) % 2 else float(rng.uniform(0.2, 0.9))
        sample = draw_sample(wardrobe, person, cameras or CAMERAS, 1, rng, spread)
        framing, view = sample.views.framings[0], view_of(float(sample.views.azimuth[0]))
        prompt = caption(person, rng, 1.0) + view_suffix(framing, view)
        grey = np.full(3, 190.0)
        truth = paint(person, sample.maps[0], rng, grey).astype(np.float32) / np.float32(255)
        found.append(Trial(person, framing, view, prompt, sample, truth))
    return found
