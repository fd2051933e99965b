"""The identity file: n token embeddings of one person, with metadata on their training.

It is safetensors with the single key ``<id>``, which diffusers' ``load_textual_inversion`` reads. Textual inversions of
other programs (diffusers, A1111, the original one) and the pickles of Cross Initialization's authors can be read, too;
pickles as plain tensors only.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from avatar_gs.core.errors import UserError, first_line
from avatar_gs.core.io import atomic_write
from avatar_gs.prior.loading import lora
from avatar_gs.prior.loading.weight_files import POINTER, read_pickle
from avatar_gs.prior.prompts import PLACEHOLDER
from avatar_gs.protocols import IdentityPrior

FORMAT = "avatar_gs.identity"
ACCESSORIES = "accessories"
VERSION = 1
MAX_VECTORS = 75
"""Stable Diffusion's 77 tokens without start and end."""
MAX_BYTES = 16 * 2**20
MAX_RATIO = 1000
"""Largest ratio of an embedding's norm to the median norm of the prior's own, and its inverse."""
MODELS = {
    768: "Stable Diffusion 1.5's",
    1024: "Stable Diffusion 2.1's",
    1280: "Stable Diffusion XL's second one",
    2048: "Stable Diffusion XL's",
}
_SPLIT_KEY = re.compile(r"(?P<name>.*)_v(?P<index>\d+)", re.DOTALL)
_BITS = 64
_SAME_BITS = 50
_LETTERS = " ".join("abcdefghijklmnopqrstuvwxyz")
_EXPECTED = "expected an identity file that this program wrote, or a textual inversion (.safetensors)"


@dataclass(frozen=True)
class IdentityEmbedding:
    """The token embeddings of ``<id>``.

    ``metadata`` may hold ``base_model``, ``text_encoder`` (see ``text_encoder_fingerprint``), ``method``, ``steps``,
    ``accessories``, ``sources`` and other facts about the training.
    """

    vectors: Float[Tensor, "n d"]
    metadata: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def accessories(self) -> str:
        """Named next to ``<id>`` to show the person as in the photos, such as "a red hat"; often empty."""
        return self.metadata.get(ACCESSORIES, "")


def write_identity(path: str | os.PathLike[str], embedding: IdentityEmbedding) -> None:
    """Write a safetensors file atomically: key ``<id>``, float32 ``[n, d]``, and the metadata with ``format``,
    ``format_version``, ``tokens`` (n) and ``text_width`` (d). Equal embeddings give equal bytes.

    Raises:
        ValueError: if the embedding is not finite.
    """
    vectors = embedding.vectors.detach().float().cpu().contiguous()
    if not vectors.isfinite().all():
        raise ValueError("an identity embedding must be finite")
    n, d = vectors.shape
    metadata = embedding.metadata | {
        "format": FORMAT,
        "format_version": str(VERSION),
        "tokens": str(n),
        "text_width": str(d),
    }
    data = safetensors.torch.save({PLACEHOLDER: vectors}, metadata=metadata)
    with atomic_write(path) as temporary:
        temporary.write_bytes(_with_sorted_header(data))


def read_identity(path: str | os.PathLike[str]) -> IdentityEmbedding:
    """Read an identity file or a textual inversion.

    A textual inversion is safetensors with one tensor ``[d]`` or ``[n, d]`` of any name, or with
    ``<name>_v0, <name>_v1, …`` of ``[d]``; or a pickle of either, which is read as plain tensors only.

    Raises:
        UserError: if the file is missing, damaged or cut short, holds something else or numbers that are not finite, or
            is a pickle of more than tensors.
    """
    path = Path(path).expanduser()
    content, metadata = _content(path)
    version = metadata.get("format_version", "")
    if metadata.get("format") == FORMAT and version != str(VERSION):
        raise UserError(
            f"{path}: written in format {version or 'of no number'}, this version of the program reads {VERSION}: "
            "update avatar-gs, or train the identity again with photos=<folder>"
        )
    return IdentityEmbedding(_vectors(path, content), metadata)


