"""Prompts to text conditions, by CLIP; ``<id>`` in a prompt stands for n token embeddings of a person.

Further words may stand for embeddings in the same way. The embeddings are used in place of new tokens' embeddings, so
that a file of them means the same to diffusers' ``load_textual_inversion``; but no token is added, and the text encoder
does not change.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from avatar_gs.core.errors import UserError
from avatar_gs.prior.compute import Compute
from avatar_gs.prior.config import PLACEHOLDER
from avatar_gs.prior.vocabulary import WORD


class PromptEncoder:
    """A frozen CLIP text encoder in float32 with its tokenizer.

    Args:
        tokenizer: of the text encoder.
        text_encoder: gives the conditions.
        compute: device and ``offload_text``.
    """

    def __init__(
        self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel | CLIPTextModelWithProjection, compute: Compute
    ) -> None:
        self.device, self.offload = compute.device, compute.offload_text
        self.tokenizer = tokenizer
        self.text_encoder: Any = text_encoder.requires_grad_(False).eval()
        self.text_encoder.to("cpu" if self.offload else self.device, torch.float32)
        self.token_length = min(int(tokenizer.model_max_length), int(text_encoder.config.max_position_embeddings))
        self.text_width = int(text_encoder.config.hidden_size)
        self.embeddings: Mapping[str, Float[Tensor, "_ d"]] = {}
        """Token embeddings of further words, such as ``<ink>``."""

    def encode(self, prompts: Sequence[str], identity: Float[Tensor, "n d"] | None) -> Float[Tensor, "B L d"]:
        """The text encoder's last hidden states; arguments and errors as of ``outputs``."""
        return self.outputs(prompts, identity).last_hidden_state

    def outputs(self, prompts: Sequence[str], identity: Float[Tensor, "n d"] | None, *, layers: bool = False) -> Any:
        """The text encoder's outputs; longer prompts are cut.

        Args:
            prompts: the texts.
            identity: embeddings of ``<id>``; the result is differentiable in them.
            layers: include the hidden states of every layer.

        Raises:
            UserError: for a prompt with ``<id>`` without an identity.
        """
        for prompt in prompts if identity is None else ():
            if PLACEHOLDER in prompt:
                raise UserError(
                    f"prompt “{prompt}”: nobody is known as {PLACEHOLDER}; give photos=<folder> of one person, or "
                    "identity=<file>, or leave it out"
                )
        others = {word: rows for word, rows in self.embeddings.items() if any(word in prompt for prompt in prompts)}
        if identity is not None or others:
            rows = list(others.values()) if identity is None else [identity, *others.values()]
            count, sizes = 0 if identity is None else len(identity), {word: len(rows) for word, rows in others.items()}
            pairs = [placed_tokens(self.tokenizer, self.token_length, prompt, count, sizes) for prompt in prompts]
            with self._on_device(keep=identity is not None and identity.requires_grad):
                device = self.text_encoder.device
                ids, places = (torch.stack(values).to(device) for values in zip(*pairs, strict=True))
                with _replaced_embeddings(self.text_encoder, places, torch.cat([part.to(device) for part in rows])):
                    return self.text_encoder(ids, output_hidden_states=layers)
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.token_length, truncation=True, return_tensors="pt"
        )
        with self._on_device():
            return self.text_encoder(tokens.input_ids.to(self.device), output_hidden_states=layers)

    def token_embeddings(self, text: str) -> Float[Tensor, "n d"]:
        """Input embeddings of the tokens of ``text``, without those that mark its start and end."""
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return self.text_encoder.get_input_embeddings().weight.detach()[ids].float().to(self.device)

    @contextmanager
    def _on_device(self, *, keep: bool = False) -> Iterator[None]:
        """The text encoder on the device within the context; ``keep``: also after it, for a backward pass."""
        self.text_encoder.to(self.device)
        try:
            yield
        finally:
            if self.offload and not keep:
                self.text_encoder.to("cpu")


