"""Values of a run's steps, few enough to be stored with it and drawn on its page."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

POINTS = 200
"""About this many steps of a run are kept."""
DIGITS = 5
"""Significant digits that are kept."""


def steps_between(steps: int) -> int:
    """Distance of the kept steps, in a run of ``steps``."""
    return max(1, math.ceil(steps / POINTS))


@dataclass
class Curves:
    """Scalars of some steps, by name. They stay on the device until ``settle``, which synchronises with it once."""

    steps: list[int] = field(default_factory=list)
    values: dict[str, list[float | None]] = field(default_factory=dict)
    """Of each name one value a step; None where a step has none, or one that is not finite."""
    pending: list[tuple[int, dict[str, Float[Tensor, ""]]]] = field(default_factory=list)

    def add(self, step: int, scalars: Mapping[str, Float[Tensor, ""] | float]) -> None:
        """Keep the scalars of a step."""
        kept = {
            name: value.detach() if isinstance(value, Tensor) else torch.tensor(value)
            for name, value in scalars.items()
        }
        self.pending.append((step, kept))

    def settle(self) -> None:
        """Read what is still on the device."""
        for step, scalars in self.pending:
            names = list(scalars)
            numbers = torch.stack([scalars[name].double().cpu() for name in names]).tolist() if names else []
            for name in set(names) - self.values.keys():
                self.values[name] = [None] * len(self.steps)
            found = dict(zip(names, numbers, strict=True))
            for name, series in self.values.items():
                value = found.get(name, math.nan)
                series.append(float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None)
            self.steps.append(step)
        self.pending.clear()

    def plain(self) -> dict[str, Any]:
        """As lists of numbers, for files."""
        self.settle()
        return {"steps": list(self.steps), "values": {name: list(self.values[name]) for name in sorted(self.values)}}

    @classmethod
    def from_plain(cls, stored: Mapping[str, Any]) -> "Curves":
        """What ``plain`` gave; no steps for an empty mapping."""
        return cls(list(stored.get("steps", [])), {name: list(v) for name, v in stored.get("values", {}).items()})
