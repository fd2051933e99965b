"""Cross Initialization (Pang et al. 2024): a person as a few token embeddings, learned from photos.

The embeddings start at the text encoder's outputs for well-known people and are regularised towards them; the prior
does not change. Textual inversion (Gal et al. 2023) is the same training from the word "person", unregularised.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatar_gs.core import runs
from avatar_gs.core.console import interruptible, progress
from avatar_gs.core.errors import UserError
from avatar_gs.core.io import load_state, save_state
from avatar_gs.core.optim_state import load_optimizer_tensors, optimizer_tensors
from avatar_gs.core.runs import RunFolder
from avatar_gs.core.seeding import generator
from avatar_gs.identity.config import Clothes, EmbedConfig, IdentityMethod, Weighting
from avatar_gs.identity.denoising import prediction_error, stratified_times, time_probabilities
from avatar_gs.identity.description import Description, describe_photos, sort_photos, templates
from avatar_gs.identity.embedding import ACCESSORIES, IdentityEmbedding, text_encoder_fingerprint
from avatar_gs.identity.outfits import OutfitSamples, outfit_error, sample_outfits
from avatar_gs.identity.photos import PhotoSet
from avatar_gs.prior.config import PromptStyle
from avatar_gs.prior.memory_guard import MemoryGuard
from avatar_gs.prior.prompts import PLACEHOLDER, with_accessories
from avatar_gs.protocols import IdentityPrior

LOGGER = logging.getLogger(__name__)
CACHE_VERSION = 2
"""Increase it when training changes, to invalidate cached identities."""
WORD = "person"
BETAS, WEIGHT_DECAY = (0.9, 0.999), 1e-2
ENCODE_BATCH = 4
WARMUP, WARMUP_LR = 0.4, 3.0
"""Fraction of the steps that train on other outfits only, and the factor on their learning rate."""
ADAM_KEY = "adam/{moment}"
"""Names of the optimiser's tensors in checkpoints."""
NAME_TOKENS = 2
"""Tokens of a name that are averaged: most names have two."""


def initial_embeddings(prior: IdentityPrior, config: EmbedConfig) -> Float[Tensor, "n d"]:
    """The start of training.

    cross_init: the names' token embeddings, averaged by position, are the text encoder's input in the place of
    ``<id>``; its *outputs* there are the initial embeddings. If there are more embeddings than positions, the mean name
    is repeated; positions in the prompt make the repetitions' outputs differ.
    """
    if config.method is IdentityMethod.textual_inversion:
        word = prior.token_embeddings(WORD)
        return torch.stack([word[index % len(word)] for index in range(config.tokens)])
    mean = mean_name([prior.token_embeddings(name) for name in prior.known_names])
    repeated = torch.stack([mean[index % len(mean)] for index in range(config.tokens)])
    with torch.no_grad():
        return prior.encode_prompts([PLACEHOLDER], repeated)[0, 1 : 1 + config.tokens].float()


def mean_name(names: list[Float[Tensor, "_ d"]]) -> Float[Tensor, "positions d"]:
    """Mean embedding of the names' first tokens, and of the second tokens of those that have one (later tokens are
    only the ends of rare names)."""
    longest = min(NAME_TOKENS, max(len(name) for name in names))
    return torch.stack([torch.stack([name[at] for name in names if len(name) > at]).mean(0) for at in range(longest)])


@dataclass
class EmbedState:
    """The state of a training; only ``embeddings`` is learned."""

    embeddings: Float[Tensor, "n d"]
    start: Float[Tensor, "n d"]
    adam: torch.optim.AdamW
    step: int = 0
    losses: list[float] = field(default_factory=list)
    """Of the steps so far."""

    @classmethod
    def begin(cls, start: Float[Tensor, "n d"], lr: float) -> "EmbedState":
        embeddings = start.clone().requires_grad_(True)
        adam = torch.optim.AdamW([embeddings], lr=lr, betas=BETAS, weight_decay=WEIGHT_DECAY)
        return cls(embeddings, start, adam)

    def save(self, path: Path, key: str) -> None:
        """Write a checkpoint atomically; ``key`` identifies the training."""
        moments = optimizer_tensors(self.adam, {"": self.embeddings}, ADAM_KEY)
        tensors = {"rows": self.embeddings, "start": self.start, **moments}
        save_state(path, tensors, {"key": key, "step": self.step, "losses": self.losses})

    def restore(self, path: Path, key: str) -> bool:
        """Continue from a checkpoint with the same ``key``, if there is one; returns whether there is."""
        if not path.exists():
            return False
        tensors, facts = load_state(path, self.embeddings.device)
        if not isinstance(facts, dict) or facts.get("key") != key:
            return False
        with torch.no_grad():
            self.embeddings.copy_(tensors["rows"])
            self.start.copy_(tensors["start"])
        load_optimizer_tensors(self.adam, {"": self.embeddings}, tensors, ADAM_KEY)
        self.step, self.losses = int(facts["step"]), list(facts["losses"])
        return True


