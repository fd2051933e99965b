"""What suite=judges records, its figures, and the tables of its report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations
from statistics import fmean, median
from typing import Any

import numpy as np

from avatar_gs.lab.judges.figures import CLEAR_FACE, SAME_PERSON, Fraction, distance
from avatar_gs.lab.suites.judged_views import BODIES, HEADS, SIZE, VIEWS_PER_GROUP, Group
from avatar_gs.lab.suites.report import markdown_table
from avatar_gs.lab.suites.suite import Record


class Source(str, Enum):
    """Where images come from; the columns of the report."""

    TRUTH = "lifelike renders"
    SAMPLES = "samples"
    AVATARS = "avatars"
    MINI_SAMPLES = "samples of mini"
    MINI_AVATARS = "avatars of mini"

    @property
    def of_mini(self) -> bool:
        """Whether the packaged ``mini`` makes them for comparison."""
        return self in (Source.MINI_SAMPLES, Source.MINI_AVATARS)

    @property
    def are_avatars(self) -> bool:
        return self in (Source.AVATARS, Source.MINI_AVATARS)

    @property
    def sort(self) -> str:
        """What is made, whichever prior makes it."""
        return "avatars" if self.are_avatars else "renders" if self is Source.TRUTH else "samples"


@dataclass(frozen=True)
class JudgedImage:
    """What the judges found in one image; None where it does not apply.

    Args:
        group: of the view.
        degrees: azimuth, positive at the person's left.
        face: score of the face; None also without a face.
        mesh: whether a face mesh was fitted.
        joints: joints that the landmarks are near to, and all joints in the image.
        hands: hands found.
        silhouette: IoU of the segmented person and the silhouette.
        body: IoU of the segmented person and the undressed body.
        identity: the recogniser's features.
    """

    group: Group
    degrees: float
    face: float | None
    mesh: bool | None
    joints: tuple[int, int] | None
    hands: int | None
    silhouette: float | None
    body: float | None
    identity: list[float] | None


@dataclass(frozen=True)
class JudgesRecord(Record):
    """One subject from one source.

    Args:
        subject: the index; a subject has the same pose and cameras in all sources.
        prompt: empty for renders.
        seconds: to make the images, with the avatar.
    """

    source: Source
    subject: int
    seed: int
    prompt: str
    images: list[JudgedImage]
    seconds: float


def summarise(records: Sequence[JudgesRecord]) -> dict[str, dict[str, Any]]:
    """Rows of figures of each source that has records."""
    present = [source for source in Source if any(record.source is source for record in records)]
    return {source.value: _rows([record for record in records if record.source is source]) for source in present}


def _rows(records: Sequence[JudgesRecord]) -> dict[str, Any]:
    images = [image for record in records for image in record.images]
    by_group = {group: [image for image in images if image.group is group] for group in Group}
    rows: dict[str, Any] = {}
    for group in HEADS:
        scores = [image.face or 0.0 for image in by_group[group]]
        rows[f"face found, {group.value}"] = _fraction(Fraction.of([score >= CLEAR_FACE for score in scores]))
    for group in HEADS:
        scores = [image.face or 0.0 for image in by_group[group]]
        rows[f"face at the detector's default, {group.value}"] = _fraction(Fraction.of([s > 0 for s in scores]))
    for group in HEADS[:2]:
        rows[f"mean score of faces, {group.value}"] = _mean([i.face for i in by_group[group] if i.face is not None])
    for group in HEADS:
        rows[f"face mesh fitted, {group.value}"] = _fraction(Fraction.of([bool(i.mesh) for i in by_group[group]]))
    for group in BODIES:
        counts = np.array([image.joints for image in by_group[group]]).reshape(-1, 2).sum(0)
        rows[f"joints found, {group.value}"] = _fraction(Fraction(int(counts[0]), int(counts[1])))
    rows["hand found"] = _fraction(Fraction.of([bool(image.hands) for image in by_group[Group.HAND]]))
    for name, groups in (("heads", HEADS), ("bodies", BODIES)):
        some = [image.silhouette for group in groups for image in by_group[group]]
        rows[f"silhouette IoU, {name}"] = _mean([value for value in some if value is not None])
    bare = [image.body for group in BODIES for image in by_group[group]]
    rows["IoU with the undressed body, bodies"] = _mean([value for value in bare if value is not None])
    return rows | _identity_rows(records)


def _identity_rows(records: Sequence[JudgesRecord]) -> dict[str, Any]:
    """Distances of one subject's images, and of the first images of different subjects."""
    known = [[np.array(image.identity) for image in record.images if image.identity is not None] for record in records]
    same = [distance(first, second) for some in known for first, second in combinations(some, 2)]
    fronts = [some[0] for some in known if some]
    others = [distance(first, second) for first, second in combinations(fronts, 2)]
    return {
        "one subject: median distance": _median(same),
        f"one subject: distance ≤ {SAME_PERSON}": _fraction(Fraction.of([value <= SAME_PERSON for value in same])),
        "two subjects: median distance": _median(others),
        f"two subjects: distance > {SAME_PERSON}": _fraction(Fraction.of([value > SAME_PERSON for value in others])),
    }


def _fraction(of: Fraction) -> dict[str, Any]:
    return {"value": of.value, "low": of.interval[0], "high": of.interval[1], "n": of.cases}


def _mean(values: Sequence[float]) -> dict[str, Any]:
    return {"value": fmean(values) if values else None, "n": len(values)}


def _median(values: Sequence[float]) -> dict[str, Any]:
    return {"value": median(values) if values else None, "n": len(values)}


def sections(figures: Mapping[str, Any]) -> list[str]:
    """The report's sections."""
    sources = figures["sources"]
    names = list(next(iter(sources.values()))) if sources else []
    rows = [[name, *(_cell(source[name]) for source in sources.values())] for name in names]
    subjects = ", ".join(f"{name}: {len(seconds)}" for name, seconds in figures["seconds"].items() if seconds)
    versions = ", ".join(f"{name} {version}" for name, version in figures["judges"].items())
    text = (
        f"Subjects: {subjects}; {VIEWS_PER_GROUP} images of {SIZE}² pixels of each in every group of views, in the "
        "same poses and from the same cameras in all columns (smaller samples are enlarged). Fractions have 95 % "
        "Wilson intervals and the number of cases; images of one subject are not independent, so true intervals are "
        f"wider. Judges: {versions}."
    )
    notes = (
        f"*Face found*: score ≥ {CLEAR_FACE:g} (at the detector's default of 0.5, hair seen from behind is often taken "
        "for a face). *Joints found*: shoulders to wrists and hips to ankles, hidden ones too, within half the head's "
        "size of the true joints of the body in the pose map. *Hand found*: at least one, in close-ups of a hand. "
        "*Silhouette IoU*: the selfie segmentation and the render's silhouette, which samples do not have. *Distance*: "
        f"of the recogniser's features, at most {SAME_PERSON} for one person according to its authors; images of one "
        "subject from the front and from three quarters (in a column of samples they have the prompt in common but "
        "not the noise), and the first images of different subjects."
    )
    return [text, markdown_table(["", *sources], rows), notes]


def _cell(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return "–"
    interval = f" [{row['low']:.2f}, {row['high']:.2f}]" if "low" in row else ""
    return f"{row['value']:.2f}{interval} ({row['n']})"
