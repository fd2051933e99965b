"""The words that tell a prior from where, and how close, a camera looks at the avatar.

All views of one ``Bucket`` share their prompts, so a run has at most ``len(BUCKETS)`` different prompts.
"""

import math
from typing import Protocol, runtime_checkable

from avatar_gs.prior.config import PLACEHOLDER, WEARING, PromptConfig, PromptStyle
from avatar_gs.types import Bucket, BucketPrompt, Framing, ViewDirection, Views

SOMEBODY = "a person"
"""What stands there in the views that the identity is kept out of."""
DRESSED = ("wearing", "wears", "dressed", "in")
"""Words of a prompt that says itself what somebody wears ("in a garden" is taken for clothes, too)."""
AFTER_A_NAME = ("wearing", "in", "with", "as", "dressed", "who", "has", "wears", "and")
"""Words that go on after a name without a comma."""


def with_accessories(prompt: str, accessories: str) -> str:
    """A prompt of ``<id>`` that says nothing of clothes, with the hat or glasses of their photos: an identity learned
    with free clothes does not hold them, so that they come off with another outfit."""
    if not accessories or set(prompt.lower().split()) & set(DRESSED):
        return prompt
    return prompt.replace(PLACEHOLDER, f"{PLACEHOLDER}{WEARING}{accessories}", 1)


def with_placeholder(prompt: str) -> str:
    """A prompt that names ``<id>``: as it is if it does, else with ``<id>`` in front."""
    words = prompt.split()
    if PLACEHOLDER in prompt:
        return prompt
    if not words:
        return PLACEHOLDER
    joint = " " if words[0].lower() in AFTER_A_NAME else ", "
    return f"{PLACEHOLDER}{joint}{prompt.strip()}"


BUCKETS = tuple(Bucket(framing, direction) for framing in Framing for direction in ViewDirection)

FRAMING_WORDS = {
    Framing.BODY: "full body",
    Framing.HEAD: "close-up of the head",
    Framing.UPPER: "upper body",
    Framing.LOWER: "lower body",
}
# The packaged prior's captions end in these words; they have none for a view from overhead.
MINI_DIRECTION_WORDS = {
    ViewDirection.FRONT: "front view",
    ViewDirection.SIDE: "side view",
    ViewDirection.BACK: "back view",
}
# Plain "back view" loses against a prompt that mentions a face; this is what users of such systems settle on.
SD_DIRECTION_WORDS = {
    ViewDirection.FRONT: "front view",
    ViewDirection.SIDE: "side view",
    ViewDirection.BACK: "back view of a person from behind",
    ViewDirection.OVERHEAD: "overhead view",
}
SD_BACK_OF_HEAD = "back of the head"
SD_BACK_NEGATIVE = "face, eyes"


@runtime_checkable
class Tokenized(Protocol):
    """The part of a prior that knows how much text it reads."""

    def truncate(self, prompt: str, reserve: str = "") -> tuple[str, str]: ...


def view_direction(azimuth: float, elevation: float, config: PromptConfig) -> ViewDirection:
    """The direction, in words, of a camera at ``azimuth`` (0 front, +pi/2 at the avatar's left hand) and ``elevation``;
    radians, any number of turns."""
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
    """Whether ``<id>`` stays in the prompts of this bucket."""
    return bucket.framing.value in config.identity_framings and bucket.direction.value in config.identity_views


def bucket_prompts(prompt: str, negative_prompt: str, config: PromptConfig) -> dict[Bucket, BucketPrompt]:
    """The prompts of every bucket that the style tells apart (an empty ``negative_prompt``: the config's own).

    ``<id>`` stays where ``config`` lets the identity in; elsewhere it becomes ``a person``.
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
    """``(kept, cut)``: as much of ``prompt`` as the prior reads beside the longest view words, and the rest.

    Without this the packaged prior, whose view words come last, would lose them to a long sentence.
    """
    added = {p.positive for p in bucket_prompts("", "", config).values()}
    # where "a person" takes the place of <id>, it may take more tokens
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
