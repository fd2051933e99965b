"""Ranges of settings, declared with the setting: ``steps: int = bounded(600, low=1, high=10**6)``.

The range is stored in the field's metadata: one check serves every section, and the documentation can show it.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from avatar_gs.core.errors import UserError


@dataclass(frozen=True)
class Range:
    """Values from ``low`` to ``high``; None: unbounded; ``above``/``below`` exclude the bound itself."""

    low: int | float | None = None
    high: int | float | None = None
    above: bool = False
    below: bool = False
    expected: str = ""
    """Replaces the generated description in errors."""

    def __contains__(self, value: int | float) -> bool:
        if self.low is not None and not (value > self.low if self.above else value >= self.low):
            return False
        if self.high is not None and not (value < self.high if self.below else value <= self.high):
            return False
        return not math.isnan(value)

    def __str__(self) -> str:
        if self.expected:
            return self.expected
        low = "" if self.low is None else f"more than {self.low}" if self.above else f"{self.low}"
        if self.high is None:
            return low if self.above else f"{low} or more"
        if not self.above and not self.below:
            return f"{low} to {self.high}" if low else f"at most {self.high}"
        high = f"less than {self.high}" if self.below else f"at most {self.high}"
        return f"{low}, {high}" if low else high


def bounded(
    default: int | float,
    low: int | float | None = None,
    high: int | float | None = None,
    *,
    above: bool = False,
    below: bool = False,
    expected: str = "",
) -> Any:
    """A dataclass field with a range, checked by ``check_ranges``.

    Args:
        default: the field's default.
        low: the smallest value; None for no lower bound.
        high: the largest value; None for no upper bound.
        above: exclude ``low`` itself.
        below: exclude ``high`` itself.
        expected: description of the range in errors; default: generated from the bounds.
    """
    return field(default=default, metadata={"range": Range(low, high, above, below, expected)})


def check_ranges(config: Any, section: str) -> None:
    """Check every ``bounded`` field of a dataclass instance.

    Args:
        config: the instance.
        section: the dotted name of the section on the command line, such as ``guidance.schedule``.

    Raises:
        UserError: names the override, its value and the range.
    """
    for entry in fields(config):
        allowed, value = entry.metadata.get("range"), getattr(config, entry.name)
        if allowed is not None and value not in allowed:
            name = f"{section}.{entry.name}" if section else entry.name
            raise UserError(f"{name}={value}: expected {allowed}")


def check_interval(
    config: Any,
    section: str,
    name: str,
    low: int | float,
    high: int | float | None = None,
    unit: str = "",
    *,
    above: bool = False,
) -> None:
    """Check a pair of fields ``<name>_min`` and ``<name>_max``: low <= min <= max <= high.

    Args:
        config: the dataclass instance.
        section: the dotted name of the section on the command line.
        name: of the interval.
        low: the smallest value; ``above`` excludes it.
        high: the largest value; None for no upper bound.
        unit: shown in the error.

    Raises:
        UserError: names both overrides, their values and what is expected.
    """
    smallest, largest = getattr(config, f"{name}_min"), getattr(config, f"{name}_max")
    if not (smallest in Range(low, above=above) and smallest <= largest and largest in Range(high=high)):
        limits = f"{low} {'<' if above else '<='} min <= max" + ("" if high is None else f" <= {high}")
        raise UserError(f"{section}.{name}_min/{name}_max={smallest}/{largest}: expected {f'{limits} {unit}'.strip()}")


class Section:
    """Base of a settings dataclass whose fields are checked in ``__post_init__``."""

    section: ClassVar[str] = ""
    """Dotted name on the command line, such as ``guidance.schedule``."""

    def __post_init__(self) -> None:
        check_ranges(self, self.section)
