"""Writes the page of a run and the gallery of all runs, after an export."""

import logging
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from avatar_gs.core.errors import UserError
from avatar_gs.core.runs import PAGE
from avatar_gs.pages.gallery import gallery
from avatar_gs.pages.html import write_page
from avatar_gs.pages.images import write_turntable
from avatar_gs.pages.run import find_runs, read_run
from avatar_gs.pages.run_page import run_page

LOGGER = logging.getLogger(__name__)
TRIES = 5
"""Times that the gallery is written again because a run changed meanwhile."""


def write_pages(
    folder: Path, runs: Path, frames: UInt8[np.ndarray, "T S S 3"] | None = None, seconds: float = 4.0
) -> None:
    """Write ``index.html`` of a run and of the folder of all runs, from what is on disk.

    A file of the same name that is not this program's stays, with a warning.

    Args:
        folder: of the run.
        runs: the folder of all runs.
        frames: of one turn around the avatar, for the images of the pages; None: those that are there stay.
        seconds: of the turn.

    Raises:
        UserError: if a file cannot be written.
    """
    try:
        if frames is not None:
            write_turntable(folder, frames, seconds)
        run = read_run(folder)
        if run is not None:
            _write(folder / PAGE, run_page(run, runs))
        write_gallery(runs)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: the run's page cannot be written ({error.strerror or error}): free some "
            "space or run avatar-gs from a folder that you may write to, then give stage=export"
        ) from error


def write_gallery(runs: Path) -> None:
    """Write the gallery of the runs in a folder.

    Several processes may end at once. Each looks again after it has written: so the last one to write has seen what all
    others had recorded before.

    Raises:
        OSError: if the page cannot be written.
    """
    seen = find_runs(runs)
    for _ in range(TRIES):
        if not _write(runs / PAGE, gallery(seen, runs)):
            return
        now = find_runs(runs)
        if now == seen:
            return
        seen = now


def _write(path: Path, content: str) -> bool:
    written = write_page(path, content)
    if not written:
        LOGGER.warning("%s is not a page of this program and stays as it is", path)
    return written
