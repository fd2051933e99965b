"""Settings of the evaluation suites."""

from dataclasses import dataclass
from enum import Enum

from avatar_gs.errors import UserError

MAX_PROMPTS = 500
MAX_PEOPLE = 20


class Suite(Enum):
    """What ``stage=evaluate`` measures: avatars' colours and shapes against drawn truth, their likeness to people of
    whom a few pictures are given, or the prior's 2D samples."""

    colours = "colours"
    identity = "identity"
    prior = "prior"


@dataclass
class EvaluateConfig:
    """How much is measured. The avatars are made with the command's own settings (by default experiment=quick)."""

    prompts: int = 12
    """Held-out prompts of suite=colours. The full grid is 24 prompts with 3 seeds."""
    seeds: int = 1
    """Avatars of each prompt or person: with ``seed``, ``seed + 1``, …"""
    controls: int = 3
    """Prompts that the controls run on (no guidance, a prior of random weights); 0 leaves all controls out."""
    red_blue: int = 2
    """Prompts in red and blue, made once as they are and once with the prior's words red and blue exchanged."""
    people: int = 6
    """People of suite=identity. The full grid is 20 people with 3 seeds."""
    few_people: int = 3
    """Those of them on whom fewer pictures and the ablations are tried; 0 leaves these out."""
    samples: int = 200
    """Held-out prompts of suite=prior."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("prompts", 1, MAX_PROMPTS),
            ("seeds", 1, MAX_PROMPTS),
            ("controls", 0, MAX_PROMPTS),
            ("red_blue", 0, MAX_PROMPTS),
            ("people", 1, MAX_PEOPLE),
            ("few_people", 0, MAX_PEOPLE),
            ("samples", 1, MAX_PROMPTS),
        ):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"evaluate.{name}={getattr(self, name)}: expected a whole number from {low} to {high}")
