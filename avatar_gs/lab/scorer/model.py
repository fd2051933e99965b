"""The scorer: a small CLIP (transformers' ``CLIPModel``) of the mini world that also identifies persons.

One image embedding serves both: the whole is compared with texts, and its first ``PERSON_WIDTH`` dimensions are trained
to agree for images of one person, independently of view, pose and background.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float, Int
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.utils.logging import disable_progress_bar

from avatar_gs.core.errors import UserError
from avatar_gs.core.io import atomic_write, write_json
from avatar_gs.core.paths import MINI_PRIOR

WEIGHTS = Path(__file__).parent / "weights"
TOKENIZER = MINI_PRIOR / "tokenizer"
"""The packaged prior's."""
IMAGE_SIZE, PATCH, WIDTH, LAYERS = 128, 16, 192, 4
TEXT_WIDTH, TEXT_LAYERS = 128, 2
EMBEDDING, PERSON_WIDTH = 192, 96
MEAN, STD = 0.5, 0.25
BATCH = 50


def build_model(tokenizer: CLIPTokenizer, seed: int = 0) -> CLIPModel:
    """The untrained model (1.8 million parameters)."""
    torch.manual_seed(seed)
    special = {name: cast(int, getattr(tokenizer, name)) for name in ("eos_token_id", "bos_token_id", "pad_token_id")}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 2 * TEXT_WIDTH,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": 4,
        "max_position_embeddings": tokenizer.model_max_length,
        **special,
    }
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=EMBEDDING)
    config.vocabulary = vocabulary_hash(tokenizer)
    model = CLIPModel(config)
    nn.init.normal_(cast(nn.Embedding, model.text_model.get_input_embeddings()).weight, std=0.05)
    patches = model.vision_model.embeddings.patch_embedding.weight
    with torch.no_grad():  # start from 4 x 4 colours per patch and distinct positions
        coarse = torch.randn(*patches.shape[:2], 4, 4) * 0.01
        patches.copy_(F.interpolate(coarse, (PATCH, PATCH), mode="nearest"))
        nn.init.normal_(model.vision_model.embeddings.position_embedding.weight, std=0.2)
    return model


def vocabulary_hash(tokenizer: CLIPTokenizer) -> str:
    """Hash of all tokens and their ids, by which a model is matched with a tokenizer."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()[:16]


def embed_images(model: CLIPModel, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B d"]:
    """Unit embeddings of images in [0, 1], differentiable; other sizes than ``IMAGE_SIZE`` are resized."""
    pixels = images.permute(0, 3, 1, 2)
    if pixels.shape[-2:] != (IMAGE_SIZE, IMAGE_SIZE):
        pixels = F.interpolate(pixels, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True)
    pooled = model.vision_model(pixel_values=(pixels - MEAN) / STD).pooler_output
    return F.normalize(model.visual_projection(pooled).float(), dim=-1)


def embed_tokens(model: CLIPModel, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B d"]:
    """Unit embeddings of token ids."""
    pooled = model.text_model(input_ids=tokens).pooler_output
    return F.normalize(model.text_projection(pooled).float(), dim=-1)


def person_part(features: Float[Tensor, "B d"]) -> Float[Tensor, "B p"]:
    """The part of image features that identifies the person, normalised."""
    return F.normalize(features[:, :PERSON_WIDTH], dim=-1)


@dataclass(frozen=True)
class Scorer:
    """Features of images (``[B, H, W, 3]`` in [0, 1]) and texts; cosine similarity is their dot product."""

    model: CLIPModel
    tokenizer: CLIPTokenizer

    def image_features(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B d"]:
        """Unit features to compare with ``text_features``; differentiable."""
        device = self.model.device
        return torch.cat([embed_images(self.model, chunk.to(device)) for chunk in images.split(BATCH)])

    def person_features(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B p"]:
        """Unit features of the person, similar for one person in one outfit from all sides."""
        return person_part(self.image_features(images))

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Float[Tensor, "B d"]:
        """Unit features of texts, truncated to 64 tokens."""
        ids = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").input_ids
        return embed_tokens(self.model, ids.to(self.model.device))

    def to(self, device: torch.device | str) -> "Scorer":
        """Move the model in place."""
        self.model.to(device)  # pyright: ignore[reportArgumentType]  # its wrapper hides self
        return self


def frozen(model: CLIPModel, tokenizer: CLIPTokenizer) -> Scorer:
    """A scorer with frozen weights."""
    return Scorer(model.float().eval().requires_grad_(False), tokenizer)


@lru_cache(maxsize=2)
def load_scorer(folder: Path = WEIGHTS) -> Scorer:
    """The scorer of a folder, by default the packaged one, in single precision on the CPU.

    Raises:
        UserError: if the folder holds no scorer, or one trained with another vocabulary than the packaged prior's.
    """
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"{folder}: no scorer is there; train one: avatar-gs stage=train_scorer")
    tokenizer = CLIPTokenizer.from_pretrained(str(TOKENIZER))
    return frozen(load_model(tokenizer, folder), tokenizer)


def load_model(tokenizer: CLIPTokenizer, folder: Path = WEIGHTS) -> CLIPModel:
    """The trainable model of a folder in single precision.

    Raises:
        UserError: if the model was trained with another vocabulary than the tokenizer's.
    """
    disable_progress_bar()
    model = CLIPModel.from_pretrained(str(folder), use_safetensors=True)
    if getattr(model.config, "vocabulary", "") != vocabulary_hash(tokenizer):
        raise UserError(
            f"{folder}: this scorer was trained with another vocabulary than the packaged prior's; "
            "train it again: avatar-gs stage=train_scorer"
        )
    return model.float()


def package_scorer(model: CLIPModel, folder: Path) -> None:
    """Write ``config.json``, ``model.safetensors`` (half precision) and ``preprocessor_config.json`` as transformers
    reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    tensors = {name: value for name, value in tensors.items() if not name.endswith("position_ids")}
    with atomic_write(folder / "model.safetensors") as temporary:
        temporary.write_bytes(save(tensors, metadata={"format": "pt"}))
    write_json(
        folder / "config.json",
        {**model.config.to_dict(), "_name_or_path": "", "architectures": ["CLIPModel"], "dtype": "float16"},
    )
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": side,
            "do_center_crop": False,
            "do_normalize": True,
            "image_mean": [MEAN] * 3,
            "image_std": [STD] * 3,
        },
    )
