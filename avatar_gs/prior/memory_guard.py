"""Out of memory within a run: repeat the work with fewer images per call of the networks."""

import gc
import logging
from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

from avatar_gs.core.device import is_out_of_memory, release_cached_memory
from avatar_gs.core.errors import UserError, first_line

LOGGER = logging.getLogger(__name__)
T = TypeVar("T")


@runtime_checkable
class AdjustablePrior(Protocol):
    """A prior that can compute the same with less memory."""

    def use_less_memory(self, images: int) -> str:
        """Take the next measure for batches of ``images``.

        Returns:
            The overrides that set all measures from the start; "" if none was left.
        """
        ...


class MemoryGuard:
    """Calls functions, and repeats those that run out of memory with fewer images per call of the prior's networks.

    A function must leave everything as it was if it fails, or ``undo`` must restore it.

    Args:
        prior: without ``use_less_memory``, nothing is repeated.
        images: in a batch.
        advice: other ways to need less memory, for the final error.
    """

    def __init__(self, prior: object, images: int, advice: str) -> None:
        self.prior, self.images, self.advice = prior, images, advice

    def __call__(self, work: Callable[[], T], undo: Callable[[], None] | None = None) -> T:
        """The result of ``work``.

        Raises:
            UserError: if it runs out of memory with one image per call.
        """
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not isinstance(self.prior, AdjustablePrior) or not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            # Here the error is gone, and with it the frames that held the graph of the failed call.
            if undo is not None:
                undo()
            gc.collect()
            release_cached_memory()
            overrides = self.prior.use_less_memory(self.images)
            if not overrides:
                raise UserError(
                    f"out of memory with one image per call of the networks ({reason}): {self.advice}; the last "
                    "checkpoint is kept, and the same command resumes from it"
                )
            LOGGER.warning(
                "out of memory (%s): going on with %s, which changes no result and takes longer; these overrides set "
                "it from the start",
                reason,
                overrides,
            )