def text_encoder_fingerprint(prior: IdentityPrior) -> str:
    """Sixteen hexadecimal digits that identify a text encoder, also (nearly) after fine-tuning or rounding.

    They are the signs of 64 fixed random projections of the alphabet's token embeddings (locality-sensitive hashing,
    Charikar 2002).
    """
    values = prior.token_embeddings(_LETTERS).detach().double().cpu().flatten().numpy()
    # NumPy guarantees the stream of bit generators across versions, unlike that of distributions.
    words = np.random.PCG64(0).random_raw(len(values))
    signs = [values @ (1.0 - 2.0 * ((words >> np.uint64(bit)) & np.uint64(1))) > 0 for bit in range(_BITS)]
    return f"{sum(int(sign) << bit for bit, sign in enumerate(signs)):0{_BITS // 4}x}"


def check_fits(embedding: IdentityEmbedding, prior: IdentityPrior, file: str = "identity") -> None:
    """Check that an identity was made for the text encoder of ``prior``.

    ``file`` is its name in the message, for instance ``identity=anna.safetensors``.

    Raises:
        UserError: if it was made for a text encoder of another width, or for another one of the same width (which is
            known only if its metadata hold a ``text_encoder``); or if it has more vectors than the prior has tokens, or
            embeddings of another order of magnitude than the prior's.
    """
    n, found = embedding.vectors.shape
    base_model = embedding.metadata.get("base_model", "")
    if found != prior.text_width:
        known = f", such as {MODELS[found]}" if found in MODELS else ""
        made_for = (
            f"{base_model}, whose text encoder is {found} wide" if base_model else f"a text encoder {found} wide{known}"
        )
        raise UserError(
            f"{file} was made for {made_for}; prior={prior.name} reads text {prior.text_width} wide: choose the prior "
            "that it was made for, or train one for this prior with photos=<folder>"
        )
    made_with = embedding.metadata.get("text_encoder", "")
    if made_with and not _same_encoder(made_with, text_encoder_fingerprint(prior)):
        raise UserError(
            f"{file} was made for {base_model or 'another model'}, whose text encoder is not that of "
            f"prior={prior.name} (both are {found} wide): choose the prior that it was made for, or train one for this "
            "prior with photos=<folder>"
        )
    if n > prior.token_length - 2:
        raise UserError(
            f"{file} has {n} vectors; prior={prior.name} reads {prior.token_length - 2} tokens: give one with fewer"
        )
    usual = float(prior.token_embeddings(_LETTERS).float().norm(dim=1).median())
    ratios = embedding.vectors.norm(dim=1) / max(usual, torch.finfo(torch.float32).tiny)
    if not (float(ratios.min()) >= 1 / MAX_RATIO and float(ratios.max()) <= MAX_RATIO):
        worst = max(float(ratios.max()), 1 / float(ratios.min()))
        size = "larger" if float(ratios.max()) > MAX_RATIO else "smaller"
        raise UserError(
            f"{file}: its embeddings are {worst:,.0f} times {size} than those of prior={prior.name}: its training "
            "diverged, or it is no embedding for this prior; give another"
        )


def _same_encoder(a: str, b: str) -> bool:
    """Whether fingerprints are of related encoders; unrelated ones agree in 32 ± 4 of the 64 bits."""
    try:
        return _BITS - (int(a, 16) ^ int(b, 16)).bit_count() >= _SAME_BITS
    except ValueError:
        return a == b


def _with_sorted_header(data: bytes) -> bytes:
    """The safetensors file with sorted metadata (the library writes them in random order)."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


# ---- reading


def _content(path: Path) -> tuple[Mapping[Any, Any], dict[str, str]]:
    """The file's content by name, and its metadata; the format is recognised by the first bytes."""
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder: {_EXPECTED}")
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): {_EXPECTED}") from error
    if start == POINTER[:9]:
        raise UserError(f"{path} is a git-lfs pointer, not the file itself: run `git lfs pull`, or download the file")
    if start[8:9] == b"{" and lora.looks_like(_names(path)):
        raise UserError(f"{path} is a LoRA, no identity: give it with prior.lora={path}")
    if size > MAX_BYTES:
        raise UserError(
            f"{path} has {size / 2**20:.0f} MiB, an identity a few kilobytes: {_EXPECTED}; a whole model goes to prior="
        )
    if start[8:9] == b"{":
        return _safetensors(path)
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return _pickle(path), {}
    raise UserError(f"{path} is {'damaged, or ' if size else 'empty, and '}no identity file: {_EXPECTED}")


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError):
        return []


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise UserError(
            f"{path} is damaged or cut short ({first_line(error)}): copy it again, or give another"
        ) from error


