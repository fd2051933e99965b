"""The lifelike training set as latents and token ids, encoded shard by shard into a cache."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from transformers import CLIPTokenizer

from avatar_gs.core.io import load_state, save_state
from avatar_gs.lab.people.dataset import Images, concatenated, read_shards
from avatar_gs.lab.train_prior.autoencoder import as_batch, posterior
from avatar_gs.lab.train_prior.diffusion import Batch, TrainingSet

CHUNK = 16
"""Images that are encoded at once."""


@dataclass(frozen=True)
class EncodedPeople:
    """Encoded images in memory; pose maps are decoded on demand."""

    images: Images
    latents: Float[Tensor, "N 8 h w"]
    """In half precision, scaled as the denoiser sees them."""
    tokens: Int[Tensor, "N C 64"]

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, picks: Int[Tensor, " B"]) -> Batch:
        """The images with these indices."""
        controls = torch.from_numpy(np.stack([self.images.control(index) for index in picks.tolist()]))
        foreground, details = (
            torch.from_numpy(values[picks.numpy()]).float() / 255
            for values in (self.images.foreground, self.images.details)
        )
        return Batch(self.latents[picks].float(), controls, foreground, details, self.tokens[picks].long())


@dataclass(frozen=True)
class ResidentPeople:
    """Encoded images with decoded pose maps in the memory of a GPU, 220 kB each."""

    everything: Batch

    def __len__(self) -> int:
        return len(self.everything.latents)

    def batch(self, picks: Int[Tensor, " B"]) -> Batch:
        """The images with these indices."""
        every, index = self.everything, picks.to(self.everything.latents.device)
        parts = (every.latents, every.controls, every.foreground, every.details, every.tokens)
        return Batch(*(values[index] for values in parts))


class PeopleSet:
    """The rendered part of a training set, encoded shard by shard into a cache."""

    def __init__(
        self,
        data: Path,
        vae: AutoencoderKL,
        tokenizer: CLIPTokenizer,
        cache: Path,
        report: Callable[[int, int, float], object],
        *,
        bfloat16: bool = False,
        refresh_every: int = 0,
    ) -> None:
        """Encode nothing yet.

        Args:
            data: folder of the shards.
            cache: folder of one file of latents for each shard and each state of the autoencoder.
            report: called with (shards done, all shards, 0).
            bfloat16: encode in mixed precision.
            refresh_every: steps between two looks for new shards; 0: the first look is the only one.
        """
        self._data, self._vae, self._tokenizer, self._cache = data, vae, tokenizer, cache
        self._report, self._bfloat16, self._refresh_every = report, bfloat16, refresh_every
        self._state = fingerprint(vae)
        self._parts: dict[str, EncodedPeople] = {}
        self._current: TrainingSet | None = None

    def at(self, step: int) -> TrainingSet:
        """The training set of a step.

        Raises:
            UserError: for damaged shards.
        """
        if self._current is None or (self._refresh_every and step % self._refresh_every == 0):
            shards = sorted(self._data.glob("shard_*.npz"))
            missing = [shard for shard in shards if shard.stem not in self._parts]
            for index, shard in enumerate(missing):
                self._parts[shard.stem] = self._encoded(shard)
                self._report(index + 1, len(missing), 0.0)
            if missing or self._current is None:
                self._current = joined(list(self._parts.values()))
                if self._vae.device.type == "cuda":
                    self._current = resident(self._current, self._vae.device)
        return self._current

    def _encoded(self, shard: Path) -> EncodedPeople:
        images, file = read_shards([shard]), self._cache / f"{shard.stem}_{self._state}.safetensors"
        if not file.is_file():
            latents = encode_images(self._vae, [images.image(k) for k in range(len(images))], self._bfloat16)
            save_state(file, {"latents": latents.half()})
        flat = [caption for captions in images.captions for caption in captions]
        ids = self._tokenizer(flat, padding="max_length", truncation=True).input_ids
        tokens = torch.tensor(ids, dtype=torch.int16).unflatten(0, (len(images), -1))
        return EncodedPeople(images, load_state(file)[0]["latents"], tokens)


def joined(parts: Sequence[EncodedPeople]) -> EncodedPeople:
    """All images of some encoded sets."""
    images = concatenated([part.images for part in parts])
    return EncodedPeople(images, torch.cat([p.latents for p in parts]), torch.cat([p.tokens for p in parts]))


def resident(people: EncodedPeople, device: torch.device) -> ResidentPeople:
    """The set in the memory of a device, with decoded pose maps."""
    with ThreadPoolExecutor() as pool:
        controls = list(pool.map(people.images.control, range(len(people))))
    covers = (torch.from_numpy(values) for values in (people.images.foreground, people.images.details))
    foreground, details = (values.to(device).float() / 255 for values in covers)
    latents, tokens = people.latents.to(device).float(), people.tokens.to(device).long()
    return ResidentPeople(Batch(latents, torch.from_numpy(np.stack(controls)).to(device), foreground, details, tokens))


@torch.no_grad()
def encode_images(
    vae: AutoencoderKL, images: Sequence[UInt8[np.ndarray, "S S 3"]], bfloat16: bool = False
) -> Float[Tensor, "N 8 h w"]:
    """Means of the scaled latents, in single precision, on the CPU."""
    parts = []
    for start in range(0, len(images), CHUNK):
        batch = as_batch(np.stack(images[start : start + CHUNK])).to(vae.device)
        with torch.autocast(vae.device.type, torch.bfloat16, enabled=bfloat16):
            parts.append(posterior(vae, batch).mean.float().cpu())
    return torch.cat(parts) * float(vae.config["scaling_factor"])


def fingerprint(vae: AutoencoderKL) -> str:
    """Eight hexadecimal digits that identify the encoder's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(vae.state_dict().items()):
        if not name.startswith(("decoder", "post_quant")):
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]
