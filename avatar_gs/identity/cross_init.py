"""Cross Initialization (Pang et al. 2024): a person as a few rows of token embeddings, learned from photos.

The rows begin where the text encoder itself puts well-known people, and are held near that place; the prior stays as
it is. Textual inversion (Gal et al. 2023) is the same training from the word "person", without the hold.
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
from avatar_gs.core.runs import RunFolder
from avatar_gs.core.seeding import generator
from avatar_gs.identity.config import Clothes, EmbedConfig, IdentityMethod, Weighting
from avatar_gs.identity.denoising import prediction_error, stratified_times, time_shares
from avatar_gs.identity.description import Description, describe_photos, sort_photos, templates
from avatar_gs.identity.embedding import ACCESSORIES, IdentityEmbedding, text_encoder_fingerprint
from avatar_gs.identity.outfits import Rehearsals, rehearsal_error, rehearse
from avatar_gs.identity.photos import PhotoSet
from avatar_gs.prior.config import PromptStyle
from avatar_gs.prior.memory_guard import MemoryGuard
from avatar_gs.prior.prompts import PLACEHOLDER, with_accessories
from avatar_gs.protocols import IdentityPrior

LOGGER = logging.getLogger(__name__)
CACHE_VERSION = 2
"""Raised whenever the same photos would be learned otherwise."""
WORD = "person"
BETAS, WEIGHT_DECAY = (0.9, 0.999), 1e-2
ENCODE_BATCH = 4
WARM_SHARE, WARM_LR = 0.4, 3.0
"""The share of the steps that only rehearse, and how much larger their learning rate is."""
NAME_TOKENS = 2
"""Tokens of a name that are averaged: most have two."""


def initial_rows(prior: IdentityPrior, config: EmbedConfig) -> Float[Tensor, "n d"]:
    """Where training begins.

    cross_init: the names' input rows, averaged column by column, are given to the text encoder in ``<id>``'s place; its
    *outputs* there are the rows. A name has few columns (given name, surname), so that more rows than the longest name
    has tokens begin as the mean name said again: its place in the sentence tells the repetitions' outputs apart, and
    they all stay at the centre of known people, which means of fewer names each would not.
    """
    if config.method is IdentityMethod.textual_inversion:
        word = prior.token_embeddings(WORD)
        return torch.stack([word[row % len(word)] for row in range(config.tokens)])
    columns = mean_columns([prior.token_embeddings(name) for name in prior.known_names])
    mean_name = torch.stack([columns[row % len(columns)] for row in range(config.tokens)])
    with torch.no_grad():
        return prior.encode_prompts([PLACEHOLDER], mean_name)[0, 1 : 1 + config.tokens].float()


def mean_columns(names: list[Float[Tensor, "_ d"]]) -> Float[Tensor, "columns d"]:
    """The mean first token of all names, and the mean second token of those that have one: what comes after is but the
    tail of rare names."""
    longest = min(NAME_TOKENS, max(len(rows) for rows in names))
    return torch.stack(
        [torch.stack([rows[column] for rows in names if len(rows) > column]).mean(0) for column in range(longest)]
    )


@dataclass
class EmbedState:
    """All that changes during training. ``rows`` is the only tensor that is learned; ``losses`` are the steps'."""

    rows: Float[Tensor, "n d"]
    start: Float[Tensor, "n d"]
    adam: torch.optim.AdamW
    step: int = 0
    losses: list[float] = field(default_factory=list)

    @classmethod
    def begin(cls, start: Float[Tensor, "n d"], lr: float) -> "EmbedState":
        rows = start.clone().requires_grad_(True)
        return cls(rows, start, torch.optim.AdamW([rows], lr=lr, betas=BETAS, weight_decay=WEIGHT_DECAY))

    def save(self, path: Path, key: str) -> None:
        """Writes a checkpoint atomically; ``key`` says what it is a checkpoint of."""
        moments = self.adam.state_dict()["state"].get(0, {})
        tensors = {"rows": self.rows, "start": self.start, **{f"adam/{name}": value for name, value in moments.items()}}
        save_state(path, tensors, {"key": key, "step": self.step, "losses": self.losses})

    def restore(self, path: Path, key: str) -> bool:
        """Goes on from a checkpoint with the same ``key``; says whether there is one."""
        if not path.exists():
            return False
        tensors, facts = load_state(path, self.rows.device)
        if not isinstance(facts, dict) or facts.get("key") != key:
            return False
        with torch.no_grad():
            self.rows.copy_(tensors["rows"])
            self.start.copy_(tensors["start"])
        moments = {name.removeprefix("adam/"): value for name, value in tensors.items() if name.startswith("adam/")}
        moments["step"] = moments["step"].cpu()  # where AdamW keeps it
        self.adam.load_state_dict({**self.adam.state_dict(), "state": {0: moments}})
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
    """Learn ``<id>`` from photos of one person; nothing of the prior changes.

    Args:
        config: what it leaves to the prior is filled in by ``style``, which also chooses the templates.
        folder: where the checkpoint is kept, and gone on from, if it has the same ``key``; None: nowhere.
        key: what the training is of (photos, settings, prior).
        on_preview: called every ``preview_every`` steps, and at the end.

    Raises:
        UserError: if the loss is not finite.
        KeyboardInterrupt: after Ctrl-C, once the checkpoint is written.
    """
    config = config.resolved(style)
    checkpoint = None if folder is None else _checkpoint(folder)
    state = EmbedState.begin(initial_rows(prior, config).to(prior.device), config.lr)
    if checkpoint is not None and state.restore(checkpoint, key):
        LOGGER.info("resuming the identity at step %d of %d", state.step, config.steps)
    with progress(f"learn {PLACEHOLDER}", config.steps, start=state.step) as bar, interruptible() as interrupt:
        again = MemoryGuard(prior, config.batch, ADVICE)
        lessons = again(lambda: prepare(prior, photos, config, style, seed))
        while state.step < config.steps:
            loss = again(lambda: train_step(state, prior, lessons, config, seed))
            bar.update(state.step, loss=loss)
            last = state.step == config.steps
            if checkpoint is not None and (last or interrupt.requested or _due(state.step, config.checkpoint_every)):
                state.save(checkpoint, key)
            if interrupt.requested:
                raise KeyboardInterrupt
            if on_preview is not None and not last and _due(state.step, config.preview_every):
                on_preview(state)
        if on_preview is not None:
            on_preview(state)
    return IdentityEmbedding(state.rows.detach().cpu(), metadata(prior, photos, config, seed, lessons))


