"""``stage=export``: the files of a finished avatar, in the A-pose (or ``pose=…``) with its soles at height 0."""

import hashlib
import logging
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import UInt8

from avatar_gs.body.model import Body, load_body
from avatar_gs.body.pose import JOINTS, Pose, a_pose
from avatar_gs.core.console import progress
from avatar_gs.core.device import choose_device
from avatar_gs.core.errors import UserError
from avatar_gs.core.images import to_uint8
from avatar_gs.core.runs import RunFolder
from avatar_gs.export.antialias import widened
from avatar_gs.export.config import ExportConfig, Format
from avatar_gs.export.mesh import Skin
from avatar_gs.export.writer import export_avatar, require_packages
from avatar_gs.geometry import axis_angle_to_matrix, matrix_to_quat
from avatar_gs.motion.clip import Motion
from avatar_gs.motion.load import load_pose
from avatar_gs.motion.packaged import PACKAGED
from avatar_gs.pages.command import command_line
from avatar_gs.pages.write import write_pages
from avatar_gs.render.cameras import fixed_views
from avatar_gs.render.rasterize import rasterize, require_renderer
from avatar_gs.settings import Settings
from avatar_gs.splats.binding import BoundModel
from avatar_gs.splats.model import GaussianModel
from avatar_gs.training.config import PoseMode
from avatar_gs.training.state import load_avatar
from avatar_gs.types import Framing, Gaussians, PosedBody
from avatar_gs.viewer.rig import Clip, Rig

LOGGER = logging.getLogger(__name__)
CLIP_FPS = 15
"""Frames a second of slow motions in the page, which interpolates."""
TURNTABLE_BACKGROUND = 0.93
"""Light grey, in which both white and black clothes stand out."""
TURNTABLE_SPAN = 1.25
"""Height of the image in heights of the avatar, with room for the foot that turns towards the camera."""


def run(settings: Settings) -> None:
    """Export the avatar of the run's last checkpoint.

    Raises:
        UserError: if there is no such run, or a file cannot be written.
    """
    if not RunFolder(settings.folder).holds_avatar():
        raise UserError(
            f"{settings.folder} holds no avatar to export: make one first (stage=optimize), or give its name=…"
        )
    require_packages(settings.export)
    with RunFolder.open(settings.folder, settings.plain()) as folder:
        device = choose_device(settings.device)
        require_renderer(device)  # the run's page shows an image of the avatar
        if not folder.has_optimized(settings.optimize.steps):
            LOGGER.warning("the run is not finished: exporting the avatar of its last checkpoint")
        body = load_body(settings.body, device)
        write_files(settings, shown_avatar(settings, folder, body), body, folder)


@torch.no_grad()
def shown_avatar(settings: Settings, folder: RunFolder, body: Body) -> GaussianModel:
    """The avatar of the run's last checkpoint as files and images show it, on the body's device.

    Raises:
        UserError: if the checkpoint is damaged.
    """
    model, size = load_avatar(folder.avatar_checkpoint, settings.splats)
    model = model.to(body.template.device)
    model = widened(model, body, settings.cameras, size) if settings.export.widen and size else model
    if settings.optimize.poses is not PoseMode.fixed:
        return model  # its weights have been tried in all poses
    return BoundModel(model, body.rest(), body.pose(a_pose()), body.weights)


