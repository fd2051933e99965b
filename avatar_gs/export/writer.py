"""All files of a finished avatar."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from avatar_gs.core.errors import UserError
from avatar_gs.export.clean import clean
from avatar_gs.export.config import ExportConfig
from avatar_gs.export.ply import write_ply
from avatar_gs.export.video import write_turntable
from avatar_gs.types import Gaussians
from avatar_gs.viewer.html import write_html


def export_avatar(
    folder: str | Path,
    gaussians: Gaussians,
    title: str,
    config: ExportConfig,
    frames: UInt8[np.ndarray, "T H W 3"] | None = None,
) -> list[Path]:
    """Writes ``avatar.ply``, ``avatar.html`` and ``turntable.mp4`` into ``folder``; returns what was written.

    Args:
        gaussians: posed splats in the world frame (+y up, facing +z), soles at height 0.
        title: what the page is called, usually the prompt; any text.
        config: which files, and in which frame.
        frames: one turn around the avatar in RGB, or None for no video.

    Raises:
        UserError: if no splat is visible, or a file cannot be written.
    """
    folder = Path(folder)
    gaussians = clean(gaussians, config)
    written = []
    with _writing(folder / "avatar.ply", written) as path:
        write_ply(path, gaussians, config.frame)
    if config.html:
        with _writing(folder / "avatar.html", written) as path:
            write_html(path, gaussians, title)
    if config.video and frames is not None:
        with _writing(folder / "turntable.mp4", written) as path:
            write_turntable(path, frames, config.video_fps)
    return written


@contextmanager
def _writing(path: Path, written: list[Path]) -> Iterator[Path]:
    try:
        yield path
    except OSError as error:
        advice = (
            "free some space" if error.errno == errno.ENOSPC else "run avatar-gs from a folder that you may write to"
        )
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): {advice}, then give stage=export"
        ) from error
    written.append(path)
