"""Out of memory in mid-run: the same work again, with fewer images per call of the networks."""

import gc
import logging
from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

from avatar_gs.core.device import is_out_of_memory, release_cached_memory
from avatar_gs.core.errors import UserError

LOGGER = logging.getLogger(__name__)
T = TypeVar("T")


@runtime_checkable
class Sparing(Protocol):
    """A prior that can do the same with less memory."""

    def use_less_memory(self, images: int) -> str:
        """Takes the next measure; returns the overrides that set all of them from the start, "" if none is left.

        Args:
            images: in a batch.
        """
        ...


class MemoryGuard:
    """Calls functions; one that runs out of memory is called again with fewer images per call of the prior's networks.

    A function must leave everything as it was if it fails, or ``undo`` must restore it. A prior that is not ``Sparing``
    gets no second try.
    """

    def __init__(self, prior: object, images: int, advice: str) -> None:
        """``images``: in a batch. ``advice``: what else would need less memory, for the last error."""
        self.prior, self.images, self.advice = prior, images, advice

    def __call__(self, work: Callable[[], T], undo: Callable[[], None] | None = None) -> T:
        """The result of ``work``.

        Raises:
            UserError: if it runs out of memory with one image per call, too.
        """
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not isinstance(self.prior, Sparing) or not is_out_of_memory(error):
                    raise
                reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            # The error is gone by here, and with it the frames that held the graph of the failed call.
            if undo is not None:
                undo()
            gc.collect()
            release_cached_memory()
            overrides = self.prior.use_less_memory(self.images)
            if not overrides:
                raise UserError(
                    f"out of memory with one image per call of the networks ({reason}): {self.advice}; the last "
                    "checkpoint is kept, and the same command goes on from it"
                )
            LOGGER.warning(
                "out of memory (%s): going on with %s, which changes no result and takes longer; these overrides set "
                "it from the start",
                reason,
                overrides,
            )
