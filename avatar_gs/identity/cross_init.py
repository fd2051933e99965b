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

from avatar_gs import runs
from avatar_gs.console import progress
from avatar_gs.errors import UserError
from avatar_gs.identity.config import EmbedConfig, IdentityMethod, Weighting
from avatar_gs.identity.embedding import IdentityEmbedding, fingerprint
from avatar_gs.identity.photos import PhotoSet
from avatar_gs.identity.templates import templates
from avatar_gs.io import RunFolder, interruptible, load_state, save_state
from avatar_gs.prior.config import PromptStyle
from avatar_gs.prior.placeholder import PLACEHOLDER, SOMEBODY
from avatar_gs.seeding import generator
from avatar_gs.types import IdentityPrior

LOGGER = logging.getLogger(__name__)
WORD = "person"
BETAS, WEIGHT_DECAY = (0.9, 0.999), 1e-2
ENCODE_BATCH = 4
SORTING_TIMES = (0.25, 0.4, 0.55, 0.7, 0.85)
"""Shares of the prior's time steps at which it is asked what a photo shows."""
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
        word = prior.token_rows(WORD)
        return torch.stack([word[row % len(word)] for row in range(config.tokens)])
    columns = mean_columns([prior.token_rows(name) for name in prior.known_names])
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
        latents = encode_photos(prior, photos.images, flips=config.flips)
        phrases = sort_photos(prior, latents, templates(style), seed)
        while state.step < config.steps:
            loss = train_step(state, prior, latents, phrases, config, seed)
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
    return IdentityEmbedding(state.rows.detach().cpu(), metadata(prior, photos, config, seed))


@torch.no_grad()
def encode_photos(prior: IdentityPrior, images: Float[Tensor, "N S S 3"], *, flips: bool) -> Float[Tensor, "M c h w"]:
    """The photos' latents, and after them their mirror images' with ``flips``: encoded once, kept in memory."""
    both = torch.cat([images, images.flip(2)]) if flips else images
    return torch.cat([prior.encode_images(part.to(prior.device)) for part in both.split(ENCODE_BATCH)])


@torch.no_grad()
def sort_photos(
    prior: IdentityPrior, latents: Float[Tensor, "M c h w"], groups: Sequence[tuple[str, ...]], seed: int
) -> list[tuple[str, ...]]:
    """The group of templates that fits each photo: the one whose first template, said of "a person", lets the prior
    tell the photo's noise best (a diffusion classifier: Li et al. 2023), at the same noise for all groups."""
    conditions = prior.encode_prompts([group[0].format(SOMEBODY) for group in groups])
    draws = generator(seed, 0, "sort")
    t = (torch.tensor(SORTING_TIMES) * (prior.num_timesteps - 1)).long().to(prior.device)
    noise = torch.randn((len(t), *latents.shape[1:]), generator=draws).to(prior.device)
    errors = []
    for z in latents:
        repeated = z.expand(len(t), *z.shape)
        rows = [prediction_error(prior, repeated, t, noise, c.expand(len(t), *c.shape)) for c in conditions]
        errors.append(torch.stack(rows).mean(1))
    return [groups[int(error.argmin())] for error in errors]


def train_step(
    state: EmbedState,
    prior: IdentityPrior,
    latents: Float[Tensor, "M c h w"],
    phrases: Sequence[tuple[str, ...]],
    config: EmbedConfig,
    seed: int,
) -> float:
    """One step of AdamW on the rows; returns the loss. ``phrases``: the templates that fit each photo."""
    draws = generator(seed, state.step, "embed")
    picks = pick_photos(len(latents), config.batch, draws)
    z = latents[picks.to(latents.device)]
    t = stratified_times(time_shares(prior, config.weighting), config.batch, draws).to(z.device)
    noise = torch.randn(z.shape, generator=draws).to(z.device)
    fitting = [phrases[index] for index in picks.tolist()]
    chosen = [options[int(torch.randint(len(options), (1,), generator=draws))] for options in fitting]
    cond = prior.encode_prompts([phrase.format(PLACEHOLDER) for phrase in chosen], state.rows)
    error = prediction_error(prior, z, t, noise, cond)
    hold = config.regularisation if config.method is IdentityMethod.cross_init else 0.0
    loss = error.mean() + hold * distance(state.rows, state.start)
    state.adam.zero_grad()
    # Gradients run back through the networks as those of a sum: a mean's are too small for float16.
    scale = z[0].numel()
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


