"""``stage=export``: the files of a finished avatar, which stands in the A-pose with its soles at height 0."""

import logging

import numpy as np
import torch
from jaxtyping import UInt8

from avatar_gs.body.model import Body, load_body
from avatar_gs.body.pose import a_pose
from avatar_gs.core.console import progress
from avatar_gs.core.device import choose_device
from avatar_gs.core.errors import UserError
from avatar_gs.core.runs import RunFolder
from avatar_gs.export.config import ExportConfig
from avatar_gs.export.writer import export_avatar
from avatar_gs.render.cameras import fixed_views
from avatar_gs.render.rasterize import rasterize, require_renderer
from avatar_gs.settings import Settings
from avatar_gs.splats.model import GaussianModel
from avatar_gs.training.state import CHECKPOINT, load_model
from avatar_gs.types import Framing, Gaussians, PosedBody

LOGGER = logging.getLogger(__name__)
TURNTABLE_BACKGROUND = 0.93
"""A light grey, which neither white nor black clothes blend into."""
TURNTABLE_SPAN = 1.25
"""How many times its height the picture spans: room for the foot that comes towards the camera."""


def run(settings: Settings) -> None:
    """Exports the avatar of the run's last checkpoint.

    Raises:
        UserError: if there is no such run, or a file cannot be written.
    """
    checkpoint = RunFolder(settings.folder).checkpoints / CHECKPOINT
    if not checkpoint.exists():
        raise UserError(
            f"{settings.folder} holds no avatar to export: make one first (stage=optimize), or give its name=…"
        )
    with RunFolder.open(settings.folder, settings.plain()) as folder:
        device = choose_device(settings.device.name)
        if settings.export.video:
            require_renderer(device)
        if not folder.finished("optimize"):
            LOGGER.warning("the run is not finished: exporting the avatar of its last checkpoint")
        model = load_model(checkpoint, settings.splats).to(device)
        gaussians, posed = standing(model, load_body(settings.body, device))
        frames = turntable(gaussians, posed, settings.export) if settings.export.video else None
        title = settings.prompt or folder.path.name
        files = export_avatar(folder.path, gaussians, title, settings.export, frames)
        folder.record("export", settings=settings.plain()["export"], files=[path.name for path in files])
        LOGGER.info("wrote %s", ", ".join(str(path) for path in files))


@torch.no_grad()
def standing(model: GaussianModel, body: Body) -> tuple[Gaussians, PosedBody]:
    """The avatar in the A-pose, and the body in it, both moved so that the soles are at height 0."""
    soles = float(body.pose(a_pose()).vertices[:, 1].min())
    pose = a_pose()
    pose.translation[1] = -soles
    posed = body.pose(pose)
    return model.pose(posed), posed


@torch.no_grad()
def turntable(gaussians: Gaussians, posed: PosedBody, config: ExportConfig) -> UInt8[np.ndarray, "T S S 3"]:
    """One turn around the avatar, beginning in front of it."""
    count, size = config.video_frames, config.video_size
    azimuths = [360.0 * frame / count for frame in range(count)]
    views = fixed_views(posed, [Framing.BODY] * count, azimuths, size, span=TURNTABLE_SPAN)
    background = torch.full((1, 3), TURNTABLE_BACKGROUND, device=gaussians.means.device)
    frames = np.empty((count, size, size, 3), np.uint8)
    with progress("turntable", count) as bar:
        for index in range(count):
            rgb = rasterize(gaussians, views.cameras[index], background).rgb[0]
            frames[index] = (rgb.clamp(0, 1) * 255).round().byte().cpu().numpy()
            bar.update(index + 1)
    return frames