def _pickle(path: Path) -> Mapping[Any, Any]:
    try:
        content = read_pickle(path)
    except UserError as error:
        raise UserError(
            f"{path} is damaged, or a pickle that holds more than tensors and could run a program: it was not opened; "
            f"{_EXPECTED}"
        ) from error
    if isinstance(content, Mapping) and "string_to_param" in content:
        content = content["string_to_param"]  # .pt of A1111 and of the original program …
    if isinstance(content, torch.nn.ParameterDict):  # … where it is a module, whose methods are not called
        content = vars(content).get("_parameters")
    if isinstance(content, Mapping) and lora.looks_like(map(str, content)):
        raise UserError(f"{path} is a LoRA, no identity: give it with prior.lora={path}")
    return content if isinstance(content, Mapping) else {"": content}


def _vectors(path: Path, content: Mapping[Any, Any]) -> Float[Tensor, "n d"]:
    if {"clip_l", "clip_g"} & {str(name) for name in content}:
        raise UserError(
            f"{path} was made for the two text encoders of Stable Diffusion XL: expected one for SD 1.5 or 2.1"
        )
    tensors = {str(name): value for name, value in content.items()}
    if len(tensors) == 1:
        name, value = next(iter(tensors.items()))
        vectors = _floats(path, name, value, ranks=(1, 2))
        return _checked(path, vectors if vectors.ndim == 2 else vectors[None])
    matches = [_SPLIT_KEY.fullmatch(name) for name in tensors]
    indexed = {int(match["index"]): match[0] for match in matches if match}
    if len({match and match["name"] for match in matches}) != 1 or sorted(indexed) != list(range(len(tensors))):
        listed = ", ".join(repr(name) for name in sorted(tensors)[:3]) + (", …" if len(tensors) > 3 else "")
        raise UserError(
            f"{path} holds {len(tensors)} entries ({listed or 'none'}): expected one tensor [n, d], or <name>_v0, "
            "<name>_v1, … of [d]"
        )
    parts = [_floats(path, indexed[i], tensors[indexed[i]], ranks=(1,)) for i in range(len(tensors))]
    if len({len(part) for part in parts}) > 1:
        raise UserError(f"{path}: its vectors differ in width ({', '.join(str(len(part)) for part in parts)})")
    return _checked(path, torch.stack(parts))


def _floats(path: Path, name: str, value: Any, ranks: tuple[int, ...]) -> Tensor:
    """``value`` as float32 if it is an ordinary float tensor of one of these ranks.

    The size is checked before a copy: a tensor of a few bytes may claim any size.
    """
    expected = " or ".join("[d]" if rank == 1 else "[n, d]" for rank in ranks)
    if not isinstance(value, Tensor):
        raise UserError(f"{path}: '{name}' is {type(value).__name__}, expected a tensor {expected}")
    ordinary = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
    fits = value.ndim in ranks and value.numel() > 0 and value.shape[-1] <= 2**16 and value.numel() <= 2**22
    if not (ordinary and fits and value.dtype.is_floating_point):
        dtype = str(value.dtype).removeprefix("torch.")
        raise UserError(f"{path}: '{name}' is {dtype} {list(value.shape)}, expected floating-point numbers {expected}")
    return value.detach().float()


def _checked(path: Path, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    if not vectors.isfinite().all():
        raise UserError(f"{path}: {int((~vectors.isfinite()).sum())} of its numbers are NaN or infinite: give another")
    if not vectors.any(dim=1).all():
        raise UserError(f"{path}: {int((~vectors.any(dim=1)).sum())} of its vectors are all zeros: give another")
    if len(vectors) > MAX_VECTORS:
        raise UserError(f"{path}: {len(vectors)} vectors, expected at most {MAX_VECTORS}, the length of a prompt")
    return vectors.contiguous()