ADVICE = "free some memory of the device, or learn with a smaller embed.batch or prior.precision=float16"
OnPreview = Callable[[EmbedState], object]


def train_identity(
    prior: IdentityPrior,
    photos: PhotoSet,
    config: EmbedConfig,
    seed: int = 0,
    folder: RunFolder | Path | None = None,
    *,
    style: PromptStyle = PromptStyle.mini,
    key: str = "",
    on_preview: OnPreview | None = None,
) -> IdentityEmbedding:
    """Learn ``<id>`` from photos of one person; the prior does not change.

    Args:
        prior: predicts the noise of the photos.
        photos: of the person.
        config: of the training; ``auto`` and 0 are resolved by ``style``.
        seed: of all randomness.
        folder: of the checkpoint, from which training continues if it has the same ``key``; None: no checkpoint.
        style: of the prior's prompts, which chooses the templates.
        key: identifies photos, settings and prior.
        on_preview: called every ``preview_every`` steps, and at the end.

    Raises:
        UserError: if the loss is not finite.
        KeyboardInterrupt: on Ctrl-C, after the checkpoint is written.
    """
    config = config.resolved(style)
    checkpoint = None if folder is None else _checkpoint(folder)
    state = EmbedState.begin(initial_embeddings(prior, config).to(prior.device), config.lr)
    if checkpoint is not None and state.restore(checkpoint, key):
        LOGGER.info("resuming the identity at step %d of %d", state.step, config.steps)
    with progress(f"learn {PLACEHOLDER}", config.steps, start=state.step) as bar, interruptible() as interrupt:
        guard = MemoryGuard(prior, config.batch, ADVICE)
        data = guard(lambda: prepare(prior, photos, config, style, seed))
        while state.step < config.steps:
            loss = guard(lambda: train_step(state, prior, data, config, seed))
            bar.update(state.step, loss=loss)
            last = state.step == config.steps
            if on_preview is not None and not last and _due(state.step, config.preview_every):
                on_preview(state)
            # After the preview, which a training that resumes from here would not draw again.
            if checkpoint is not None and (last or interrupt.requested or _due(state.step, config.checkpoint_every)):
                state.save(checkpoint, key)
            if interrupt.requested:
                raise KeyboardInterrupt
        if on_preview is not None:
            on_preview(state)
    return IdentityEmbedding(state.embeddings.detach().cpu(), metadata(prior, photos, config, seed, data))


@torch.no_grad()
def encode_photos(prior: IdentityPrior, images: Float[Tensor, "N S S 3"], *, flips: bool) -> Float[Tensor, "M c h w"]:
    """Latents of the photos, followed by those of their mirror images if ``flips``."""
    both = torch.cat([images, images.flip(2)]) if flips else images
    return torch.cat([prior.encode_images(part.to(prior.device)) for part in both.split(ENCODE_BATCH)])


@dataclass(frozen=True)
class TrainingData:
    """Latents of the photos with the templates of each, and samples of other outfits."""

    latents: Float[Tensor, "M c h w"]
    captions: Sequence[tuple[str, ...]]
    outfits: OutfitSamples | None = None
    description: Description | None = None
    accessories: str = ""
    """Named next to ``<id>`` in every caption, so that they are not learned as part of the person."""


def prepare(prior: IdentityPrior, photos: PhotoSet, config: EmbedConfig, style: PromptStyle, seed: int) -> TrainingData:
    """Encode the photos and find the framing of each; with free clothes also describe them and sample other outfits."""
    latents = encode_photos(prior, photos.images, flips=config.flips)
    captions = sort_photos(prior, latents, templates(style), seed)
    if config.clothes is not Clothes.free:
        return TrainingData(latents, captions)
    if config.describe:
        description = Description.parse(config.describe)
    else:
        plain = latents[: len(photos)]  # without mirror images
        description = describe_photos(prior, plain, captions[: len(photos)], prior.describable, seed)
    LOGGER.info("the photos show %s (embed.describe=… overrides)", description.whole())
    accessories = description.accessories(prior.describable)
    outfits = sample_outfits(prior, description, style, seed)
    return TrainingData(latents, captions, outfits, description, accessories)


