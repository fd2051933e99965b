"""Similarity of images and texts: the packaged scorer, or a CLIP of transformers from a folder or the hub."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer
from transformers.utils.logging import disable_progress_bar

from avatar_gs.core.errors import UserError, first_line
from avatar_gs.lab.scorer.model import embed_tokens, load_scorer
from avatar_gs.prior.fingerprint import weights_fingerprint
from avatar_gs.prior.loading.sources import HUB_NAME

PACKAGED = "packaged scorer"
BATCH = 16


@dataclass(frozen=True)
class Clip:
    """Normalised features of images ``[B, H, W, 3]`` in [0, 1] and of texts; the dot product is the cosine similarity.

    Args:
        fingerprint: hash of the weights.
        image_features: to compare with texts; differentiable.
        person_features: to compare images of people: identity in any view with the packaged scorer, ``image_features``
            with a CLIP.
    """

    name: str
    fingerprint: str
    image_features: Callable[[Tensor], Tensor]
    person_features: Callable[[Tensor], Tensor]
    text_features: Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Transformers:
    """A frozen CLIP of transformers and the preprocessing of its images."""

    model: CLIPModel
    tokenizer: CLIPTokenizer
    size: int
    """Side of its images in pixels."""
    length: int
    """Maximum number of tokens."""
    mean: Float[Tensor, "3 1 1"]
    std: Float[Tensor, "3 1 1"]

    def image_features(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B d"]:
        """Features of square images, resized with antialiasing to the model's size."""
        size, device = self.size, self.model.device
        features = []
        for some in images.split(BATCH):
            pixels = some.to(device).permute(0, 3, 1, 2)
            if pixels.shape[-2:] != (size, size):
                pixels = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
            normal = (pixels - self.mean.to(device)) / self.std.to(device)
            pooled = self.model.vision_model(pixel_values=normal).pooler_output
            features.append(F.normalize(self.model.visual_projection(pooled).float(), dim=-1))
        return torch.cat(features)

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Float[Tensor, "B d"]:
        """Features of texts, truncated to the model's length."""
        ids = self.tokenizer(list(texts), padding=True, truncation=True, max_length=self.length, return_tensors="pt")
        return embed_tokens(self.model, ids.input_ids.to(self.model.device))


def load_clip(name: str, device: torch.device | str = "cpu") -> Clip:
    """Load a CLIP from a folder or hub name, or the packaged scorer for "".

    Only safetensors are loaded, and only hub names access the network.

    Raises:
        UserError: if it is missing, incomplete, or not a CLIP.
    """
    if not name:
        scorer = load_scorer().to(device)
        weights = weights_fingerprint({"model": scorer.model})
        return Clip(PACKAGED, weights, scorer.image_features, scorer.person_features, scorer.text_features)
    loaded = _load(name)
    loaded.model.to(device)  # pyright: ignore[reportArgumentType]  # its wrapper hides self
    weights = weights_fingerprint({"model": loaded.model})
    return Clip(name, weights, loaded.image_features, loaded.image_features, loaded.text_features)


def _load(name: str) -> Transformers:
    folder = Path(name).expanduser()
    local = folder.is_dir()
    if not local and (name.startswith(".") or not HUB_NAME.fullmatch(name)):
        raise UserError(
            f"evaluate.clip={name}: no such folder, and no hub name (owner/name); leave it out for the packaged scorer"
        )
    source = str(folder) if local else name
    disable_progress_bar()
    try:
        model = CLIPModel.from_pretrained(source, use_safetensors=True, local_files_only=local)
        tokenizer = CLIPTokenizer.from_pretrained(source, local_files_only=local)
        size, length = model.vision_model.config.image_size, model.text_model.config.max_position_embeddings
        processor = CLIPImageProcessor.from_pretrained(source, local_files_only=local)
        mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = first_line(error)
        raise UserError(
            f"evaluate.clip={name}: no CLIP can be loaded from there ({reason}); expected config.json, "
            "model.safetensors, preprocessor_config.json and a tokenizer, as transformers saves them"
        ) from error
    return Transformers(model.float().eval().requires_grad_(False), tokenizer, cast(int, size), length, mean, std)


@torch.no_grad()
def features_of(images: Float[np.ndarray, "V H W 3"], features: Callable[[Tensor], Tensor]) -> Float[np.ndarray, "V d"]:
    """Features of images in [0, 1] as an array."""
    return features(torch.from_numpy(np.ascontiguousarray(images, np.float32))).float().cpu().numpy()
