"""``stage=train_mini``: trains the packaged prior, from scratch or from its weights; the same command resumes."""

import logging

from avatar_gs.core.console import progress_bars
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.train_prior.train import train

log = logging.getLogger(__name__)


def run(settings: LabSettings) -> None:
    """Train in ``mini.folder`` and report where the finished prior is."""
    with progress_bars() as report:
        folder = train(settings.lab.mini, report)
    log.info("the prior is in %s; use it: prior=%s; package it: copy it to avatar_gs/assets/mini", folder, folder)