def train_step(state: EmbedState, prior: IdentityPrior, data: TrainingData, config: EmbedConfig, seed: int) -> float:
    """One step of AdamW; returns the loss. Samples of other outfits, if there are any, are the whole batch during the
    warm-up, which has a larger learning rate, and half of every batch after it."""
    random = generator(seed, state.step, "embed")
    count, errors = config.batch, []
    warming = data.outfits is not None and state.step < WARMUP * config.steps
    state.adam.param_groups[0]["lr"] = config.lr * (WARMUP_LR if warming else 1.0)
    if data.outfits is not None:
        of_outfits = count if warming else count // 2
        errors.append(outfit_error(prior, data.outfits, state.embeddings, of_outfits, random))
        count -= of_outfits
    if count:
        errors.append(photo_error(prior, data, state.embeddings, count, config.weighting, random))
    regularisation = config.regularisation if config.method is IdentityMethod.cross_init else 0.0
    loss = torch.cat(errors).mean() + regularisation * distance(state.embeddings, state.start)
    state.adam.zero_grad()
    # Networks backpropagate the gradients of a sum: those of a mean are too small for float16.
    scale = data.latents[0].numel()
    (loss * scale).backward()
    gradient = state.embeddings.grad
    if gradient is None or not math.isfinite(float(loss.detach())) or not bool(gradient.isfinite().all()):
        raise UserError(
            f"embed: the loss or its gradient is not finite at step {state.step}; lower embed.lr, or use "
            "prior.precision=float32"
        )
    gradient /= scale
    state.adam.step()
    state.step += 1
    state.losses.append(float(loss.detach()))
    return state.losses[-1]


def photo_error(
    prior: IdentityPrior,
    data: TrainingData,
    identity: Float[Tensor, "n d"],
    count: int,
    weighting: Weighting,
    random: torch.Generator,
) -> Float[Tensor, " count"]:
    """The denoising error of ``count`` photos with captions that name ``<id>`` and accessories; differentiable in
    ``identity``."""
    picks = pick_photos(len(data.latents), count, random)
    z = data.latents[picks.to(data.latents.device)]
    t = stratified_times(time_probabilities(prior, weighting), count, random).to(z.device)
    noise = torch.randn(z.shape, generator=random).to(z.device)
    groups = [data.captions[index] for index in picks.tolist()]
    captions = [group[int(torch.randint(len(group), (1,), generator=random))] for group in groups]
    name = with_accessories(PLACEHOLDER, data.accessories)
    cond = prior.encode_prompts([caption.format(name) for caption in captions], identity)
    return prediction_error(prior, z, t, noise, cond)


def distance(embeddings: Float[Tensor, "n d"], start: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean Euclidean distance of the embeddings from their initial values; its gradient there is 0."""
    return (embeddings - start).norm(dim=-1).mean()


def pick_photos(count: int, batch: int, random: torch.Generator) -> Int[Tensor, " B"]:
    """Indices of photos for a batch; none is repeated before all others were picked."""
    rounds = [torch.randperm(count, generator=random) for _ in range(-(-batch // count))]
    return torch.cat(rounds)[:batch]


def metadata(
    prior: IdentityPrior, photos: PhotoSet, config: EmbedConfig, seed: int, data: TrainingData
) -> dict[str, str]:
    """Metadata of the identity's file."""
    described = {} if data.description is None else {"description": data.description.whole()}
    worn = {ACCESSORIES: data.accessories} if data.accessories else {}
    facts = {
        "base_model": prior.name,
        "text_encoder": text_encoder_fingerprint(prior),
        "method": config.method.name,
        "clothes": config.clothes.name,
        "steps": str(config.steps),
        "seed": str(seed),
        "sources": " ".join(photos.hashes),
    }
    return described | worn | facts


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _checkpoint(folder: RunFolder | Path) -> Path:
    return (folder.checkpoints if isinstance(folder, RunFolder) else folder) / runs.IDENTITY_CHECKPOINT
