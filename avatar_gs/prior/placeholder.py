"""The word that stands for a person in a prompt. Imports nothing heavy."""

from avatar_gs.prior.config import PLACEHOLDER

SOMEBODY = "a person"
"""What stands there in the views that the identity is kept out of."""
AFTER_A_NAME = ("wearing", "in", "with", "as", "dressed", "who", "has", "wears", "and")
"""Words that go on after a name without a comma."""


def with_placeholder(prompt: str) -> str:
    """A prompt that names ``<id>``: as it is if it does, else with ``<id>`` in front."""
    words = prompt.split()
    if PLACEHOLDER in prompt:
        return prompt
    if not words:
        return PLACEHOLDER
    joint = " " if words[0].lower() in AFTER_A_NAME else ", "
    return f"{PLACEHOLDER}{joint}{prompt.strip()}"
