"""Samples of a prior for people that its training never saw, and the colours of their clothes."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8

from avatar_gs.lab.people.person import Person, held_out, random_person
from avatar_gs.lab.people.rendering import SUPERSAMPLE, Part
from avatar_gs.lab.people.samples import Sample, samples_of
from avatar_gs.lab.people.vocabulary import CLOTHES, HAIR_COLOURS, SUITS
from avatar_gs.lab.people.wardrobe import Wardrobe
from avatar_gs.lab.world.measure import Sampler
from avatar_gs.lab.world.vocabulary import NEGATIVE_WORDS, to_lab

LEAST_PIXELS = 60
"""Parts that cover fewer pixels are not judged."""
SHOWN_ON = {
    Part.TOP: ("body", "upper"),
    Part.BOTTOMS: ("body", "lower"),
    Part.DRESS: ("body", "upper", "lower"),
    Part.HAIR: ("head", "upper"),
    Part.SHOES: ("lower",),
    Part.HAT: ("head", "upper"),
}
"""Framings that show a part well."""
BATCH = 8


def held_out_trials(wardrobe: Wardrobe, count: int, size: int, seed: int) -> list[Sample]:
    """One image each of ``count`` people in combinations of colours that no training shows.

    Args:
        size: pixels of a side.
    """
    trials = []
    for index in range(count):
        rng = np.random.default_rng([seed, 77, index])
        person = random_person(rng, wardrobe.basis.local_changes)
        while not held_out(person):
            person = random_person(rng, wardrobe.basis.local_changes)
        trials += samples_of(wardrobe, person, rng, views=1, size=size, captions=1)
    return trials


@torch.no_grad()
def sample(
    prior: Sampler,
    trials: Sequence[Sample],
    *,
    cfg_scale: float,
    pose_scale: float,
    generator: torch.Generator,
    steps: int = 20,
    on_batch: Callable[[int], object] = lambda done: None,
) -> list[UInt8[np.ndarray, "S S 3"]]:
    """The prior's DDIM samples for the trials' first captions and pose maps.

    Args:
        on_batch: called with the number of images done.
    """
    images: list[np.ndarray] = []
    for start in range(0, len(trials), BATCH):
        chunk = trials[start : start + BATCH]
        control = torch.from_numpy(np.stack([trial.control for trial in chunk])).float() / 255
        prompts, negatives = [trial.captions[0] for trial in chunk], [", ".join(NEGATIVE_WORDS)] * len(chunk)
        scales = {"cfg_scale": cfg_scale, "pose_scale": pose_scale}
        found = prior.sample(prompts, negatives, control, steps=steps, generator=generator, **scales)
        images += list((found.clamp(0, 1) * 255).round().byte().cpu().numpy())
        on_batch(len(images))
    return images


def named_colours(person: Person) -> dict[Part, str]:
    """The colour that captions name of each garment and of hair.

    Striped garments are left out, and original textures, whose colours are only roughly those of their words.
    """
    outfit = person.outfit
    top = "" if outfit.top.stripe or (outfit.top.is_suit and SUITS[outfit.top.item].striped) else outfit.top.colour
    names = {Part.DRESS: top} if outfit.is_dress else {Part.TOP: top, Part.BOTTOMS: outfit.bottoms.colour}
    names |= {Part.SHOES: outfit.shoes_colour, Part.HAT: outfit.hat, Part.HAIR: person.hair_colour}
    return {part: name for part, name in names.items() if name}


def right_colours(trials: Sequence[Sample], images: Sequence[UInt8[np.ndarray, "S S 3"]]) -> dict[str, tuple[int, int]]:
    """How many parts have the colour of the caption, by part: (right, all).

    A part is right when the nearest name (in CIELAB) of its median colour, where the drawn truth shows it, is the
    caption's.
    """
    counts: dict[str, tuple[int, int]] = {}
    for trial, image in zip(trials, images, strict=True):
        for part, name in named_colours(trial.person).items():
            mask = trial.drawn.parts[::SUPERSAMPLE, ::SUPERSAMPLE] == part
            if trial.framing not in SHOWN_ON[part] or mask.sum() < LEAST_PIXELS:
                continue
            found = nearest_name(np.median(image[mask], 0), HAIR_COLOURS if part is Part.HAIR else CLOTHES)
            right, count = counts.get(part.name.lower(), (0, 0))
            counts[part.name.lower()] = (right + (found == name), count + 1)
    return counts


def nearest_name(rgb: Float[np.ndarray, "3"], palette: dict[str, tuple[int, int, int]]) -> str:
    """The palette's name of a colour (0..255)."""
    names = list(palette)
    reference = to_lab(np.array([palette[name] for name in names]) / 255)
    return names[int(np.linalg.norm(to_lab(rgb[None] / 255) - reference, axis=1).argmin())]