def placed_tokens(
    tokenizer: CLIPTokenizer, length: int, prompt: str, n: int, others: Mapping[str, int] = MappingProxyType({})
) -> tuple[Int[Tensor, " L"], Int[Tensor, " L"]]:
    """Tokens of a prompt, and at each position the index of the identity's embedding that belongs there.

    Text before and after ``<id>`` is tokenised by itself, as around any added token.

    Args:
        tokenizer: of the prior.
        length: L; longer prompts are cut, within an ``<id>`` if need be.
        prompt: may contain ``<id>``.
        n: embeddings of ``<id>``.
        others: further words with the number of embeddings of each, which follow those of ``<id>``.

    Returns:
        ``(ids, places)``; ``places`` is -1 at ordinary tokens.
    """
    ids: list[int] = []
    places: list[int] = []
    first, rows = n, {PLACEHOLDER: range(n)}
    for word, count in others.items():
        rows[word], first = range(first, first + count), first + count
    for part in _split(prompt, rows):
        if part in rows:
            ids += [0] * len(rows[part])  # any token: its embedding is replaced
            places += rows[part]
            continue
        words = tokenizer(part, add_special_tokens=False, verbose=False).input_ids
        ids += words
        places += [-1] * len(words)
    room = length - 2
    begin, end, pad = (int(getattr(tokenizer, f"{name}_token_id")) for name in ("bos", "eos", "pad"))
    ids, places = [begin, *ids[:room], end], [-1, *places[:room], -1]
    missing = length - len(ids)
    return torch.tensor(ids + [pad] * missing), torch.tensor(places + [-1] * missing)


def truncate(
    tokenizer: CLIPTokenizer,
    length: int,
    prompt: str,
    reserve: str = "",
    identity_tokens: int = 1,
    others: Mapping[str, int] = MappingProxyType({}),
) -> tuple[str, str]:
    """Cut a prompt between words so that it fits, followed by ``reserve``, into ``length`` tokens.

    Args:
        tokenizer: of the prior.
        length: L, with the tokens that mark start and end.
        prompt: may contain ``<id>``.
        reserve: text that will follow the prompt.
        identity_tokens: tokens of each ``<id>``.
        others: further words that stand for embeddings, with their numbers of tokens.

    Returns:
        ``(kept, cut)`` with ``kept + cut == prompt``.
    """
    sizes = {PLACEHOLDER: identity_tokens, **others}
    room = length - 2 - len(_token_starts(tokenizer, reserve, sizes))
    starts = _token_starts(tokenizer, prompt, sizes)
    if len(starts) <= room:
        return prompt, ""
    start = starts[max(room, 0)]
    if start and prompt[start - 1].isalnum() and prompt[start].isalnum():  # never keep half of a word
        start = max((match.start() for match in WORD.finditer(prompt) if match.start() < start), default=0)
    return prompt[:start], prompt[start:]


def _token_starts(tokenizer: CLIPTokenizer, prompt: str, sizes: Mapping[str, int]) -> list[int]:
    """Start of each token in ``prompt``; all tokens of a word in ``sizes``, such as ``<id>``, start where it does."""
    starts: list[int] = []
    position = 0
    for part in _split(prompt, sizes):
        if part in sizes:
            starts += [position] * sizes[part]
        else:
            tokens = tokenizer(part, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            starts += [position + begin for begin, _ in tokens.offset_mapping]
        position += len(part)
    return starts


def _split(prompt: str, words: Iterable[str]) -> list[str]:
    """The parts of a prompt between words that stand for embeddings, and these words."""
    return re.split(f"({'|'.join(map(re.escape, words))})", prompt)


@contextmanager
def _replaced_embeddings(
    text_encoder: Any, places: Int[Tensor, "B L"], identity: Float[Tensor, "n d"]
) -> Iterator[None]:
    """Within the context, the token embedding is ``identity[place]`` wherever ``place`` is not -1."""
    replaced = (places >= 0)[..., None]

    def replace(module: Any, inputs: Any, embedded: Tensor) -> Tensor:
        # not identity[places]: on a CPU its gradient is added up by several threads in an order that varies
        return torch.where(replaced, F.embedding(places.clamp(min=0), identity).to(embedded.dtype), embedded)

    handle = text_encoder.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
