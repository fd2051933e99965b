"""``stage=train_prior``: trains the prior of a world; the same command resumes."""

import logging
from pathlib import Path

import torch

from avatar_gs.core.console import progress_bars
from avatar_gs.core.device import choose_device
from avatar_gs.core.paths import PEOPLE_PRIOR
from avatar_gs.lab.people.train import train_people
from avatar_gs.lab.settings import LabSettings, World
from avatar_gs.lab.train_prior.train import train

log = logging.getLogger(__name__)


def run(settings: LabSettings) -> None:
    """Train in ``mini.folder`` or ``people.folder`` and report where the finished prior is."""
    lab = settings.lab
    device = torch.device(choose_device(settings.device))
    with progress_bars() as report:
        if lab.world is World.people:
            folder = train_people(lab.people, report, device, PEOPLE_PRIOR)
        else:
            folder = train(lab.mini, report)
    asset = Path("avatar_gs/assets") / lab.world.value
    log.info("the prior is in %s; use it: prior.path=%s; package it: copy it to %s", folder, folder, asset)
