"""``stage=train_mini``: retrains the packaged prior, from nothing or from its own weights; the same command resumes."""

import logging
from contextlib import ExitStack

from avatar_gs.console import Progress, progress
from avatar_gs.mini.train import train
from avatar_gs.settings import Settings

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Trains into ``mini.folder`` and says where the finished prior is."""
    with ExitStack() as stack:
        bars: dict[str, Progress] = {}

        def report(what: str, done: int, total: int, loss: float) -> None:
            if what not in bars:
                stack.close()  # the bar of the step before ends where this one begins
                bars[what] = stack.enter_context(progress(what, total, start=done))
            figures = {"loss": loss} if loss else {}
            bars[what].update(done, **figures)

        folder = train(settings.mini, report)
    log.info("the prior is in %s; use it: prior=%s; package it: copy it to avatar_gs/prior/mini", folder, folder)
