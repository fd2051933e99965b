"""Settings of the evaluation suites."""

from dataclasses import dataclass
from enum import Enum

from avatar_gs.errors import UserError

MAX_PROMPTS = 500


class Suite(Enum):
    """What ``stage=evaluate`` measures: avatars' colours and shapes against drawn truth, or the prior's 2D samples."""

    colours = "colours"
    prior = "prior"


@dataclass
class EvaluateConfig:
    """How much is measured. The avatars are made with the command's own settings (by default experiment=quick)."""

    prompts: int = 12
    """Held-out prompts of suite=colours. The full grid is 24 prompts with 3 seeds."""
    seeds: int = 1
    """Avatars of each prompt: with ``seed``, ``seed + 1``, …"""
    controls: int = 3
    """Prompts that the controls run on (no guidance, a prior of random weights); 0 leaves all controls out."""
    red_blue: int = 2
    """Prompts in red and blue, made once as they are and once with the prior's words red and blue exchanged."""
    samples: int = 200
    """Held-out prompts of suite=prior."""

    def __post_init__(self) -> None:
        for name, low in (("prompts", 1), ("seeds", 1), ("controls", 0), ("red_blue", 0), ("samples", 1)):
            if not low <= getattr(self, name) <= MAX_PROMPTS:
                raise UserError(
                    f"evaluate.{name}={getattr(self, name)}: expected a whole number from {low} to {MAX_PROMPTS}"
                )
