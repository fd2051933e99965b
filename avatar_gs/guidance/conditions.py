"""Text conditions: the embeddings of a run's prompts, for every bucket of views."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from avatar_gs.core.lazy import Float, Tensor, torch
from avatar_gs.protocols import Prior
from avatar_gs.types import BucketPrompt


@dataclass(frozen=True)
class TextConditions:
    """Embeddings of the prompts by name and bucket of views; ``null`` (the empty prompt) is the same for all.

    Any hashable serves as a bucket here; runs use ``types.Bucket``.
    """

    text: Mapping[Any, Float[Tensor, "L d"]]
    negative: Mapping[Any, Float[Tensor, "L d"]]
    null: Float[Tensor, "L d"]
    extra: Mapping[str, Mapping[Any, Float[Tensor, "L d"]]] = field(default_factory=dict)
    """By the names of ``BucketPrompt.extra``."""

    @classmethod
    def encode(cls, prior: Prior, prompts: Mapping[Any, BucketPrompt]) -> "TextConditions":
        """Encode every distinct prompt once.

        Args:
            prior: encodes the prompts.
            prompts: by bucket; all buckets have the same ``extra`` names.
        """
        texts = {
            bucket: {"text": prompt.positive, "negative": prompt.negative, **prompt.extra}
            for bucket, prompt in prompts.items()
        }
        names = list(dict.fromkeys(name for named in texts.values() for name in named))
        distinct = list(dict.fromkeys(["", *(named[name] for name in names for named in texts.values())]))
        with torch.no_grad():
            embeddings = dict(zip(distinct, prior.encode_prompts(distinct).float(), strict=True))
        encoded = {name: {bucket: embeddings[named[name]] for bucket, named in texts.items()} for name in names}
        return cls(encoded.pop("text"), encoded.pop("negative"), embeddings[""], encoded)

    def batch(self, buckets: Sequence[Hashable]) -> dict[str, Float[Tensor, "B L d"]]:
        """The conditions of a batch of views, by name, as ``StepInputs`` takes them."""
        named = {"text": self.text, "negative": self.negative, **self.extra}
        batch = {name: torch.stack([of[bucket] for bucket in buckets]) for name, of in named.items()}
        return batch | {"null": self.null.expand(len(buckets), *self.null.shape)}
