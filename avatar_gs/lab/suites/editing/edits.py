"""What suite=editing asks for: people of whom one thing becomes another, and the two sentences."""

from dataclasses import dataclass, replace

import numpy as np

from avatar_gs.lab.metrics.truth import Case
from avatar_gs.lab.world.captions import with_article
from avatar_gs.lab.world.people import Outfit, Person, held_out, pick, random_person
from avatar_gs.lab.world.vocabulary import CLOTHES

FIRST_EDIT = 41_000
CHANGED = ("shirt", "bottoms", "hat")
"""What is changed, by turns: two colours, and a thing that was not there."""


@dataclass(frozen=True)
class Edit:
    """A person before and after; both sentences differ by what is changed alone. Where both wear colours, training saw
    neither outfit."""

    before: Case
    after: Case
    changed: str
    """The part: one of ``CHANGED``."""

    @property
    def old(self) -> str:
        """The colour that the changed part has before; empty where there is no such part."""
        return self.before.asked.get(self.changed, "")

    @property
    def new(self) -> str:
        return self.after.asked[self.changed]


def edits(count: int) -> list[Edit]:
    """The first of a fixed list: held-out people in plain shirts, with hair and without a hat."""
    return [_edit(index, CHANGED[index % len(CHANGED)]) for index in range(count)]


def _edit(index: int, changed: str) -> Edit:
    rng = np.random.default_rng([FIRST_EDIT, index])
    while True:
        person = random_person(rng)
        plain = replace(person.outfit, stripe="", hat="", glasses=False)
        person = replace(person, outfit=plain)
        other = replace(person, outfit=_with(plain, changed, pick(rng, list(CLOTHES))))
        if person.hair and held_out(person) and held_out(other) and _new_colour(person, other):
            return Edit(Case(person, sentence(person)), Case(other, sentence(other)), changed)


def _with(outfit: Outfit, changed: str, colour: str) -> Outfit:
    if changed == "shirt":
        return replace(outfit, shirt=colour)
    return replace(outfit, bottoms_colour=colour) if changed == "bottoms" else replace(outfit, hat=colour)


def _new_colour(before: Person, after: Person) -> bool:
    """Whether the changed part's colour is one that nothing about the person had."""
    return len(_colours(after) - _colours(before)) == 1


def _colours(person: Person) -> set[str]:
    outfit = person.outfit
    return {person.hair, outfit.shirt, outfit.bottoms_colour, outfit.shoes, outfit.hat}


def sentence(person: Person) -> str:
    """All that a person is judged by, in the words of the packaged prior's captions, always in the same order."""
    outfit = person.outfit
    bottoms = f"{outfit.bottoms_colour} {outfit.bottoms}"
    worn = [
        f"{with_article(outfit.shirt)} shirt with {'long' if outfit.long_sleeves else 'short'} sleeves",
        with_article(bottoms) if outfit.bottoms == "skirt" else bottoms,
        f"{outfit.shoes} shoes",
    ]
    worn += [f"{with_article(outfit.hat)} hat"] if outfit.hat else []
    hair = f"{'long' if person.long_hair else 'short'} {person.hair} hair"
    clothes = f"{', '.join(worn[:-1])} and {worn[-1]}"
    return f"a {person.gender} with {hair} and {person.skin} skin wearing {clothes}"
