"""``stage=embed``: learns a person from photos, into the run's ``identity.safetensors``.

Identities are cached in ``outputs/.identities/`` under a hash of their inputs, so that no photos are trained on twice.
"""

import hashlib
import json
import logging
import re
import time
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from avatar_gs.core import runs
from avatar_gs.core.console import progress
from avatar_gs.core.device import choose_device
from avatar_gs.core.errors import UserError
from avatar_gs.core.images import contact_sheet, to_uint8, write_png
from avatar_gs.core.runs import RunFolder
from avatar_gs.core.seeding import generator
from avatar_gs.identity.cross_init import CACHE_VERSION, EmbedState, train_identity
from avatar_gs.identity.curve import loss_curve, smoothed
from avatar_gs.identity.embedding import IdentityEmbedding, check_fits, read_identity, write_identity
from avatar_gs.identity.photos import PhotoSet, load_photos
from avatar_gs.prior.config import FRAMINGS, PLACEHOLDER, VIEWS
from avatar_gs.prior.fingerprint import prior_fingerprint
from avatar_gs.prior.loading import lora
from avatar_gs.prior.prompts import bucket_prompts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior, load_prior
from avatar_gs.settings import Settings
from avatar_gs.stages.estimate import Task
from avatar_gs.stages.preflight import preflight
from avatar_gs.training.reports import peak_memory_mib
from avatar_gs.types import Bucket, Framing, ViewDirection

LOGGER = logging.getLogger(__name__)

CACHE = ".identities"
LORA = "lora"
"""Metadata key of the LoRA files that the prior had during training. Other files only cause a warning: the token
embeddings, which the identity's are added to, are the same."""
SHEET_VIEWS = (
    *(Bucket(framing, ViewDirection.FRONT) for framing in (Framing.BODY, Framing.UPPER, Framing.HEAD)),
    Bucket(Framing.BODY, ViewDirection.BACK),
)
SHEET_PHOTOS = 8
SAMPLE_STEPS, SAMPLE_CFG = 20, 4.0
WORD_OF_FILE = re.compile(r"<[\w-]+>")
POINTS = 100
"""Points of the loss curve in ``metrics.json``."""


def run(settings: Settings) -> None:
    """Learn the person of ``photos``, or take ``identity``."""
    device = choose_device(settings.device)
    with RunFolder.open(settings.folder, settings.plain(), overwrite=settings.overwrite) as folder:
        sources = preflight(settings, Task.embed)
        with progress("load the prior"):
            prior = load_prior(settings.prior, device, sources)
        learn_person(settings, prior, folder)


def learn_person(settings: Settings, prior: StableDiffusionPrior, folder: RunFolder) -> None:
    """Write the run's identity: learned from its photos, taken from the cache of identities, or the given file.

    Raises:
        UserError: if no photo is usable, the identity file is for another prior, or the run's avatar was made from
            other photos.
    """
    if settings.identity:
        keep(folder, given(settings, prior), source=source_of(settings))
    else:
        learn(settings, prior, read_photos(settings, prior), folder)


def keep(folder: RunFolder, embedding: IdentityEmbedding, **values: Any) -> None:
    """Write the run's identity and then, since a record says that nothing is left to do, the record of it."""
    write_identity(folder / runs.IDENTITY_FILE, embedding)
    folder.record("embed", **values, metadata=embedding.metadata)
    LOGGER.info(
        "wrote %s: %d token embeddings for %s", folder / runs.IDENTITY_FILE, len(embedding.vectors), PLACEHOLDER
    )


def with_run_identity(prior: StableDiffusionPrior, settings: Settings) -> StableDiffusionPrior:
    """The prior with the run's identity: its own, else ``identity=``, else the cached one of the same photos.

    Without photos and identity it is unchanged.

    Raises:
        UserError: if nothing has been learned yet, or the file is for another prior.
    """
    if not settings.has_identity:
        return prior
    own = settings.folder / runs.IDENTITY_FILE
    record = RunFolder(settings.folder).metrics().get("embed", {})
    if own.exists() and record.get("source") == source_of(settings):  # a preview may show another person
        embedding = read_identity(own)
        check_fits(embedding, prior, str(own))
    elif settings.identity:
        embedding = given(settings, prior)
    else:
        path = cached(settings, key_of(settings, prior, read_photos(settings, prior)))
        if not path.exists():
            raise UserError(
                f"{settings.folder} has no identity yet: the same command with stage=embed learns it from "
                f"photos={settings.photos} (stage=all does both)"
            )
        embedding = read_identity(path)
    return prior.with_identity(embedding.vectors, embedding.accessories)


def with_embeddings(prior: StableDiffusionPrior, settings: Settings) -> StableDiffusionPrior:
    """The prior with the words of ``embeddings``.

    Raises:
        UserError: if a file is no textual inversion for the prior, or two have the same name.
    """
    named: dict[str, Float[Tensor, "_ d"]] = {}
    for file in settings.embeddings:
        embedding, word = read_identity(file), f"<{Path(file).stem}>"
        check_fits(embedding, prior, f"embeddings={file}")
        if word == PLACEHOLDER or word in named or not WORD_OF_FILE.fullmatch(word):
            raise UserError(
                f"embeddings={file}: {word} cannot be its word in prompts: name the file by letters, digits, - and _, "
                f"differently from the others (a person's {PLACEHOLDER} is given with identity=)"
            )
        if word not in settings.prompt + settings.negative_prompt:
            LOGGER.warning("embeddings=%s: neither prompt names it; write %s where it belongs", file, word)
        named[word] = embedding.vectors
    return prior.with_embeddings(named) if named else prior


