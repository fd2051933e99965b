"""From the user's sentence to what the prior is asked for in every view."""

import logging
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from avatar_gs.guidance.conditions import corrupt_prompts
from avatar_gs.guidance.config import Variant
from avatar_gs.prior.config import PLACEHOLDER
from avatar_gs.prior.placeholder import with_accessories, with_placeholder
from avatar_gs.prior.prompts import BucketPrompt, bucket_prompts, fit_prompt, texts
from avatar_gs.settings import Settings

LOGGER = logging.getLogger(__name__)


@runtime_checkable
class Reader(Protocol):
    """The part of a prior that knows what it can read (``StableDiffusionPrior`` does)."""

    name: str
    accessories: str

    def truncate(self, prompt: str, reserve: str = "") -> tuple[str, str]: ...

    def unknown_words(self, prompt: str) -> list[str]: ...


def run_prompts(settings: Settings, prior: Reader) -> dict[str, BucketPrompt]:
    """The prompts of every bucket of views; says in the log what of the sentence the prior cannot read.

    With an identity, ``<id>`` stands in front of a sentence that does not name it, and one that says nothing of clothes
    gets the hat of the photos, if there is one.

    The sentence is cut, not the view words that follow it: without those, a back would get a face.
    """
    prompt = with_placeholder(settings.prompt) if settings.has_identity else settings.prompt
    prompt = with_accessories(prompt, prior.accessories)
    return bucket_prompts(_readable(prompt, settings, prior), settings.negative_prompt, settings.prior.prompts)


def source_prompts(settings: Settings, prior: Reader) -> dict[str, str]:
    """What editing takes the avatar of ``init`` to be, in every bucket of views."""
    kept = _readable(with_accessories(settings.source_prompt, prior.accessories), settings, prior)
    positive, _ = texts(bucket_prompts(kept, settings.negative_prompt, settings.prior.prompts))
    return positive


def _readable(prompt: str, settings: Settings, prior: Reader) -> str:
    """As much of the sentence as the prior has room for."""
    kept, cut = fit_prompt(prior, prompt, settings.prior.prompts)
    if cut:
        LOGGER.warning("the prompt is too long for prior=%s: it does not read “%s”", prior.name, cut.strip())
    unknown = prior.unknown_words(kept)
    if unknown:
        LOGGER.warning(
            "prior=%s never learned these words and will not follow them: %s", prior.name, ", ".join(unknown)
        )
    return kept


def extra_prompts(
    settings: Settings, positive: Mapping[str, str], negative: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """What the run's guidance asks for beside its prompts, by name and bucket (see ``TextConditions.extra``)."""
    extra = corrupt_prompts(settings.guidance, positive, negative)
    if settings.has_identity and settings.guidance.de_sds.variant is Variant.composed:
        alone = bucket_prompts(PLACEHOLDER, "", settings.prior.prompts)
        extra["identity"] = {bucket: alone[bucket].positive for bucket in positive}
    return extra
