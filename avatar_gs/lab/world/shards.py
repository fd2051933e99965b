"""A training set in restartable pieces: files that processes write side by side, each a function of its index alone."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

Config = TypeVar("Config")


def write_missing(
    config: Config, shards: list[Path], write: Callable[[Config, int, Path], None], workers: int | None
) -> Iterator[tuple[int, int]]:
    """Calls ``write(config, index, path)`` for every shard that is not there, in ``workers`` processes (None: one for
    each core); yields (done, total) as it goes."""
    for folder in {path.parent for path in shards}:
        folder.mkdir(parents=True, exist_ok=True)
    missing = [index for index, path in enumerate(shards) if not path.exists()]
    done = len(shards) - len(missing)
    yield done, len(shards)
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for future in as_completed(pool.submit(write, config, index, shards[index]) for index in missing):
            future.result()
            done += 1
            yield done, len(shards)
