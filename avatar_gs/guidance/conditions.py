"""The prompts of a run as embeddings: every bucket's, encoded once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.guidance.config import GuidanceConfig
from avatar_gs.protocols import Prior


@dataclass(frozen=True)
class TextConditions:
    """Conditions by name, one row a bucket of views; ``null`` (the empty prompt) is the same everywhere.

    ``extra`` holds what only some methods ask for: ``source`` (the prompt of what is edited), ``identity`` (the person
    without clothes or view), ``corrupt`` (the text with the words of bad pictures).
    """

    text: Mapping[str, Float[Tensor, "L d"]]
    negative: Mapping[str, Float[Tensor, "L d"]]
    null: Float[Tensor, "L d"]
    extra: Mapping[str, Mapping[str, Float[Tensor, "L d"]]] = field(default_factory=dict)

    @classmethod
    def encode(
        cls,
        prior: Prior,
        positive: Mapping[str, str],
        negative: Mapping[str, str],
        extra: Mapping[str, Mapping[str, str]] | None = None,
    ) -> "TextConditions":
        """Encode every distinct prompt once; the arguments map buckets to prompts (``extra``: names to such maps)."""
        named = extra or {}
        more = [prompt for prompts in named.values() for prompt in prompts.values()]
        prompts = list(dict.fromkeys(["", *positive.values(), *negative.values(), *more]))
        with torch.no_grad():
            rows = dict(zip(prompts, prior.encode_prompts(prompts).float(), strict=True))
        return cls(
            text={bucket: rows[prompt] for bucket, prompt in positive.items()},
            negative={bucket: rows[prompt] for bucket, prompt in negative.items()},
            null=rows[""],
            extra={name: {bucket: rows[prompt] for bucket, prompt in of.items()} for name, of in named.items()},
        )

    def batch(self, buckets: Sequence[str]) -> dict[str, Float[Tensor, "B L d"]]:
        """The conditions of a batch of views, as ``Guidance.step`` takes them."""
        named = {"text": self.text, "negative": self.negative, **self.extra}
        rows = {name: torch.stack([of[bucket] for bucket in buckets]) for name, of in named.items()}
        return rows | {"null": self.null.expand(len(buckets), *self.null.shape)}


def corrupt_prompts(
    config: GuidanceConfig, positive: Mapping[str, str], negative: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """The extra prompts of a Bridge schedule (none where it is off), for ``TextConditions.encode``."""
    if config.bridge.start >= 1:
        return {}
    return {"corrupt": {b: f"{text}, {config.bridge.words or negative[b]}" for b, text in positive.items()}}
