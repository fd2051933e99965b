"""From the user's prompt to the prompts of every view."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, runtime_checkable

from avatar_gs.guidance.methods.bridge import corrupt_prompt
from avatar_gs.guidance.methods.de_sds import Variant
from avatar_gs.prior.config import PLACEHOLDER
from avatar_gs.prior.prompts import bucket_prompts, fit_prompt, with_accessories, with_placeholder
from avatar_gs.training.config import TrainingConfig
from avatar_gs.types import Bucket, BucketPrompt

LOGGER = logging.getLogger(__name__)


@runtime_checkable
class Reader(Protocol):
    """The part of a prior that knows its vocabulary (``StableDiffusionPrior`` does)."""

    name: str
    accessories: str

    def truncate(self, prompt: str, reserve: str = "") -> tuple[str, str]: ...

    def unknown_words(self, prompt: str) -> list[str]: ...


def run_prompts(config: TrainingConfig, prior: Reader) -> dict[Bucket, BucketPrompt]:
    """The prompts of every bucket of views, with everything that the run's guidance needs (``with_extra``).

    Words that the prior cannot read are reported in the log. With an identity, ``<id>`` is put in front of a prompt
    that does not name it, and a prompt without clothes gets the hat of the photos, if there is one. A prompt that is
    too long is cut before the view words: without those, a back view would get a face.
    """
    prompt = with_placeholder(config.prompt) if config.has_identity else config.prompt
    prompts = _view_prompts(prompt, config, prior)
    edits = bool(config.guidance.edits and config.init)
    return with_extra(prompts, config, _view_prompts(config.source_prompt, config, prior) if edits else None)


def with_extra(
    prompts: Mapping[Bucket, BucketPrompt], config: TrainingConfig, source: Mapping[Bucket, BucketPrompt] | None = None
) -> dict[Bucket, BucketPrompt]:
    """The prompts, each with the extra ones that the run's guidance needs (``BucketPrompt.extra``).

    Args:
        source: what an editing method takes the avatar to show before the edit.
    """
    person = config.has_identity and config.guidance.de_sds.variant is Variant.composed
    alone = bucket_prompts(PLACEHOLDER, "", config.prompts) if person else {}
    complete = {}
    for bucket, prompt in prompts.items():
        extra = corrupt_prompt(config.guidance.bridge, prompt)
        if person:
            extra["identity"] = alone[bucket].positive
        if source is not None:
            extra["source"] = source[bucket].positive
        complete[bucket] = replace(prompt, extra=extra)
    return complete


def _view_prompts(prompt: str, config: TrainingConfig, prior: Reader) -> dict[Bucket, BucketPrompt]:
    """The prompts of every bucket, of as much of a prompt as the prior has room for."""
    kept, cut = fit_prompt(prior, with_accessories(prompt, prior.accessories), config.prompts)
    if cut:
        LOGGER.warning("the prompt is too long for prior=%s: it does not read “%s”", prior.name, cut.strip())
    unknown = prior.unknown_words(kept)
    if unknown:
        LOGGER.warning(
            "prior=%s never learned these words and will not follow them: %s", prior.name, ", ".join(unknown)
        )
    return bucket_prompts(kept, config.negative_prompt, config.prompts)
