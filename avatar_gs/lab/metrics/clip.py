"""What tells how well pictures fit texts: the packaged scorer, or any CLIP of transformers, by folder or hub name."""

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

from avatar_gs.core.errors import UserError
from avatar_gs.lab.scorer.model import embed_tokens, load_scorer
from avatar_gs.prior.fingerprint import weights_fingerprint
from avatar_gs.prior.loading.sources import HUB_NAME

PACKAGED = "packaged scorer"
BATCH = 16


@dataclass(frozen=True)
class Clip:
    """Unit features of pictures ``[B, H, W, 3]`` in [0, 1] and of texts; their similarity is the dot product.

    ``image_features`` is differentiable. ``person_features`` are to compare pictures with pictures: of who it is, from
    whatever side, with the packaged scorer; a CLIP knows no others than ``image_features``. ``fingerprint`` changes
    with the weights.
    """

    name: str
    fingerprint: str
    image_features: Callable[[Tensor], Tensor]
    person_features: Callable[[Tensor], Tensor]
    text_features: Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Transformers:
    """A CLIP of transformers that no training changes, with what its pictures must look like."""

    model: CLIPModel
    tokenizer: CLIPTokenizer
    size: int
    """Side of its pictures, in pixels."""
    length: int
    """Most tokens of a text."""
    mean: Float[Tensor, "3 1 1"]
    std: Float[Tensor, "3 1 1"]

    def image_features(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B d"]:
        """Square pictures are resized (antialiased) to the size that the model was trained on."""
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
        """What exceeds the model's length is cut."""
        ids = self.tokenizer(list(texts), padding=True, truncation=True, max_length=self.length, return_tensors="pt")
        return embed_tokens(self.model, ids.input_ids.to(self.model.device))


def load_clip(name: str, device: torch.device | str = "cpu") -> Clip:
    """The CLIP of a folder or hub name; "": the packaged scorer. Only safetensors are loaded, and only a hub name
    reaches for the network.

    Raises:
        UserError: it is not there, not complete, or no CLIP.
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
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"evaluate.clip={name}: no CLIP can be loaded from there ({reason}); expected config.json, "
            "model.safetensors, preprocessor_config.json and a tokenizer, as transformers saves them"
        ) from error
    return Transformers(model.float().eval().requires_grad_(False), tokenizer, cast(int, size), length, mean, std)


@torch.no_grad()
def features_of(
    pictures: Float[np.ndarray, "V H W 3"], features: Callable[[Tensor], Tensor]
) -> Float[np.ndarray, "V d"]:
    """Features of pictures in [0, 1] as an array."""
    return features(torch.from_numpy(np.ascontiguousarray(pictures, np.float32))).float().cpu().numpy()
