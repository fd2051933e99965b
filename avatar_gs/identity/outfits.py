"""Rehearsing other clothes while a person is learned, so that a prompt can still change them.

Photos of one outfit teach that the person *is* that outfit. So the prior first paints somebody who is described as
the photos were, in their clothes and in others, and is asked of its own paintings, with ``<id>`` in the prompt, what it
says of them with the description in its place. The difference is a loss without noise (a distillation of words into
rows), which is meant to leave the clothes that a prompt names to the prompt. What not everybody wears, such as a hat,
no other outfit contradicts: it is said with ``<id>`` wherever it is seen, of photos too, so that the rows need not hold
it. What words do not say (the face, the very shade) the photos teach. ``stage=evaluate suite=identity`` measures what
it does (table "Choices").
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.core.seeding import generator
from avatar_gs.guidance.methods.base import with_noise
from avatar_gs.identity.denoising import sample_latents, stratified_times
from avatar_gs.identity.description import Description, templates
from avatar_gs.prior.config import MINI_NEGATIVE, PromptStyle
from avatar_gs.prior.prompts import PLACEHOLDER, with_accessories
from avatar_gs.protocols import Describable, IdentityPrior

OWN, OTHERS = 24, 24
"""Paintings in the clothes of the photos, where ``<id>`` is said (and a hat, if there is one), and in others, which are
named."""
SOMETIMES = 0.2
"""How often another outfit has what not everybody wears."""
STEPS, CFG_SCALE = 12, 4.0
NEGATIVE = {PromptStyle.mini: MINI_NEGATIVE, PromptStyle.sd: ""}
EARLIEST = 0.3
"""Rehearsed are the times after this share of the prior's: what is said in words shows in noise."""
MOST = 5.0
"""Errors count by sigma/alpha, up to this."""


@dataclass(frozen=True)
class Rehearsals:
    """What the prior painted; ``said`` are the prompts with ``<id>`` and ``meant`` those with the description."""

    latents: Float[Tensor, "M c h w"]
    said: tuple[str, ...]
    meant: tuple[str, ...]


def rehearse(prior: IdentityPrior, description: Description, style: PromptStyle, seed: int) -> Rehearsals:
    """Lets the prior paint the described person in their own clothes and in others, in the framings of the templates
    in turn."""
    draws = generator(seed, 0, "rehearse")
    people = [description] * OWN + other_outfits(prior.describable, description, OTHERS, draws)
    groups = templates(style)
    own = with_accessories(PLACEHOLDER, description.accessories(prior.describable))
    said, meant = [], []
    for index, person in enumerate(people):
        group = groups[index % len(groups)]
        template = group[int(torch.randint(len(group), (1,), generator=draws))]
        said.append(template.format(own if index < OWN else person.worn_by(PLACEHOLDER)))
        meant.append(template.format(person.whole()))
    latents = sample_latents(prior, meant, NEGATIVE[style], draws, steps=STEPS, cfg_scale=CFG_SCALE)
    return Rehearsals(latents, tuple(said), tuple(meant))


def other_outfits(
    words: Describable, description: Description, count: int, draws: torch.Generator
) -> list[Description]:
    """The same person in clothes of which the description names none."""
    worn = description.worn_by("")

    def outfit() -> dict[str, str]:
        clothes = {}
        for part, options in words.clothes.items():
            others = [option for option in options if option and option not in worn]
            skipped = "" in options and float(torch.rand((), generator=draws)) > SOMETIMES
            if others and not skipped:
                clothes[part] = others[int(torch.randint(len(others), (1,), generator=draws))]
        return clothes

    return [replace(description, clothes=outfit()) for _ in range(count)]


def rehearsal_error(
    prior: IdentityPrior,
    rehearsals: Rehearsals,
    rows: Float[Tensor, "n d"],
    count: int,
    draws: torch.Generator,
) -> Float[Tensor, " count"]:
    """How far the prior's predictions with ``<id>`` are from those with the description, on ``count`` of its paintings:
    weighted mean squares, differentiable in ``rows``."""
    picks = torch.randperm(len(rehearsals.latents), generator=draws)[:count].tolist()
    z = rehearsals.latents[picks]
    shares = (torch.arange(prior.num_timesteps) >= EARLIEST * prior.num_timesteps).float()
    times = stratified_times(shares / shares.sum(), len(picks), draws)
    t = times[torch.randperm(len(picks), generator=draws)].to(z.device)
    z_t = with_noise(prior, z, t, torch.randn(z.shape, generator=draws).to(z.device)).z_t
    with torch.no_grad():
        meant = prior.eps(z_t, t, prior.encode_prompts([rehearsals.meant[pick] for pick in picks]), None)
    said = prior.eps(z_t, t, prior.encode_prompts([rehearsals.said[pick] for pick in picks], rows), None)
    weights = (prior.sigma(t) / prior.alpha(t)).clamp(max=MOST)
    return weights * (said - meant).square().mean((1, 2, 3))
