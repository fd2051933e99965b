"""Stable Diffusion XL's text conditions: two CLIP text encoders, and the pooled output of the second."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from avatar_gs.prior.compute import Compute
from avatar_gs.prior.prompt_encoder import PromptEncoder


class TwoTextEncoders:
    """A ``PromptEncoder`` of two encoders (SDXL; Podell et al. 2023, arXiv:2307.01952, section 2.1).

    A condition has one row per token, with the second-last hidden states of both encoders side by side, and one more
    row: the second encoder's pooled output, filled up with zeros. Everything that treats conditions as ``[B, L, d]``
    (guidance, a learned condition) works unchanged, and ``Denoiser`` takes the last row off again (``split_pooled``).
    Token embeddings, such as an identity's, are those of both encoders side by side, too.

    Args:
        tokenizers, text_encoders: of the first and of the second encoder.
        compute: device and ``offload_text``.
    """

    def __init__(
        self,
        tokenizers: tuple[CLIPTokenizer, CLIPTokenizer],
        text_encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection],
        compute: Compute,
    ) -> None:
        self.first, self.second = (
            PromptEncoder(tokenizer, encoder, compute)
            for tokenizer, encoder in zip(tokenizers, text_encoders, strict=True)
        )
        self.tokenizer, self.token_length = self.first.tokenizer, self.first.token_length
        self.text_width = self.first.text_width + self.second.text_width
        self.embeddings: Mapping[str, Float[Tensor, "_ d"]] = {}
        """Token embeddings of further words, such as ``<ink>``."""

    @property
    def text_encoder(self) -> Any:
        """The first encoder."""
        return self.first.text_encoder

    def encode(self, prompts: Sequence[str], identity: Float[Tensor, "n d"] | None) -> Float[Tensor, "B rows d"]:
        """Conditions of ``token_length + 1`` rows; longer prompts are cut.

        Args:
            prompts: the texts.
            identity: embeddings of ``<id>``; the result is differentiable in them.

        Raises:
            UserError: for a prompt with ``<id>`` without an identity.
        """
        outputs = []
        for encoder, columns in self._columns():
            part = copy.copy(encoder)
            part.embeddings = {word: rows[:, columns] for word, rows in self.embeddings.items()}
            outputs.append(part.outputs(prompts, None if identity is None else identity[:, columns], layers=True))
        tokens = torch.cat([output.hidden_states[-2] for output in outputs], -1)
        pooled = outputs[1].text_embeds
        return torch.cat([tokens, F.pad(pooled, (0, self.text_width - pooled.shape[-1]))[:, None]], 1)

    def token_embeddings(self, text: str) -> Float[Tensor, "n d"]:
        """Input embeddings of the tokens of ``text``, without those that mark its start and end."""
        return torch.cat([encoder.token_embeddings(text) for encoder, _ in self._columns()], -1)

    def _columns(self) -> list[tuple[PromptEncoder, slice]]:
        """Each encoder with the columns of its token embeddings."""
        width = self.first.text_width
        return [(self.first, slice(width)), (self.second, slice(width, None))]


def split_pooled(cond: Float[Tensor, "B rows d"], width: int) -> tuple[Float[Tensor, "B L d"], Float[Tensor, "B p"]]:
    """The rows of the tokens, and the pooled output of ``width`` numbers, of conditions of ``TwoTextEncoders``."""
    return cond[:, :-1], cond[:, -1, :width]
