"""``stage=train_scorer``: trains the scorer, the face detector and the judge of views; the same command resumes."""

import logging

from avatar_gs.core.console import progress_bars
from avatar_gs.lab.scorer.run import train_and_measure
from avatar_gs.lab.settings import LabSettings

log = logging.getLogger(__name__)


def run(settings: LabSettings) -> None:
    """Train in ``scorer.folder``, print the accuracies, and report where the weights are."""
    with progress_bars() as report:
        folder, figures = train_and_measure(settings.lab.scorer, report)
    print((folder / "measured.md").read_text(encoding="utf-8"))
    log.info(
        "the scorer is in %s (caption of 100: %.2f, person of 20 from the back: %.2f, faces from the front: %.2f); "
        "package it: copy it to avatar_gs/lab/scorer/weights",
        folder,
        figures["caption of 100"],
        figures["person of 20, back"],
        figures["face seen, front"],
    )