def source_of(settings: Settings) -> str:
    """The photos or the identity file, as given by the user."""
    return settings.photos or settings.identity


def given(settings: Settings, prior: StableDiffusionPrior) -> IdentityEmbedding:
    """The identity in the file ``identity=``."""
    embedding = read_identity(settings.identity)
    check_fits(embedding, prior, f"identity={settings.identity}")
    learned_with, used = embedding.metadata.get(LORA), lora.digest(settings.prior.lora)
    if learned_with is not None and learned_with != used:
        LOGGER.warning(
            "identity=%s was learned with %s, and this run has %s: the likeness may suffer (prior.lora=… sets them)",
            settings.identity,
            f"the LoRA files {learned_with}" if learned_with else "no LoRA files",
            used or "none",
        )
    return embedding


def read_photos(settings: Settings, prior: StableDiffusionPrior) -> PhotoSet:
    """The photos at the prior's image size."""
    config = settings.embed
    return load_photos(
        settings.photos, prior.image_size, remove_background=config.remove_background, min_size=config.min_size
    )


def learn(settings: Settings, prior: StableDiffusionPrior, photos: PhotoSet, folder: RunFolder) -> None:
    """Write the identity of these photos, from the cache or by training."""
    key = key_of(settings, prior, photos)
    before = folder.metrics().get("embed", {}).get("key", key)
    if before != key and folder.holds_avatar():
        raise UserError(
            f"{folder.path}: its avatar was made from other photos than photos={settings.photos} holds now; "
            "overwrite=true starts it from scratch, name=… starts another"
        )
    path = cached(settings, key)
    if path.exists():
        LOGGER.info("these %d photos have been learned before with the same settings: using %s", len(photos), path)
        embedding = read_identity(path)
        keep(folder, embedding, source=source_of(settings), key=key, cached=True)
        return
    sheets = Sheets(settings, prior, photos, folder)
    style, began = settings.prior.prompts.style, time.monotonic()
    embedding = train_identity(
        prior, photos, settings.embed, settings.seed, folder, style=style, key=key, on_preview=sheets.draw
    )
    embedding = replace(embedding, metadata={**embedding.metadata, LORA: lora.digest(settings.prior.lora)})
    write_identity(path, embedding)
    curve = smoothed(sheets.losses, POINTS)
    seconds = round(time.monotonic() - began, 2)
    LOGGER.info("learned %d photos in %.0f s", len(photos), seconds)
    keep(
        folder,
        embedding,
        source=source_of(settings),
        key=key,
        cached=False,
        photos=list(photos.names),
        skipped=[list(pair) for pair in photos.skipped],
        steps=len(sheets.losses),
        seconds=seconds,
        peak_memory_mib=peak_memory_mib(prior.device),
        loss_curve=[round(value, 5) for value in curve],
    )


def key_of(settings: Settings, prior: StableDiffusionPrior, photos: PhotoSet) -> str:
    """Hash of an identity's inputs: photos, settings of the training, seed, and the prior's weights with its LoRAs."""
    style = settings.prior.prompts.style
    config = {
        name: value.name if isinstance(value, Enum) else value
        for name, value in asdict(settings.embed.resolved(style)).items()
        if name not in ("preview_every", "checkpoint_every", "fast", "min_size")
    }
    facts = [
        CACHE_VERSION,
        list(photos.hashes),
        config,
        style.name,
        settings.seed,
        prior.image_size,
        prior_fingerprint(prior),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:20]


def cached(settings: Settings, key: str) -> Path:
    """The cache file of an identity."""
    return settings.runs / CACHE / f"{key}.safetensors"


class Sheets:
    """Images of the training: ``previews/identity_<step>.png`` and ``previews/identity_loss.png``."""

    def __init__(self, settings: Settings, prior: StableDiffusionPrior, photos: PhotoSet, folder: RunFolder) -> None:
        self.prior, self.photos, self.folder, self.seed = prior, photos, folder, settings.seed
        words = replace(settings.prior.prompts, identity_framings=list(FRAMINGS), identity_views=list(VIEWS))
        prompts = bucket_prompts(PLACEHOLDER, settings.negative_prompt, words)
        self.prompts = [prompts[bucket] for bucket in SHEET_VIEWS]
        self.losses: list[float] = []

    def draw(self, state: EmbedState) -> None:
        """Write the photos and, below them, samples of ``<id>`` without a pose map."""
        self.losses = list(state.losses)
        photos = to_uint8(self.photos.images[:SHEET_PHOTOS])
        samples = to_uint8(self._samples(state))
        image = contact_sheet(
            [list(photos), list(samples)], row_labels=["photos", f"{PLACEHOLDER}, {state.step} steps"]
        )
        write_png(self.folder.previews / f"identity_{state.step:06d}.png", image)
        write_png(self.folder.previews / "identity_loss.png", loss_curve(self.losses))

    def _samples(self, state: EmbedState) -> Float[Tensor, "B S S 3"]:
        prior = self.prior.with_identity(state.embeddings.detach())
        positive, negative = [p.positive for p in self.prompts], [p.negative for p in self.prompts]
        noise = generator(self.seed, 0, "identity sheet")
        return prior.sample(positive, negative, None, SAMPLE_STEPS, SAMPLE_CFG, noise)
