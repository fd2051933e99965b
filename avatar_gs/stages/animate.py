"""``stage=animate``: a video of a run's avatar in a motion, and splats of its frames."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from avatar_gs.body.model import Body, load_body
from avatar_gs.core.console import Progress, progress
from avatar_gs.core.device import choose_device
from avatar_gs.core.errors import UserError
from avatar_gs.core.images import to_uint8
from avatar_gs.core.io import atomic_write
from avatar_gs.core.runs import MOTIONS, RunFolder
from avatar_gs.export.ply import write_ply
from avatar_gs.export.video import stream_video
from avatar_gs.export.writer import clean_splats
from avatar_gs.motion.clip import Motion
from avatar_gs.motion.config import AnimateConfig, VideoFormat
from avatar_gs.motion.load import load_motion
from avatar_gs.motion.packaged import PACKAGED
from avatar_gs.motion.write_bvh import write_bvh
from avatar_gs.pages.write import write_pages
from avatar_gs.render.cameras import orbit
from avatar_gs.render.rasterize import rasterize, require_renderer
from avatar_gs.settings import Settings, slug
from avatar_gs.splats.model import GaussianModel
from avatar_gs.stages.export import TURNTABLE_BACKGROUND, shown_avatar
from avatar_gs.types import Cameras, Gaussians

LOGGER = logging.getLogger(__name__)

FOV = 30.0
"""Degrees."""
MARGIN = 1.12
"""Height of the image in heights of what moves in it."""
FOLLOWED = 1.0
"""Metres of travel from which the camera follows the avatar."""
FOLLOW_SECONDS = 0.5
"""Standard deviation of the camera's smoothing in time."""


def run(settings: Settings) -> None:
    """Write ``motions/<motion>.mp4`` (or ``.webm``, or a folder of images) below the run's folder.

    Raises:
        UserError: if there is no such run or motion, or a file cannot be written.
    """
    if not settings.motion:
        raise UserError(f"stage=animate: give motion=<file>, or motion={'|'.join(PACKAGED)}")
    if not RunFolder(settings.folder).holds_avatar():
        raise UserError(f"{settings.folder} holds no avatar to move: make one first, or give its name=…")
    device = choose_device(settings.device)
    require_renderer(device)
    body = load_body(settings.body, device)
    motion = load_motion(settings.motion, body, settings.animate.up)
    with RunFolder.open(settings.folder, settings.plain()) as folder:
        model = shown_avatar(settings, folder, body)
        files = write_motion(folder.path / MOTIONS, model, body, motion, settings)
        write_pages(folder.path, settings.runs)
    LOGGER.info("wrote %s", ", ".join(map(str, files)))


def write_motion(folder: Path, model: GaussianModel, body: Body, motion: Motion, settings: Settings) -> list[Path]:
    """Write the video of a motion, its skeleton (BVH), and the PLY files that are asked for; returns the files."""
    config = settings.animate
    name = slug(motion.name) or "motion"
    played = shortened(motion, config)
    wanted = chosen_frames(config, len(played))
    cameras = following_cameras(played, body, config)
    written: list[Path] = []
    with progress(f"animate {name}", len(played)) as bar:
        images = _images(played, model, body, cameras, config, bar)
        try:
            if config.format is VideoFormat.png:
                written.append(_write_images(folder / name, images))
            else:
                transparent = config.format is VideoFormat.webm
                path = folder / f"{name}.{config.format.value}"
                stream_video(path, images, (config.size, config.size), played.fps, transparent=transparent)
                written.append(path)
            for frame in wanted:
                path = folder / f"{name}-{frame:05d}.ply"
                write_ply(
                    path, clean_splats(posed_splats(played, frame, model, body), settings.export), settings.export.frame
                )
                written.append(path)
            skeleton = folder / f"{name}.bvh"
            write_bvh(skeleton, played, body.shaped()[1].double().cpu().numpy())
            written.append(skeleton)
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be written ({error.strerror or error}): free some space there"
            ) from error
    return written


def shortened(motion: Motion, config: AnimateConfig) -> Motion:
    """The part of a motion that is shown, at the video's frame rate."""
    if config.start >= motion.seconds:
        raise UserError(f"animate.start={config.start:g}: the motion ends after {motion.seconds:.1f} seconds")
    if motion.seconds - config.start > config.seconds:
        LOGGER.warning(
            "the motion lasts %.0f seconds: showing %.0f of them (animate.start, animate.seconds)",
            motion.seconds,
            config.seconds,
        )
    whole = config.start == 0 and motion.seconds <= config.seconds
    return (motion if whole else motion.part(config.start, config.seconds)).resampled(config.fps)


