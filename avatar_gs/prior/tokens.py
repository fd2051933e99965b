"""A person in a prompt: the placeholder ``<id>``, which stands for n learned rows among the token embeddings.

The rows take the places that new tokens of these embeddings would take, so that a file of them means the same to
diffusers' ``load_textual_inversion``; but no token is added, and nothing of the text encoder is ever changed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import CLIPTokenizer

from avatar_gs.prior.config import PLACEHOLDER
from avatar_gs.prior.vocabulary import WORD


def encode_with_rows(
    text_encoder: Any, tokenizer: CLIPTokenizer, length: int, prompts: Sequence[str], rows: Float[Tensor, "n d"]
) -> Float[Tensor, "B L d"]:
    """The text encoder's last hidden states of prompts in which each ``<id>`` is read as ``rows``; differentiable in
    them. Prompts that are too long are cut, within an ``<id>`` if need be."""
    device = text_encoder.device
    pairs = [placed_tokens(tokenizer, length, prompt, len(rows)) for prompt in prompts]
    ids = torch.stack([ids for ids, _ in pairs]).to(device)
    places = torch.stack([places for _, places in pairs]).to(device)
    with _replaced_inputs(text_encoder, places, rows.to(device)):
        return text_encoder(ids)[0]


def placed_tokens(
    tokenizer: CLIPTokenizer, length: int, prompt: str, n: int
) -> tuple[Int[Tensor, " L"], Int[Tensor, " L"]]:
    """``(ids, places)``: the tokens of a prompt, and for each position the row of ``<id>`` that belongs there (-1 for
    an ordinary token). Text before and after ``<id>`` is read as if it stood alone, as around any added token."""
    ids: list[int] = []
    places: list[int] = []
    for index, part in enumerate(prompt.split(PLACEHOLDER)):
        if index:
            ids += [0] * n  # any token: its embedding is replaced
            places += range(n)
        words = tokenizer(part, add_special_tokens=False, verbose=False).input_ids
        ids += words
        places += [-1] * len(words)
    room = length - 2
    begin, end, pad = (_special(tokenizer, name) for name in ("bos", "eos", "pad"))
    ids, places = [begin, *ids[:room], end], [-1, *places[:room], -1]
    missing = length - len(ids)
    return torch.tensor(ids + [pad] * missing), torch.tensor(places + [-1] * missing)


def token_embeddings(text_encoder: Any, tokenizer: CLIPTokenizer, text: str) -> Float[Tensor, "n d"]:
    """The input embeddings of the tokens of ``text``, without those that mark its beginning and end."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return text_encoder.get_input_embeddings().weight.detach()[ids].float()


def _special(tokenizer: Any, name: str) -> int:
    return int(getattr(tokenizer, f"{name}_token_id"))


@contextmanager
def _replaced_inputs(text_encoder: Any, places: Int[Tensor, "B L"], rows: Float[Tensor, "n d"]) -> Iterator[None]:
    """While this lasts, the token embedding answers ``rows[place]`` wherever ``place`` is not -1."""
    replaced = (places >= 0)[..., None]

    def replace(module: Any, inputs: Any, embedded: Tensor) -> Tensor:
        return torch.where(replaced, rows[places.clamp(min=0)].to(embedded.dtype), embedded)

    handle = text_encoder.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def truncate(
    tokenizer: CLIPTokenizer, length: int, prompt: str, reserve: str = "", identity_rows: int = 1
) -> tuple[str, str]:
    """``(kept, cut)`` with ``kept + cut == prompt``: ``kept`` and then ``reserve`` fit into ``length`` tokens, of which
    each ``<id>`` takes ``identity_rows``."""
    room = length - 2 - len(_token_starts(tokenizer, reserve, identity_rows))
    starts = _token_starts(tokenizer, prompt, identity_rows)
    if len(starts) <= room:
        return prompt, ""
    start = starts[max(room, 0)]
    if start and prompt[start - 1].isalnum() and prompt[start].isalnum():  # never keep half of a word
        start = max((match.start() for match in WORD.finditer(prompt) if match.start() < start), default=0)
    return prompt[:start], prompt[start:]


def _token_starts(tokenizer: CLIPTokenizer, prompt: str, identity_rows: int) -> list[int]:
    """Where in ``prompt`` each of its tokens begins; the rows of an ``<id>`` all begin where it does."""
    starts: list[int] = []
    position = 0
    for index, part in enumerate(prompt.split(PLACEHOLDER)):
        if index:
            starts += [position] * identity_rows
            position += len(PLACEHOLDER)
        tokens = tokenizer(part, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        starts += [position + begin for begin, _ in tokens.offset_mapping]
        position += len(part)
    return starts