def distance(rows: Float[Tensor, "n d"], start: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """The mean Euclidean distance of the rows from where they began; its gradient there is 0."""
    return (rows - start).norm(dim=-1).mean()


def prediction_error(
    prior: IdentityPrior,
    z: Float[Tensor, "B c h w"],
    t: Int[Tensor, " B"],
    noise: Float[Tensor, "B c h w"],
    cond: Float[Tensor, "B L d"],
) -> Float[Tensor, " B"]:
    """The mean squared error of each prediction in what the prior itself predicts. The error of a v is that of the
    noise over alpha, since eps = alpha v + sigma z_t (Salimans and Ho 2022), and so is that of a flow (eps = z_t +
    alpha v). Without pose maps: photos have none."""
    alpha, sigma = prior.alpha(t), prior.sigma(t)
    z_t = alpha[:, None, None, None] * z + sigma[:, None, None, None] * noise
    error = (prior.eps(z_t, t, cond, None) - noise).square().mean((1, 2, 3))
    return error if prior.prediction_type == "epsilon" else error / alpha.square()


def time_shares(prior: IdentityPrior, weighting: Weighting) -> Float[Tensor, " T"]:
    """How often each time step is drawn, in all 1: uniformly, or with ``noisy`` in proportion to
    min(1/alpha^2, 8) min(1, 5/SNR), as the packaged prior weighs its noise predictions. What somebody wears is settled
    while little but noise is seen, where a plain loss hardly tells one from another."""
    t = torch.arange(prior.num_timesteps, device=prior.device)
    alpha2, sigma2 = prior.alpha(t).double().square(), prior.sigma(t).double().square()
    shares = torch.ones_like(alpha2)
    if weighting is Weighting.noisy:
        shares = (1 / alpha2).clamp(max=8) * (5 * sigma2 / alpha2).clamp(max=1)
        if prior.prediction_type != "epsilon":
            shares = shares * alpha2  # the error is already the noise's over alpha^2
    return (shares / shares.sum()).float().cpu()


def stratified_times(shares: Float[Tensor, " T"], batch: int, draws: torch.Generator) -> Int[Tensor, " B"]:
    """Time steps in these shares, one from each of ``batch`` equally likely sections: the loss differs more by time
    than by picture."""
    sections = (torch.arange(batch) + torch.rand(batch, generator=draws)) / batch
    return torch.searchsorted(shares.cumsum(0), sections, right=True).clamp(max=len(shares) - 1)


def pick_photos(count: int, batch: int, draws: torch.Generator) -> Int[Tensor, " B"]:
    """Photos for a batch: none comes again before all others have come."""
    rounds = [torch.randperm(count, generator=draws) for _ in range(-(-batch // count))]
    return torch.cat(rounds)[:batch]


def metadata(prior: IdentityPrior, photos: PhotoSet, config: EmbedConfig, seed: int) -> dict[str, str]:
    """What the identity's file says of itself."""
    return {
        "base_model": prior.name,
        "text_encoder": fingerprint(prior),
        "method": config.method.name,
        "steps": str(config.steps),
        "seed": str(seed),
        "sources": " ".join(photos.hashes),
    }


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _checkpoint(folder: RunFolder | Path) -> Path:
    return (folder.checkpoints if isinstance(folder, RunFolder) else folder) / runs.IDENTITY_CHECKPOINT
