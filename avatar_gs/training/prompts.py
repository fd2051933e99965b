"""From the user's sentence to what the prior is asked for in every view."""

import logging
from typing import Protocol, runtime_checkable

from avatar_gs.prior.prompts import BucketPrompt, bucket_prompts, fit_prompt
from avatar_gs.settings import Settings

LOGGER = logging.getLogger(__name__)


@runtime_checkable
class Reader(Protocol):
    """The part of a prior that knows what it can read (``StableDiffusionPrior`` does)."""

    name: str

    def truncate(self, prompt: str, reserve: str = "") -> tuple[str, str]: ...

    def unknown_words(self, prompt: str) -> list[str]: ...


def run_prompts(settings: Settings, prior: Reader) -> dict[str, BucketPrompt]:
    """The prompts of every bucket of views; says in the log what of the sentence the prior cannot read.

    The sentence is cut, not the view words that follow it: without those, a back would get a face.
    """
    config = settings.prior.prompts
    kept, cut = fit_prompt(prior, settings.prompt, config)
    if cut:
        LOGGER.warning("the prompt is too long for prior=%s: it does not read “%s”", prior.name, cut.strip())
    unknown = prior.unknown_words(kept)
    if unknown:
        LOGGER.warning(
            "prior=%s never learned these words and will not follow them: %s", prior.name, ", ".join(unknown)
        )
    return bucket_prompts(kept, settings.negative_prompt, config)
