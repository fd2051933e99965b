"""The edits of suite=editing: people of whom one thing becomes another; and how far an avatar differs after one."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool
from skimage.color import deltaE_ciede2000

from avatar_gs.lab.metrics.avatar import ViewImages
from avatar_gs.lab.metrics.colours import SOLID
from avatar_gs.lab.metrics.truth import CLOSE_UP, Case, Truth
from avatar_gs.lab.metrics.views import DIRECTIONS
from avatar_gs.lab.world import rendering as pic
from avatar_gs.lab.world.captions import with_article
from avatar_gs.lab.world.measure import LEAST_PIXELS
from avatar_gs.lab.world.people import Outfit, Person, held_out, pick, random_person
from avatar_gs.lab.world.vocabulary import CLOTHES, to_lab
from avatar_gs.types import Framing

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


# ---- how far an avatar differs


BARE = {
    "face": (Framing.HEAD, (pic.SKIN, pic.EYE, pic.EYE_WHITE, pic.BROW, pic.MOUTH)),
    "skin": (Framing.BODY, (pic.SKIN,)),
}
"""What has no name of a colour and must stay all the same: the framing that it is seen in, and its part ids."""


def differences(before: ViewImages, after: ViewImages, was: Truth, becomes: Truth) -> dict[str, list[float]]:
    """By part, the mean CIEDE2000 between the two avatars (on grey) in every view that shows it. Only pixels count that
    are this part before the edit and after it."""
    first, second = to_lab(before.on_grey()), to_lab(after.on_grey())
    found: dict[str, list[float]] = {}
    for part, view, mask in _shown(was, becomes):
        found.setdefault(part, []).append(float(deltaE_ciede2000(first[view][mask], second[view][mask]).mean()))
    return found


def _shown(was: Truth, becomes: Truth) -> Iterator[tuple[str, int, Bool[np.ndarray, "S S"]]]:
    """Every part, view and mask of the pixels that show the part before and after, if there are enough of them."""
    for part in [part for part in CLOSE_UP if part in was.case.asked and part in becomes.case.asked]:
        for framing in (Framing.BODY, CLOSE_UP[part]):
            for direction in DIRECTIONS:
                view = was.viewpoints.index(framing, direction)
                mask = was.mask(view, part) & becomes.mask(view, part)
                if mask.sum() >= LEAST_PIXELS:
                    yield part, view, mask
    for part, (framing, ids) in BARE.items():
        for direction in DIRECTIONS:
            view = was.viewpoints.index(framing, direction)
            mask = was.covered(view, ids) & becomes.covered(view, ids)
            if mask.sum() >= LEAST_PIXELS:
                yield part, view, mask


def silhouette_overlap(before: ViewImages, after: ViewImages, truth: Truth) -> float:
    """Intersection over union of the two avatars' solid pixels, in the mean over the full-body views."""
    fractions = []
    for direction in DIRECTIONS:
        view = truth.viewpoints.index(Framing.BODY, direction)
        one, other = before.alpha[view] >= SOLID, after.alpha[view] >= SOLID
        fractions.append(float((one & other).sum() / max((one | other).sum(), 1)))
    return float(np.mean(fractions))