def write_files(settings: Settings, model: GaussianModel, body: Body, folder: RunFolder) -> None:
    """Write the files of an avatar to its run's folder, and record them.

    Raises:
        UserError: if no splat is visible, or a file cannot be written.
    """
    pose = load_pose(settings.pose, body).to(model.device) if settings.pose else None
    gaussians, posed = standing(model, body, pose)
    wanted = settings.export.wanted
    frames = turntable(gaussians, posed, settings.export) if Format.mp4 in wanted else None
    title = settings.prompt or folder.path.name
    moves = {Format.html, Format.glb, Format.mesh} & set(wanted)
    rig = avatar_rig(model, body, posed, standing_pose(body, pose)) if moves else None
    files = export_avatar(
        folder.path,
        gaussians,
        title,
        settings.export,
        frames,
        rig=rig,
        skin=avatar_skin(model, body, posed) if Format.mesh in wanted else None,
        about=about(settings),
    )
    digests = folder.metrics().get("export", {}).get("sha256", {})  # of a file that is not written this time, too
    for path in files:
        if path.name == Format.ply.value:
            with path.open("rb") as content:
                digests[path.name] = hashlib.file_digest(content, "sha256").hexdigest()
    folder.record(
        "export",
        settings=settings.plain()["export"],
        pose=settings.pose,
        files=[path.name for path in files],
        sha256=digests,
    )
    LOGGER.info("wrote %s", ", ".join(str(path) for path in files))
    if frames is None:
        frames = turntable(gaussians, posed, replace(settings.export, video_fps=1, video_seconds=1.0))
    write_pages(folder.path, settings.runs, frames, settings.export.video_seconds)


@torch.no_grad()
def standing(model: GaussianModel, body: Body, pose: Pose | None = None) -> tuple[Gaussians, PosedBody]:
    """The avatar and its body in a pose (default: the A-pose), moved so that the lowest point is at height 0."""
    posed = body.pose(standing_pose(body, pose))
    return model.pose(posed), posed


@torch.no_grad()
def standing_pose(body: Body, pose: Pose | None = None) -> Pose:
    """A pose (default: the A-pose), moved so that the body's lowest point is at height 0."""
    pose = (pose or a_pose()).to(body.template.device)
    lowest = float(body.pose(pose).vertices[:, 1].min())
    return replace(pose, translation=pose.translation - pose.translation.new_tensor([0.0, lowest, 0.0]))


@torch.no_grad()
def avatar_rig(model: GaussianModel, body: Body, posed: PosedBody, pose: Pose) -> Rig:
    """What the page needs to move splats that are in ``pose``, with the packaged motions."""
    _, joints = body.shaped()
    return Rig(
        names=JOINTS,
        parents=body.parents_list,
        joints=joints.double().cpu().numpy(),
        weights=model.params["skinning"].detach(),
        T_posed_rest=posed.T_posed_rest,
        quats=matrix_to_quat(axis_angle_to_matrix(pose.axis_angles.double().cpu())).numpy(),
        translation=pose.translation.double().cpu().numpy(),
        clips=[_clip(make(body)) for make in PACKAGED.values()],
    )


def avatar_skin(model: GaussianModel, body: Body, posed: PosedBody) -> Skin:
    """What the mesh of a posed avatar is made of."""
    return Skin(body.rest().vertices, posed.vertices, body.faces, body.weights, model.rest().detach())


def _clip(motion: Motion) -> Clip:
    if motion.seconds > 2:
        motion = motion.resampled(CLIP_FPS)
    quats = matrix_to_quat(axis_angle_to_matrix(torch.from_numpy(motion.axis_angles).double()))
    return Clip(motion.name, motion.fps, quats.numpy(), motion.translation.astype(np.float64), motion.loops)


def about(settings: Settings) -> list[str]:
    """Lines about the avatar, and the command that makes it again."""
    return [
        f"Prompt: {settings.prompt}",
        f"Seed {settings.seed}, {settings.optimize.steps} steps, prior {settings.prior.name}",
        f"Settings: {settings.folder}/config.yaml",
        command_line(settings.plain()),
    ]


@torch.no_grad()
def turntable(gaussians: Gaussians, posed: PosedBody, config: ExportConfig) -> UInt8[np.ndarray, "T S S 3"]:
    """Frames of one turn around the avatar, from the front."""
    count, size = config.video_frames, config.video_size
    azimuths = [360.0 * frame / count for frame in range(count)]
    views = fixed_views(posed, [Framing.BODY] * count, azimuths, size, span=TURNTABLE_SPAN)
    background = torch.full((1, 3), TURNTABLE_BACKGROUND, device=gaussians.means.device)
    frames = np.empty((count, size, size, 3), np.uint8)
    with progress("turntable", count) as bar:
        for index in range(count):
            frames[index] = to_uint8(rasterize(gaussians, views.cameras[index], background).rgb[0])
            bar.update(index + 1)
    return frames