def chosen_frames(config: AnimateConfig, count: int) -> list[int]:
    """The frames whose splats are written.

    Raises:
        UserError: for a frame that is not there.
    """
    if config.ply == "all":
        return list(range(count))
    if config.ply and int(config.ply) >= count:
        raise UserError(f"animate.ply={config.ply}: expected a frame from 0 to {count - 1}")
    return [int(config.ply)] if config.ply else []


@torch.no_grad()
def posed_splats(motion: Motion, frame: int, model: GaussianModel, body: Body) -> Gaussians:
    """The avatar in one frame."""
    return model.pose(body.pose(motion.pose(frame).to(body.template.device))).detach()


@torch.no_grad()
def following_cameras(motion: Motion, body: Body, config: AnimateConfig) -> list[Cameras]:
    """A camera for each frame, which keeps the avatar in view: fixed, unless the avatar leaves its place."""
    low, high = _bounds(motion, body)
    pelvis = motion.translation[:, [0, 2]].astype(np.float64)
    travels = float(np.ptp(pelvis, axis=0).max()) > FOLLOWED
    if travels:
        ground = gaussian_filter1d(pelvis, FOLLOW_SECONDS * motion.fps, axis=0, mode="nearest")
    else:
        ground = np.tile(((low.amin(0) + high.amax(0)) / 2)[[0, 2]].double().numpy(), (len(motion), 1))
    picked = torch.from_numpy(ground[_picked(len(motion))]).float()
    reach = torch.maximum(high[:, [0, 2]] - picked, picked - low[:, [0, 2]]).norm(dim=1).max()
    bottom, top = float(low[:, 1].min()), float(high[:, 1].max())
    span = MARGIN * max(top - bottom, 2 * float(reach))
    azimuth, elevation, fov = torch.deg2rad(torch.tensor([[config.azimuth], [config.elevation], [FOV]]))
    device = body.template.device
    centres = torch.from_numpy(np.insert(ground, 1, (bottom + top) / 2, axis=1)).float()
    return [
        orbit(centre[None], torch.tensor([span]), azimuth, elevation, fov, config.size).to(device) for centre in centres
    ]


def _picked(count: int) -> Int[np.ndarray, " P"]:
    """At most 64 frames, evenly distributed."""
    return np.unique(np.linspace(0, count - 1, min(count, 64)).round().astype(int))


def _bounds(motion: Motion, body: Body) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P 3"]]:
    """The corners of the body's box in the picked frames."""
    boxes = []
    for frame in _picked(len(motion)):
        vertices = body.pose(motion.pose(int(frame)).to(body.template.device)).vertices.cpu()
        boxes.append(torch.stack([vertices.amin(0), vertices.amax(0)]))
    low, high = torch.stack(boxes, 1)
    return low, high


@torch.no_grad()
def _images(
    motion: Motion, model: GaussianModel, body: Body, cameras: list[Cameras], config: AnimateConfig, bar: Progress
) -> Iterator[UInt8[np.ndarray, "S S C"]]:
    """The frames: RGB on grey, or RGBA for formats with transparency."""
    transparent = config.format is not VideoFormat.mp4
    level = 0.0 if transparent else TURNTABLE_BACKGROUND
    background = torch.full((1, 3), level, device=model.device)
    for frame in range(len(motion)):
        render = rasterize(posed_splats(motion, frame, model, body), cameras[frame], background)
        if transparent:
            colour = to_uint8(render.rgb[0] / render.alpha[0].clamp_min(1e-6))
            yield np.concatenate([colour, to_uint8(render.alpha[0])[..., :1]], -1)
        else:
            yield to_uint8(render.rgb[0])
        bar.update(frame + 1)


def _write_images(folder: Path, images: Iterator[UInt8[np.ndarray, "S S 4"]]) -> Path:
    from PIL import Image

    shutil.rmtree(folder, ignore_errors=True)
    for index, image in enumerate(images):
        with atomic_write(folder / f"{index:05d}.png") as temporary:
            Image.fromarray(image).save(temporary, format="PNG")
    return folder
