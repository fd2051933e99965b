"""suite=identity from end to end: avatars of people by a few pictures of each, measured against who they are.

Every record is kept under a hash of all that its result depends on, so the same command goes on where it was
interrupted, and more people or seeds cost only what is new.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avatar_gs.core.images import RGBImage, contact_sheet
from avatar_gs.lab.metrics.likeness import Judges
from avatar_gs.lab.suites.folder import RecordFolder
from avatar_gs.lab.suites.identity.records import METHODS, Kind, Record
from avatar_gs.lab.suites.identity.runs import STRIP_VIEWS, make_records
from avatar_gs.lab.suites.identity.summary import summarise
from avatar_gs.lab.suites.tables import LABEL
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.settings import Settings

CELLS = len(STRIP_VIEWS)
CELL_SIZE = 96


def measure_identity(
    settings: Settings, prior: StableDiffusionPrior, judges: Judges, folder: Path
) -> tuple[dict[str, Any], RGBImage]:
    """The suite's figures and its sheet of pictures; makes the records that ``folder`` does not hold yet."""
    kept = RecordFolder(folder / "avatars", Record.of_plain)
    records = make_records(settings, prior, judges, folder, kept)
    figures = {**summarise(list(records.values())), "avatars": list(records)}
    return figures, _sheet(records, kept, settings.seed)


def _sheet(records: Mapping[str, Record], kept: RecordFolder[Record], seed: int) -> RGBImage:
    """A row for each person in their own clothes, truth beside the avatars of every method, then one for each in the
    new outfit."""
    rows, labels = [], []
    people = sorted({record.person for record in records.values()})

    def key_of(kind: Kind, person: int) -> str:
        wanted = kind, person, seed
        return next(key for key, one in records.items() if (one.kind, one.person, one.seed) == wanted)

    for person in people:
        keys = [key_of(kind, person) for kind in METHODS]
        rows.append([*kept.strip(keys[0])[:CELLS], *(cell for key in keys for cell in kept.strip(key)[CELLS:])])
        labels.append(f"person {person}")
    for person in people:
        key = key_of(Kind.NEW_OUTFIT, person)
        rows.append(kept.strip(key))
        labels.append(f"person {person}: {records[key].prompt}")
    columns = [name for group in ("truth", *(kind.value for kind in METHODS)) for name in (group, *[""] * (CELLS - 1))]
    title = f"suite=identity, seed {seed}: {LABEL}"
    return contact_sheet(rows, row_labels=labels, column_labels=columns, title=title, size=CELL_SIZE)
