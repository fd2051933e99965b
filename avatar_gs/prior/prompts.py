"""Prompts: words for an identity and for the side and framing of a view.

All views of one ``Bucket`` share their prompts, so a run has at most ``len(BUCKETS)`` different prompts.
"""

import math
from typing import Protocol, runtime_checkable

from avatar_gs.prior.config import PLACEHOLDER, WEARING, PromptConfig, PromptStyle
from avatar_gs.types import Bucket, BucketPrompt, Framing, ViewDirection, Views

SOMEBODY = "a person"
"""Replaces ``<id>`` in views without the identity."""
DRESSED = ("wearing", "wears", "dressed", "in")
"""Words of a prompt that names clothes itself ("in a garden" is taken for clothes, too)."""
AFTER_A_NAME = ("wearing", "in", "with", "as", "dressed", "who", "has", "wears", "and")
"""Words that follow a name without a comma."""
BUCKETS = tuple(Bucket(framing, direction) for framing in Framing for direction in ViewDirection)

FRAMING_WORDS = {
    Framing.BODY: "full body",
    Framing.HEAD: "close-up of the head",
    Framing.UPPER: "upper body",
    Framing.LOWER: "lower body",
}
# The ends of the packaged prior's captions, which have no overhead view.
MINI_DIRECTION_WORDS = {
    ViewDirection.FRONT: "front view",
    ViewDirection.SIDE: "side view",
    ViewDirection.BACK: "back view",
}
# "back view" alone is overridden by a prompt that mentions a face.
SD_DIRECTION_WORDS = {
    ViewDirection.FRONT: "front view",
    ViewDirection.SIDE: "side view",
    ViewDirection.BACK: "back view of a person from behind",
    ViewDirection.OVERHEAD: "overhead view",
}
SD_BACK_OF_HEAD = "back of the head"
SD_BACK_NEGATIVE = "face, eyes"


def with_accessories(prompt: str, accessories: str) -> str:
    """Add the accessories of the photos to a prompt with ``<id>`` and without clothes.

    An identity learned with free clothes does not contain accessories, so that another outfit can replace them.
    """
    if not accessories or set(prompt.lower().split()) & set(DRESSED):
        return prompt
    return prompt.replace(PLACEHOLDER, f"{PLACEHOLDER}{WEARING}{accessories}", 1)


def with_placeholder(prompt: str) -> str:
    """The prompt, with ``<id>`` in front unless it contains it."""
    words = prompt.split()
    if PLACEHOLDER in prompt:
        return prompt
    if not words:
        return PLACEHOLDER
    joint = " " if words[0].lower() in AFTER_A_NAME else ", "
    return f"{PLACEHOLDER}{joint}{prompt.strip()}"


@runtime_checkable
class Tokenized(Protocol):
    """The part of a prior that knows its token length."""

    def truncate(self, prompt: str, reserve: str = "") -> tuple[str, str]: ...


def view_direction(azimuth: float, elevation: float, config: PromptConfig) -> ViewDirection:
    """The named direction of a camera.

    Args:
        azimuth: radians, any number of turns; 0 in front, +pi/2 at the avatar's left hand.
        elevation: radians.
        config: the directions' bounds.
    """
    if config.style is PromptStyle.sd and math.degrees(elevation) > config.overhead_degrees:
        return ViewDirection.OVERHEAD
    turn = abs(math.degrees(math.remainder(azimuth, math.tau)))
    if turn < config.front_degrees:
        return ViewDirection.FRONT
    return ViewDirection.BACK if turn > config.back_degrees else ViewDirection.SIDE


def view_buckets(views: Views, config: PromptConfig) -> list[Bucket]:
    """The bucket of each view."""
    angles = zip(views.framings, views.azimuth.tolist(), views.elevation.tolist(), strict=True)
    return [Bucket(framing, view_direction(az, el, config)) for framing, az, el in angles]


def shows_identity(bucket: Bucket, config: PromptConfig) -> bool:
    """Whether the bucket's prompts contain ``<id>``."""
    return bucket.framing.value in config.identity_framings and bucket.direction.value in config.identity_views


def bucket_prompts(prompt: str, negative_prompt: str, config: PromptConfig) -> dict[Bucket, BucketPrompt]:
    """The prompts of every bucket that the style distinguishes.

    Args:
        prompt: the user's; ``<id>`` in it becomes "a person" in buckets without the identity.
        negative_prompt: the user's; empty: the config's.
        config: style and words.
    """
    negative = negative_prompt or config.negative
    prompts = {}
    for bucket in BUCKETS:
        framing, direction = bucket
        who = PLACEHOLDER if shows_identity(bucket, config) else SOMEBODY
        sentence = _sentence(prompt.replace(PLACEHOLDER, who))
        if config.style is PromptStyle.mini:
            if direction in MINI_DIRECTION_WORDS:
                side = MINI_DIRECTION_WORDS[direction] if config.view_words else ""
                words = [sentence, config.suffix, FRAMING_WORDS[framing], side]
                prompts[bucket] = BucketPrompt(_join(words), negative)
            continue
        if not config.view_words:
            prompts[bucket] = BucketPrompt(_join([FRAMING_WORDS[framing], sentence, config.suffix]), negative)
            continue
        words = [*_sd_view_words(framing, direction), sentence, config.suffix]
        against = [SD_BACK_NEGATIVE if direction is ViewDirection.BACK else "", negative]
        prompts[bucket] = BucketPrompt(_join(words), _join(against))
    return prompts


def fit_prompt(prior: Tokenized, prompt: str, config: PromptConfig) -> tuple[str, str]:
    """``(kept, cut)``: the part of ``prompt`` that fits together with the longest view words, and the rest.

    Otherwise a long prompt would displace the packaged prior's view words, which come last.
    """
    added = {p.positive for p in bucket_prompts("", "", config).values()}
    # "a person" may take more tokens than <id>
    hidden = any(PLACEHOLDER not in p.positive for p in bucket_prompts(PLACEHOLDER, "", config).values())
    somebody = f" {SOMEBODY}" * prompt.count(PLACEHOLDER) if hidden else ""
    kept, cut = prompt, ""
    for words in sorted(added):
        shorter, rest = prior.truncate(prompt, reserve=f", {words}{somebody}")
        if len(rest) > len(cut):
            kept, cut = shorter, rest
    return kept, cut


def _sd_view_words(framing: Framing, direction: ViewDirection) -> list[str]:
    words = [SD_DIRECTION_WORDS[direction]]
    if direction is ViewDirection.BACK and framing is not Framing.LOWER:
        words.append(SD_BACK_OF_HEAD)
    return [*words, FRAMING_WORDS[framing]]


def _sentence(prompt: str) -> str:
    return prompt.strip().rstrip(".,;: ")


def _join(words: list[str]) -> str:
    return ", ".join(word for word in words if word)
