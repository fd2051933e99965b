"""Distilling descriptions of other outfits into an identity, so that prompts can still change a person's clothes.

Photos of one outfit teach that the outfit is part of the person. Therefore the prior samples images of the described
person in the clothes of the photos and in others, and its predictions on them with ``<id>`` in the prompt are trained
towards its predictions with the description in the place of ``<id>``: a loss without noise, which leaves clothes to the
prompt. Accessories that not everybody wears, such as a hat, are not contradicted by other outfits; they are named next
to ``<id>`` wherever they are visible. The face and exact shades are learned from the photos.
``stage=evaluate suite=identity`` measures the effect (table "Choices").
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
"""Samples in the clothes of the photos, which ``<id>`` stands for (with accessories named), and in other clothes, which
are named."""
SOMETIMES = 0.2
"""Probability that another outfit includes an optional accessory."""
STEPS, CFG_SCALE = 12, 4.0
NEGATIVE = {PromptStyle.mini: MINI_NEGATIVE, PromptStyle.sd: ""}
EARLIEST = 0.3
"""Smallest timestep that is trained, as a fraction of the prior's: words show at high noise."""
MAX_WEIGHT = 5.0
"""Upper bound of the errors' weight sigma/alpha."""


@dataclass(frozen=True)
class OutfitSamples:
    """Latents that the prior sampled, with a prompt that names ``<id>`` and one with the description for each."""

    latents: Float[Tensor, "M c h w"]
    with_id: tuple[str, ...]
    described: tuple[str, ...]


def sample_outfits(prior: IdentityPrior, description: Description, style: PromptStyle, seed: int) -> OutfitSamples:
    """Sample the described person in the clothes of the photos and in others, in the templates' framings in turn."""
    random = generator(seed, 0, "rehearse")
    people = [description] * OWN + other_outfits(prior.describable, description, OTHERS, random)
    groups = templates(style)
    own = with_accessories(PLACEHOLDER, description.accessories(prior.describable))
    with_id, described = [], []
    for index, person in enumerate(people):
        group = groups[index % len(groups)]
        template = group[int(torch.randint(len(group), (1,), generator=random))]
        with_id.append(template.format(own if index < OWN else person.worn_by(PLACEHOLDER)))
        described.append(template.format(person.whole()))
    latents = sample_latents(prior, described, NEGATIVE[style], random, steps=STEPS, cfg_scale=CFG_SCALE)
    return OutfitSamples(latents, tuple(with_id), tuple(described))


def other_outfits(
    words: Describable, description: Description, count: int, random: torch.Generator
) -> list[Description]:
    """The same person in clothes that the description does not contain."""
    worn = description.worn_by("")

    def outfit() -> dict[str, str]:
        clothes = {}
        for part, options in words.clothes.items():
            others = [option for option in options if option and option not in worn]
            skipped = "" in options and float(torch.rand((), generator=random)) > SOMETIMES
            if others and not skipped:
                clothes[part] = others[int(torch.randint(len(others), (1,), generator=random))]
        return clothes

    return [replace(description, clothes=outfit()) for _ in range(count)]


def outfit_error(
    prior: IdentityPrior,
    samples: OutfitSamples,
    identity: Float[Tensor, "n d"],
    count: int,
    random: torch.Generator,
) -> Float[Tensor, " count"]:
    """Weighted mean squared difference of the predictions with ``<id>`` and with the description, on ``count`` of the
    samples; differentiable in ``identity``."""
    picks = torch.randperm(len(samples.latents), generator=random)[:count].tolist()
    z = samples.latents[picks]
    trained = (torch.arange(prior.num_timesteps) >= EARLIEST * prior.num_timesteps).float()
    times = stratified_times(trained / trained.sum(), len(picks), random)
    t = times[torch.randperm(len(picks), generator=random)].to(z.device)
    z_t = with_noise(prior, z, t, torch.randn(z.shape, generator=random).to(z.device)).z_t
    with torch.no_grad():
        described = prior.eps(z_t, t, prior.encode_prompts([samples.described[pick] for pick in picks]), None)
    with_id = prior.eps(z_t, t, prior.encode_prompts([samples.with_id[pick] for pick in picks], identity), None)
    weights = (prior.sigma(t) / prior.alpha(t)).clamp(max=MAX_WEIGHT)
    return weights * (with_id - described).square().mean((1, 2, 3))
