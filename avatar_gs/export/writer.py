"""Exports a finished avatar: cleaned splats, written in the formats that are asked for (``config.Format``)."""

import errno
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from avatar_gs.core.errors import UserError
from avatar_gs.export.config import ExportConfig, Format
from avatar_gs.export.glb import write_splats_glb
from avatar_gs.export.mesh import Skin, require_mesh, write_mesh
from avatar_gs.export.ply import write_ply
from avatar_gs.export.spz import require_spz, write_spz
from avatar_gs.export.video import encode_video
from avatar_gs.types import Gaussians
from avatar_gs.viewer.html import write_html
from avatar_gs.viewer.rig import Rig

LOGGER = logging.getLogger(__name__)


def require_packages(config: ExportConfig) -> None:
    """Raise UserError for a format whose package is not installed."""
    if Format.spz in config.wanted:
        require_spz()
    if Format.mesh in config.wanted:
        require_mesh()


def export_avatar(
    folder: str | Path,
    gaussians: Gaussians,
    title: str,
    config: ExportConfig,
    frames: UInt8[np.ndarray, "T H W 3"] | None = None,
    *,
    rig: Rig | None = None,
    skin: Skin | None = None,
    about: Sequence[str] = (),
) -> list[Path]:
    """Write the files of an avatar.

    Args:
        folder: created if missing.
        gaussians: posed splats in the world frame (+y up, facing +z), soles at height 0.
        title: of the page, usually the prompt; any text.
        config: which files, and the frame of the PLY file.
        frames: RGB frames of one turn around the avatar; None: no video.
        rig: lets the avatar move in the page and in glTF files; of all the splats.
        skin: the body's surface; None (or no rig): no mesh.
        about: lines about the avatar, shown in the page.

    Returns:
        The files that were written.

    Raises:
        UserError: if no splat is visible, a package is missing, or a file cannot be written.
    """
    require_packages(config)
    written = []

    def write(entry: Format, path: Path) -> None:
        if entry is Format.ply:
            write_ply(path, clean_splats(gaussians, config), config.frame)
        elif entry is Format.html:
            write_page(path, gaussians, title, config, rig, about)
        elif entry is Format.mp4 and frames is not None:
            encode_video(path, frames, config.video_fps)
        elif entry is Format.spz:
            write_spz(path, clean_splats(gaussians, config))
        elif entry is Format.glb:
            write_splats_glb(path, clean_splats(gaussians, config), drawn_rig(rig, gaussians, config))
        elif entry is Format.mesh and skin is not None and rig is not None:
            write_mesh(path, replace(skin, splats=clean_splats(skin.splats, config)), rig, config.texture_size)
        else:
            return
        written.append(path)

    for entry in config.wanted:
        path = Path(folder) / entry.value
        with _writing(path):
            write(entry, path)
    return written


def drawn_rig(rig: Rig | None, gaussians: Gaussians, config: ExportConfig) -> Rig | None:
    """The rig of the splats that ``clean_splats`` keeps."""
    return None if rig is None else replace(rig, weights=rig.weights[drawable(gaussians, config)])


def write_page(
    path: Path,
    gaussians: Gaussians,
    title: str,
    config: ExportConfig,
    rig: Rig | None = None,
    about: Sequence[str] = (),
) -> None:
    """Write the page of the splats that ``clean_splats`` keeps; arguments as of ``export_avatar``.

    Raises:
        UserError: if no splat is visible.
        OSError: if the file cannot be written.
    """
    write_html(path, clean_splats(gaussians, config), title, drawn_rig(rig, gaussians, config), about)


def _finite(gaussians: Gaussians) -> Bool[Tensor, " N"]:
    parts = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities[:, None], gaussians.colors)
    finite = torch.stack([torch.isfinite(part).all(-1) for part in parts]).all(0)
    return finite & (gaussians.quats.norm(dim=-1) > 0)


def drawable(gaussians: Gaussians, config: ExportConfig) -> Bool[Tensor, " N"]:
    """Which splats ``clean_splats`` keeps: those that are finite and visible."""
    # An opacity of exactly 0 has no logit.
    return _finite(gaussians) & (gaussians.opacities >= config.min_opacity) & (gaussians.opacities > 0)


def clean_splats(gaussians: Gaussians, config: ExportConfig) -> Gaussians:
    """Make splats that every viewer can render.

    Splats that are invisible or not finite are removed (the latter with a warning), scales and colours clamped,
    quaternions normalised. The order stays.

    Raises:
        UserError: if no splat remains.
    """
    gaussians = gaussians.detach()
    finite = _finite(gaussians)
    keep = drawable(gaussians, config)
    if not finite.all():
        LOGGER.warning("%d of %d splats are not finite and are left out", int((~finite).sum()), len(gaussians))
    if not keep.any():
        raise UserError(
            f"none of the {len(gaussians)} splats has finite values and an opacity of at least "
            f"export.min_opacity={config.min_opacity}: train longer, or lower export.min_opacity"
        )
    return Gaussians(
        means=gaussians.means[keep],
        quats=torch.nn.functional.normalize(gaussians.quats[keep], dim=-1),
        scales=gaussians.scales[keep].clamp(config.min_scale, config.max_scale),
        opacities=gaussians.opacities[keep].clamp(max=1.0),
        colors=gaussians.colors[keep].clamp(0.0, 1.0),
    )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = (
            "free some space" if error.errno == errno.ENOSPC else "run avatar-gs from a folder that you may write to"
        )
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): {advice}, then give stage=export"
        ) from error
