"""When a claim counts as confirmed: the numbers that it rests on have ranges that stand in the code."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import fmean, stdev


class Verdict(str, Enum):
    """What the measured numbers say of a claim."""

    CONFIRMED = "confirmed"
    NOT_CONFIRMED = "not confirmed here"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Condition:
    """One number of each seed, and the range that the claim needs it in (both ends belong to it). Without a range it is
    there for comparison only."""

    text: str
    values: tuple[float, ...]
    low: float | None = None
    high: float | None = None

    @property
    def judged(self) -> bool:
        return self.low is not None or self.high is not None

    def inside(self, value: float) -> bool:
        """Whether one seed's number is in the range; what is not a number never is."""
        above = self.low is None or value >= self.low
        below = self.high is None or value <= self.high
        return value == value and above and below

    def holds(self) -> bool | None:
        """True with every seed in the range, False with none, None with some."""
        hits = [self.inside(value) for value in self.values]
        if all(hits):
            return True
        return None if any(hits) else False

    @property
    def needed(self) -> str:
        """The range in words."""
        bounds = [f"≥ {self.low:g}"] if self.low is not None else []
        bounds += [f"≤ {self.high:g}"] if self.high is not None else []
        return " and ".join(bounds) or "(for comparison)"

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def spread(self) -> float:
        """The standard deviation over the seeds; 0 with one seed."""
        return stdev(self.values) if len(self.values) > 1 else 0.0


def verdict(conditions: Sequence[Condition]) -> Verdict:
    """Confirmed if every judged condition holds with every seed; not confirmed if one of them holds with none.

    Raises:
        ValueError: if nothing is judged.
    """
    answers = [condition.holds() for condition in conditions if condition.judged]
    if not answers:
        raise ValueError("a claim needs a condition with a range")
    if all(answers):
        return Verdict.CONFIRMED
    return Verdict.NOT_CONFIRMED if False in answers else Verdict.UNDECIDED
