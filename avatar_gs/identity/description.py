"""What photos show, in words: the prior itself is asked (a diffusion classifier: Li et al. 2023).

Words fit a photo when they let the prior tell the photo's noise well, at the same noise for all alternatives.
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

# Stable Diffusion: 9 kinds of picture of each of 3 framings, said in 3 ways.
_SD_KINDS = (
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
_SD_FRAMINGS = ("{kind} of the face of {{}}", "{kind}, a portrait of {{}}", "{kind} of {{}}, full body")
_SD_ENDINGS = ("", ", plain background", ", looking natural")

# The packaged prior: openings as in its captions, which end in framing and view.
_MINI_OPENINGS = ("", "a photo of ", "a picture of ", "an image of ", "a portrait of ", "a photograph of ", "here is ")
_MINI_ENDINGS = tuple(
    tuple(f", {framing}, {view}" for view in MINI_DIRECTION_WORDS.values()) for framing in FRAMING_WORDS.values()
)


def templates(style: PromptStyle) -> tuple[tuple[str, ...], ...]:
    """The templates of a prior's style, a group for each framing; 81 or more in all. Framings are told apart by the
    prior (a test asks the packaged one); views are not, since pose maps show it those: so a group names them all."""
    if style is PromptStyle.mini:
        return tuple(
            tuple(f"{opening}{{}}{ending}" for opening, ending in product(_MINI_OPENINGS, endings))
            for endings in _MINI_ENDINGS
        )
    patterns = list(product(_SD_KINDS, _SD_ENDINGS))
    return tuple(tuple(framing.format(kind=kind) + ending for kind, ending in patterns) for framing in _SD_FRAMINGS)


SORTING_TIMES = (0.25, 0.4, 0.55, 0.7, 0.85)
"""Shares of the prior's time steps at which it is asked which framing a photo has."""
DESCRIBING_TIMES = (0.95, 0.85, 0.75, 0.65)
"""The same of what photos show: colours are settled while little but noise is seen."""
KEPT, FEWEST = 3, 3
"""After each time every third alternative stays in the race, and three at least (successive halving)."""


@dataclass(frozen=True)
class Description:
    """Somebody in words. ``looks`` and ``clothes`` are by part."""

    person: str
    looks: Mapping[str, str] = field(default_factory=dict)
    clothes: Mapping[str, str] = field(default_factory=dict)

    def whole(self) -> str:
        """The person with looks and clothes."""
        looks = _listed(self.looks.values())
        return self.worn_by(f"{self.person} with {looks}" if looks else self.person)

    def worn_by(self, who: str) -> str:
        """Somebody else in these clothes."""
        clothes = _listed(self.clothes.values())
        return f"{who}{WEARING}{clothes}" if clothes else who

    def accessories(self, words: Describable) -> str:
        """Of the clothes, those that not everybody wears, such as a hat."""
        worn = self.worn_by("")
        options = [option for some in words.clothes.values() if "" in some for option in some if option]
        return _listed(option for option in options if re.search(rf"\b{re.escape(option)}\b", worn))

    @classmethod
    def parse(cls, text: str) -> "Description":
        """A sentence such as "a man with short hair wearing a red shirt": what is before "wearing" is the person."""
        person, _, clothes = text.strip().partition(WEARING)
        return cls(person.strip(), {}, {"all": clothes.strip()})


def _listed(words: Iterable[str]) -> str:
    said = [word for word in words if word]
    return f"{', '.join(said[:-1])} and {said[-1]}" if len(said) > 1 else "".join(said)


@torch.no_grad()
def sort_photos(
    prior: IdentityPrior, latents: Float[Tensor, "M c h w"], groups: Sequence[tuple[str, ...]], seed: int
) -> list[tuple[str, ...]]:
    """The group of templates that fits each photo: the one whose first template, said of "a person", fits it best."""
    conditions = prior.encode_prompts([group[0].format(SOMEBODY) for group in groups])
    t, noise = _trials(prior, SORTING_TIMES, tuple(latents.shape[1:]), generator(seed, 0, "sort"))
    errors = []
    for z in latents:
        repeated = z.expand(len(t), *z.shape)
        rows = [prediction_error(prior, repeated, t, noise, c.expand(len(t), *c.shape)) for c in conditions]
        errors.append(torch.stack(rows).mean(1))
    return [groups[int(error.argmin())] for error in errors]


@torch.no_grad()
def describe_photos(
    prior: IdentityPrior,
    latents: Float[Tensor, "N c h w"],
    phrases: Sequence[tuple[str, ...]],
    words: Describable,
    seed: int,
) -> Description:
    """What all photos of one person show, part by part, each in the words that fit them best beside those found
    before: who it is, what everybody wears, looks, what some wear, and looks again.

    Args:
        phrases: the templates that fit each photo.
    """
    t, noise = _trials(prior, DESCRIBING_TIMES, tuple(latents.shape), generator(seed, 0, "describe"))

    def fit(options: Sequence[Description]) -> int:
        left, errors = list(range(len(options))), torch.zeros(len(options))
        for time, same in zip(t, noise, strict=True):
            for option in left:
                cond = prior.encode_prompts([group[0].format(options[option].whole()) for group in phrases])
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
        if "" in options:  # said before the hair, a hat would be seen in pink hair
            found = wearing(part, options)
    for part, options in words.looks.items():  # once more: a yellow hat is seen in the hair
        found = looking(part, options)
    return found


def _trials(
    prior: IdentityPrior, shares: Sequence[float], shape: tuple[int, ...], draws: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Time steps, and noise of ``shape`` for each."""
    t = (torch.tensor(shares) * (prior.num_timesteps - 1)).long()
    return t.to(prior.device), torch.randn((len(t), *shape), generator=draws).to(prior.device)
