"""The identities of the suite's people, trained once each and kept beside the records."""

import hashlib
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avatar_gs.core.errors import UserError
from avatar_gs.core.io import write_json
from avatar_gs.identity.cross_init import LESSONS, train_identity
from avatar_gs.identity.embedding import IdentityEmbedding, read_identity, write_identity
from avatar_gs.identity.photos import PhotoSet, load_photos
from avatar_gs.lab.metrics.people import PICTURES, write_pictures
from avatar_gs.lab.suites.identity.records import Cost
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.settings import Settings
from avatar_gs.training.loop import peak_memory_mib


@dataclass(frozen=True)
class Trained:
    """An identity and what its training took."""

    embedding: IdentityEmbedding
    cost: Cost


class Identities:
    """Trains identities with one prior in ``folder``, or finds them there."""

    def __init__(self, folder: Path, prior: StableDiffusionPrior, fingerprint: str) -> None:
        self.folder, self.prior, self.fingerprint = folder, prior, fingerprint

    def of(self, person: int, pictures: int, settings: Settings) -> Trained:
        """The identity of the person by the first ``pictures`` pictures, trained as ``settings.embed`` says."""
        photos = self._photos(person, pictures, settings)
        own = self.folder / "identities" / self._key(photos, settings)
        found = _load(own)
        return found if found is not None else self._train(own, photos, settings)

    def _photos(self, person: int, pictures: int, settings: Settings) -> PhotoSet:
        source = write_pictures(person, self.folder / "pictures")
        photos = load_photos(str(source), self.prior.image_size, min_size=settings.embed.min_size)
        if len(photos.names) != PICTURES:
            raise UserError(
                f"{source}: expected {PICTURES} pictures, found {len(photos.names)} that can be used: "
                "leave embed.min_size as it is, and delete that folder"
            )
        return replace(
            photos, images=photos.images[:pictures], names=photos.names[:pictures], hashes=photos.hashes[:pictures]
        )

    def _key(self, photos: PhotoSet, settings: Settings) -> str:
        style = settings.prior.prompts.style.name
        facts: list[Any] = [LESSONS, photos.hashes, settings.plain()["embed"], style, settings.seed, self.fingerprint]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def _train(self, own: Path, photos: PhotoSet, settings: Settings) -> Trained:
        began = time.monotonic()
        style = settings.prior.prompts.style
        embedding = train_identity(self.prior, photos, settings.embed, settings.seed, own, style=style, key=own.name)
        cost = Cost(
            steps=int(embedding.metadata["steps"]),
            seconds=time.monotonic() - began,
            peak_memory_mib=max(peak_memory_mib(self.prior.device).values()),
        )
        write_identity(own / "identity.safetensors", embedding)
        write_json(own / "cost.json", cost.plain())
        return Trained(embedding, cost)


def _load(own: Path) -> Trained | None:
    """What ``_train`` has finished."""
    try:
        cost = Cost(**json.loads((own / "cost.json").read_text(encoding="utf-8")))
        return Trained(read_identity(own / "identity.safetensors"), cost)
    except (OSError, json.JSONDecodeError, TypeError, UserError):
        return None
