"""Parts of an avatar with the colours that they should have, and fractions over views."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from avatar_gs.lab.metrics.avatar import Measurement
from avatar_gs.lab.metrics.colours import PartView
from avatar_gs.lab.suites.report import mean_of

REPORTED = ("hair", "shirt", "bottoms", "shoes", "hat")


@dataclass(frozen=True)
class ExpectedPart:
    """A part of one avatar with the name of the colour that it should have."""

    part: str
    name: str
    views: list[PartView]

    def hits(self) -> list[bool]:
        """For each view, whether the colour is right."""
        return [view.right(self.name) for view in self.views]


def expected_parts(
    measurement: Measurement, asked: dict[str, str], parts: Iterable[str] = REPORTED
) -> list[ExpectedPart]:
    """The parts of an avatar that are visible and have a requested colour.

    Args:
        asked: the requested colour names by part.
        parts: the parts to consider.
    """
    return [
        ExpectedPart(part, asked[part], measurement.parts[part])
        for part in parts
        if part in asked and measurement.parts.get(part)
    ]


def right_fraction(items: Sequence[ExpectedPart]) -> float | None:
    """The fraction of (part, view) with the right colour; None without any."""
    return mean_of(hit for item in items for hit in item.hits())


def pixel_fraction(items: Sequence[ExpectedPart]) -> float | None:
    """The fraction of a part's pixels with the right colour, averaged over parts and views; None without any."""
    return mean_of(view.fraction(item.name) for item in items for view in item.views)
