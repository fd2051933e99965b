"""The word that stands for a person in a prompt. Imports nothing heavy."""

from avatar_gs.prior.config import PLACEHOLDER, WEARING

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