@torch.no_grad()
def encode_photos(prior: IdentityPrior, images: Float[Tensor, "N S S 3"], *, flips: bool) -> Float[Tensor, "M c h w"]:
    """The photos' latents, and after them their mirror images' with ``flips``: encoded once, kept in memory."""
    both = torch.cat([images, images.flip(2)]) if flips else images
    return torch.cat([prior.encode_images(part.to(prior.device)) for part in both.split(ENCODE_BATCH)])


@dataclass(frozen=True)
class Lessons:
    """What is learned from: the photos' latents, for each the templates that fit it, and what is rehearsed."""

    latents: Float[Tensor, "M c h w"]
    phrases: Sequence[tuple[str, ...]]
    rehearsals: Rehearsals | None = None
    description: Description | None = None
    accessories: str = ""
    """What is said with ``<id>`` of every photo, so that it is not learned as part of the person."""


def prepare(prior: IdentityPrior, photos: PhotoSet, config: EmbedConfig, style: PromptStyle, seed: int) -> Lessons:
    """Encodes the photos and lets the prior say which framing each has; with free clothes also what they show, and
    rehearses that."""
    latents = encode_photos(prior, photos.images, flips=config.flips)
    phrases = sort_photos(prior, latents, templates(style), seed)
    if config.clothes is not Clothes.free:
        return Lessons(latents, phrases)
    if config.describe:
        description = Description.parse(config.describe)
    else:
        plain = latents[: len(photos)]  # without mirror images
        description = describe_photos(prior, plain, phrases[: len(photos)], prior.describable, seed)
    LOGGER.info("the photos show %s (embed.describe=… says otherwise)", description.whole())
    accessories = description.accessories(prior.describable)
    return Lessons(latents, phrases, rehearse(prior, description, style, seed), description, accessories)


def train_step(state: EmbedState, prior: IdentityPrior, lessons: Lessons, config: EmbedConfig, seed: int) -> float:
    """One step of AdamW on the rows; returns the loss. With rehearsals the first steps are all theirs, at a larger
    learning rate, and then half of every batch."""
    draws = generator(seed, state.step, "embed")
    count, errors = config.batch, []
    warming = lessons.rehearsals is not None and state.step < WARM_SHARE * config.steps
    state.adam.param_groups[0]["lr"] = config.lr * (WARM_LR if warming else 1.0)
    if lessons.rehearsals is not None:
        rehearsed = count if warming else count // 2
        errors.append(rehearsal_error(prior, lessons.rehearsals, state.rows, rehearsed, draws))
        count -= rehearsed
    if count:
        errors.append(photo_error(prior, lessons, state.rows, count, config.weighting, draws))
    hold = config.regularisation if config.method is IdentityMethod.cross_init else 0.0
    loss = torch.cat(errors).mean() + hold * distance(state.rows, state.start)
    state.adam.zero_grad()
    # Gradients run back through the networks as those of a sum: a mean's are too small for float16.
    scale = lessons.latents[0].numel()
    (loss * scale).backward()
    gradient = state.rows.grad
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
    lessons: Lessons,
    rows: Float[Tensor, "n d"],
    count: int,
    weighting: Weighting,
    draws: torch.Generator,
) -> Float[Tensor, " count"]:
    """The denoising error of some photos that are called ``<id>`` (with a hat, if they show one); differentiable in
    ``rows``."""
    picks = pick_photos(len(lessons.latents), count, draws)
    z = lessons.latents[picks.to(lessons.latents.device)]
    t = stratified_times(time_shares(prior, weighting), count, draws).to(z.device)
    noise = torch.randn(z.shape, generator=draws).to(z.device)
    fitting = [lessons.phrases[index] for index in picks.tolist()]
    chosen = [options[int(torch.randint(len(options), (1,), generator=draws))] for options in fitting]
    called = with_accessories(PLACEHOLDER, lessons.accessories)
    cond = prior.encode_prompts([phrase.format(called) for phrase in chosen], rows)
    return prediction_error(prior, z, t, noise, cond)


def distance(rows: Float[Tensor, "n d"], start: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """The mean Euclidean distance of the rows from where they began; its gradient there is 0."""
    return (rows - start).norm(dim=-1).mean()


def pick_photos(count: int, batch: int, draws: torch.Generator) -> Int[Tensor, " B"]:
    """Photos for a batch: none comes again before all others have come."""
    rounds = [torch.randperm(count, generator=draws) for _ in range(-(-batch // count))]
    return torch.cat(rounds)[:batch]


def metadata(
    prior: IdentityPrior, photos: PhotoSet, config: EmbedConfig, seed: int, lessons: Lessons
) -> dict[str, str]:
    """What the identity's file says of itself."""
    described = {} if lessons.description is None else {"description": lessons.description.whole()}
    worn = {ACCESSORIES: lessons.accessories} if lessons.accessories else {}
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
