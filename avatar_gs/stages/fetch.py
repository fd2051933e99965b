"""``stage=fetch``: downloads a prior, so that later runs need no network."""

import logging

from avatar_gs.core.errors import UserError
from avatar_gs.prior.loading.hub import fetch
from avatar_gs.settings import Settings

LOGGER = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Download the files of ``settings.prior`` from the hub; the same command resumes an interrupted download.

    Raises:
        UserError: if there is nothing to fetch, or it cannot be fetched.
    """
    prior = settings.prior
    if not prior.path:
        raise UserError("prior=mini is packaged: nothing to fetch; give prior=sd15, sd21, sdxl or prior=<hub name>")
    count = fetch(prior)
    LOGGER.info("%s: %s", prior.name, f"{count} files fetched" if count else "everything is here already")
