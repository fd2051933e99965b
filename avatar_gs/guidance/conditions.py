"""The prompts of a run as embeddings: every bucket's, encoded once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.types import Prior


@dataclass(frozen=True)
class TextConditions:
    """Conditions by name, one row a bucket of views; ``null`` (the empty prompt) is the same everywhere."""

    text: Mapping[str, Float[Tensor, "L d"]]
    negative: Mapping[str, Float[Tensor, "L d"]]
    null: Float[Tensor, "L d"]

    @classmethod
    def encode(cls, prior: Prior, positive: Mapping[str, str], negative: Mapping[str, str]) -> "TextConditions":
        """Encode every distinct prompt once; the arguments map buckets to prompts."""
        prompts = list(dict.fromkeys(["", *positive.values(), *negative.values()]))
        with torch.no_grad():
            rows = dict(zip(prompts, prior.encode_prompts(prompts).float(), strict=True))
        return cls(
            text={bucket: rows[prompt] for bucket, prompt in positive.items()},
            negative={bucket: rows[prompt] for bucket, prompt in negative.items()},
            null=rows[""],
        )

    def batch(self, buckets: Sequence[str]) -> dict[str, Float[Tensor, "B L d"]]:
        """The conditions of a batch of views, as ``Guidance.step`` takes them."""
        return {
            "text": torch.stack([self.text[bucket] for bucket in buckets]),
            "negative": torch.stack([self.negative[bucket] for bucket in buckets]),
            "null": self.null.expand(len(buckets), *self.null.shape),
        }
