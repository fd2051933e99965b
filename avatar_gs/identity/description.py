"""Descriptions of photos by the prior itself, as a diffusion classifier (Li et al. 2023), and templates of captions.

Words fit a photo if the prior predicts the photo's noise well with them; all alternatives are compared on the same
noise.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.core.seeding import generator
from avatar_gs.identity.denoising import prediction_error
from avatar_gs.prior.config import WEARING, PromptStyle
from avatar_gs.prior.prompts import FRAMING_WORDS, MINI_DIRECTION_WORDS, SOMEBODY
from avatar_gs.protocols import Describable, IdentityPrior

# Stable Diffusion: 9 media, 3 framings, 3 endings.
_SD_MEDIA = (
    "a photo",
    "a close photo",
    "a bright photo",
    "a cropped photo",
    "a good photo",
    "a studio photo",
    "a snapshot",
    "a picture",
    "a rendering",
)
_SD_FRAMINGS = ("{medium} of the face of {{}}", "{medium}, a portrait of {{}}", "{medium} of {{}}, full body")
_SD_ENDINGS = ("", ", plain background", ", looking natural")

# The packaged prior: openings of its captions, which end in framing and view.
_MINI_OPENINGS = ("", "a photo of ", "a picture of ", "an image of ", "a portrait of ", "a photograph of ", "here is ")
_MINI_ENDINGS = tuple(
    tuple(f", {framing}, {view}" for view in MINI_DIRECTION_WORDS.values()) for framing in FRAMING_WORDS.values()
)


def templates(style: PromptStyle) -> tuple[tuple[str, ...], ...]:
    """Captions of photos with ``{}`` in place of ``<id>``, grouped by framing; at least 81.

    A photo is captioned by the group that the prior finds fits best (``sort_photos``), since the identity would learn
    to counteract wrong words. The prior cannot tell views apart without pose maps: a group contains all of them.
    """
    if style is PromptStyle.mini:
        return tuple(
            tuple(f"{opening}{{}}{ending}" for opening, ending in product(_MINI_OPENINGS, endings))
            for endings in _MINI_ENDINGS
        )
    patterns = list(product(_SD_MEDIA, _SD_ENDINGS))
    return tuple(
        tuple(framing.format(medium=medium) + ending for medium, ending in patterns) for framing in _SD_FRAMINGS
    )


SORTING_TIMES = (0.25, 0.4, 0.55, 0.7, 0.85)
"""Fractions of the prior's timesteps at which framings are compared."""
DESCRIBING_TIMES = (0.95, 0.85, 0.75, 0.65)
"""The same for descriptions: colours are determined at high noise."""
KEPT, FEWEST = 3, 3
"""After each timestep the best third of the alternatives is kept, and at least three (successive halving)."""


@dataclass(frozen=True)
class Description:
    """A person in words; ``looks`` and ``clothes`` are by part."""

    person: str
    looks: Mapping[str, str] = field(default_factory=dict)
    clothes: Mapping[str, str] = field(default_factory=dict)

    def whole(self) -> str:
        """The person with looks and clothes."""
        looks = _listed(self.looks.values())
        return self.worn_by(f"{self.person} with {looks}" if looks else self.person)

    def worn_by(self, who: str) -> str:
        """Another person in these clothes."""
        clothes = _listed(self.clothes.values())
        return f"{who}{WEARING}{clothes}" if clothes else who

    def accessories(self, words: Describable) -> str:
        """The clothes that not everybody wears, such as a hat."""
        worn = self.worn_by("")
        options = [option for some in words.clothes.values() if "" in some for option in some if option]
        return _listed(option for option in options if re.search(rf"\b{re.escape(option)}\b", worn))

    @classmethod
    def parse(cls, text: str) -> "Description":
        """From a sentence such as "a man with short hair wearing a red shirt", split at "wearing"."""
        person, _, clothes = text.strip().partition(WEARING)
        return cls(person.strip(), {}, {"all": clothes.strip()})


def _listed(words: Iterable[str]) -> str:
    listed = [word for word in words if word]
    return f"{', '.join(listed[:-1])} and {listed[-1]}" if len(listed) > 1 else "".join(listed)


@torch.no_grad()
def sort_photos(
    prior: IdentityPrior, latents: Float[Tensor, "M c h w"], groups: Sequence[tuple[str, ...]], seed: int
) -> list[tuple[str, ...]]:
    """The group of templates for each photo: the one whose first template, with "a person", fits it best."""
    conditions = prior.encode_prompts([group[0].format(SOMEBODY) for group in groups])
    t, noise = _trials(prior, SORTING_TIMES, tuple(latents.shape[1:]), generator(seed, 0, "sort"))
    errors = []
    for z in latents:
        repeated = z.expand(len(t), *z.shape)
        by_group = [prediction_error(prior, repeated, t, noise, c.expand(len(t), *c.shape)) for c in conditions]
        errors.append(torch.stack(by_group).mean(1))
    return [groups[int(error.argmin())] for error in errors]


@torch.no_grad()
def describe_photos(
    prior: IdentityPrior,
    latents: Float[Tensor, "N c h w"],
    captions: Sequence[tuple[str, ...]],
    words: Describable,
    seed: int,
) -> Description:
    """Describe all photos of one person part by part, each in the words that fit best given the parts found before.

    The order is: the person, clothes that everybody wears, looks, other clothes, and looks again. ``captions`` are the
    templates of each photo, ``words`` the alternatives.
    """
    t, noise = _trials(prior, DESCRIBING_TIMES, tuple(latents.shape), generator(seed, 0, "describe"))

    def fit(options: Sequence[Description]) -> int:
        left, errors = list(range(len(options))), torch.zeros(len(options))
        for time, same in zip(t, noise, strict=True):
            for option in left:
                cond = prior.encode_prompts([group[0].format(options[option].whole()) for group in captions])
                times = time.expand(len(latents))
                errors[option] += prediction_error(prior, latents, times, same, cond).sum().cpu()
            ranked = sorted(left, key=lambda option: float(errors[option]))
            left = ranked[: max(FEWEST, len(ranked) // KEPT)]
        return left[0]

    def looking(part: str, options: Sequence[str]) -> Description:
        choices = [replace(found, looks={**found.looks, part: option}) for option in options]
        return choices[fit(choices)]

    def wearing(part: str, options: Sequence[str]) -> Description:
        choices = [replace(found, clothes={**found.clothes, part: option}) for option in options]
        return choices[fit(choices)]

    people = [Description(person) for person in words.person]
    found = people[fit(people)]
    for part, options in words.clothes.items():
        if "" not in options:
            found = wearing(part, options)
    for part, options in words.looks.items():
        found = looking(part, options)
    for part, options in words.clothes.items():
        if "" in options:  # before the hair, pink hair would be taken for a hat
            found = wearing(part, options)
    for part, options in words.looks.items():  # again: a yellow hat was taken for the hair
        found = looking(part, options)
    return found


def _trials(
    prior: IdentityPrior, fractions: Sequence[float], shape: tuple[int, ...], random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Timesteps, and noise of ``shape`` for each."""
    t = (torch.tensor(fractions) * (prior.num_timesteps - 1)).long()
    return t.to(prior.device), torch.randn((len(t), *shape), generator=random).to(prior.device)
