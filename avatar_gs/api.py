"""The Python API: ``avatar_gs.make`` and ``avatar_gs.load``. The same code as the command, without its parsing."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from avatar_gs.body.model import Body, load_body
from avatar_gs.body.pose import JOINT, Pose, a_pose
from avatar_gs.cli.compose import saved_settings
from avatar_gs.cli.overrides import as_overrides, settings_of
from avatar_gs.core.console import start_logging
from avatar_gs.core.device import choose_device, pin_threads
from avatar_gs.core.errors import UserError, require
from avatar_gs.core.images import to_uint8
from avatar_gs.core.runs import RunFolder
from avatar_gs.export.config import ExportConfig
from avatar_gs.export.glb import write_splats_glb
from avatar_gs.export.mesh import write_mesh
from avatar_gs.export.ply import write_ply
from avatar_gs.export.spz import write_spz
from avatar_gs.export.video import encode_video
from avatar_gs.export.writer import clean_splats, drawn_rig, write_page
from avatar_gs.render.cameras import fixed_views
from avatar_gs.render.rasterize import rasterize
from avatar_gs.settings import Settings
from avatar_gs.splats.model import GaussianModel
from avatar_gs.stages.export import (
    TURNTABLE_BACKGROUND,
    TURNTABLE_SPAN,
    avatar_rig,
    avatar_skin,
    shown_avatar,
    standing,
    standing_pose,
    turntable,
)
from avatar_gs.stages.init_run import run_folder
from avatar_gs.stages.make import make_avatar
from avatar_gs.training.loop import OnStep
from avatar_gs.types import Cameras, Framing, PosedBody
from avatar_gs.viewer.rig import Rig

FORMATS = (".ply", ".html", ".mp4", ".spz", ".glb")


def make(
    prompt: str = "",
    *,
    photos: str | Path = "",
    seed: int | None = None,
    on_step: OnStep | None = None,
    overrides: Mapping[str, object] | Sequence[str] = (),
    **settings: object,
) -> "Avatar":
    """Make an avatar, or resume the run that makes it. Writes the same files below ``outputs/`` as the command.

    Args:
        prompt: what the avatar looks like; ``<id>`` is the person of ``photos``.
        photos: a folder, file or glob of photos of one person.
        seed: of all random numbers; default 0.
        on_step: called after every optimisation step with the state (``state.step``, ``state.model``) and its report.
        overrides: any other settings, as a mapping ``{"optimize.steps": 50}`` or as the command line has them
            ``["experiment=quick"]``.
        **settings: settings and presets with a plain name: ``name="anna"``, ``prior="sd15"``, ``guidance="pds"``,
            ``init="outputs/anna"``, ``device="cpu"``.

    Returns:
        The avatar in its A-pose.

    Raises:
        UserError: for a mistake in the settings or a missing file, in one line (``avatar_gs.UserError``).
        KeyboardInterrupt: after Ctrl-C, once the checkpoint is written. The same call resumes.

    Example:
        >>> avatar = avatar_gs.make("a man in a red shirt", name="tom", overrides={"optimize.steps": 200})
        >>> avatar.save("tom.ply")
    """
    given = {"prompt": prompt, "photos": str(photos), "seed": seed, **settings}
    given = {name: value for name, value in given.items() if value not in ("", None)}
    more = as_overrides(overrides) if isinstance(overrides, Mapping) else list(overrides)
    run = settings_of([*as_overrides(given), *more])
    pin_threads(run.threads)
    start_logging()
    return Avatar(*make_avatar(run, on_step=on_step), run.prompt, run.export)


def load(run: str | Path, *, device: str = "auto") -> "Avatar":
    """The avatar of a run's last checkpoint.

    Args:
        run: the run's folder, or its name below ``outputs/``.
        device: ``auto``, ``cpu``, ``cuda`` or one of several GPUs as ``cuda:1``.

    Raises:
        UserError: if the folder holds no avatar, the avatar's body is missing, or there is no such device.

    Example:
        >>> avatar_gs.load("outputs/tom").pose(left_elbow=(0, -1.2, 0)).save("tom.html")
    """
    Settings(device=device)  # checks it
    folder = RunFolder(run_folder(str(run)))
    if not folder.holds_avatar():
        raise UserError(f"{run} holds no avatar: expected the folder of a run, such as outputs/anna, or its name")
    settings = saved_settings(folder.path)
    body = load_body(settings.body, choose_device(device))
    return Avatar(shown_avatar(settings, folder, body), body, settings.prompt or folder.path.name, settings.export)


@dataclass(frozen=True)
class Avatar:
    """An avatar in one pose, standing on the ground. Notebooks show it from the front.

    Args:
        model: the splats, bound to the body.
        body: on the same device.
        title: of its web page.
        export: the coordinate frame of PLY files, and size and length of videos.
        current_pose: the A-pose by default.
    """

    model: GaussianModel
    body: Body
    title: str = ""
    export: ExportConfig = field(default_factory=ExportConfig)
    current_pose: Pose = field(default_factory=a_pose)

    def pose(self, pose: Pose | None = None, **rotations: tuple[int | float, int | float, int | float]) -> "Avatar":
        """The same avatar in another pose.

        Args:
            pose: all joints; default: the current pose.
            **rotations: axis-angle vectors in radians by joint (``body.pose.JOINTS``), relative to the joint's parent;
                replace those of ``pose``.

        Raises:
            UserError: for an unknown joint, or a rotation that is not three finite angles.

        Example:
            >>> avatar.pose(right_shoulder=(0, 0, -1.2), right_elbow=(0, 1.0, 0))
        """
        pose = pose or self.current_pose
        axis_angles = pose.axis_angles.clone()
        for name, rotation in rotations.items():
            if name not in JOINT:
                raise UserError(f"pose: there is no joint {name}; expected one of {', '.join(JOINT)}")
            vector = torch.as_tensor(rotation, dtype=axis_angles.dtype)
            right = vector.shape == (3,) and bool(vector.isfinite().all())
            require(right, f"pose: {name}", rotation, "three finite angles in radians")
            axis_angles[JOINT[name]] = vector
        return replace(self, current_pose=replace(pose, axis_angles=axis_angles))

    def camera(self, azimuth: float = 0.0, elevation: float = 5.0, framing: str = "body", size: int = 512) -> Cameras:
        """A camera that looks at the avatar.

        Args:
            azimuth: degrees around the avatar; 0 in front, 90 at its left hand.
            elevation: degrees above the horizon, -89 to 89.
            framing: ``body``, ``head``, ``upper`` or ``lower``.
            size: side of the square image in pixels, 16 to 8192.

        Raises:
            UserError: for an unknown framing, or a value out of range.
        """
        framings = [part.value for part in Framing]
        require(framing in framings, "framing", framing, f"one of {', '.join(framings)}")
        require(-89 <= elevation <= 89, "elevation", elevation, "-89 to 89 degrees")
        require(16 <= size <= 8192, "size", size, "16 to 8192 pixels")
        _, posed = standing(self.model, self.body, self.current_pose)
        part = Framing(framing)
        return fixed_views(posed, [part], [azimuth], size, elevation_deg=elevation, span=TURNTABLE_SPAN).cameras

    @torch.no_grad()
    def render(
        self, camera: Cameras | None = None, background: float = TURNTABLE_BACKGROUND
    ) -> UInt8[np.ndarray, "H W 3"]:
        """An image of the avatar.

        Args:
            camera: one camera; default: ``self.camera()``, from the front.
            background: grey level, 0 to 1.

        Raises:
            UserError: for a background out of range.
        """
        require(0 <= background <= 1, "background", background, "a grey level, 0 to 1")
        gaussians, _ = standing(self.model, self.body, self.current_pose)
        device = gaussians.means.device
        camera = (camera or self.camera()).to(device)
        return to_uint8(rasterize(gaussians, camera, torch.full((1, 3), background, device=device)).rgb[0])

    def save(self, path: str | Path) -> Path:
        """Write the avatar in its current pose.

        Args:
            path: ``.ply`` (splats for any viewer), ``.html`` (a page that shows the avatar), ``.mp4`` (a turntable),
                ``.spz`` (splats in few bytes) or ``.glb`` (splats as glTF; a rigged mesh if the name ends in
                ``mesh.glb``).

        Returns:
            The path.

        Raises:
            UserError: for another suffix, a package that is missing, or if no splat is visible.
            OSError: if the file cannot be written.
        """
        path = Path(path)
        if path.suffix not in FORMATS:
            raise UserError(f"save: {path.name} has none of the suffixes {', '.join(FORMATS)}")
        path.parent.mkdir(parents=True, exist_ok=True)
        gaussians, posed = standing(self.model, self.body, self.current_pose)
        if path.suffix == ".mp4":
            encode_video(path, turntable(gaussians, posed, self.export), self.export.video_fps)
        elif path.suffix == ".html":
            write_page(path, gaussians, self.title, self.export, self._rig(posed))
        elif path.suffix == ".spz":
            write_spz(path, clean_splats(gaussians, self.export))
        elif path.name.endswith("mesh.glb"):
            skin = avatar_skin(self.model, self.body, posed)
            cleaned = replace(skin, splats=clean_splats(skin.splats, self.export))
            write_mesh(path, cleaned, self._rig(posed), self.export.texture_size)
        elif path.suffix == ".glb":
            rig = drawn_rig(self._rig(posed), gaussians, self.export)
            write_splats_glb(path, clean_splats(gaussians, self.export), rig)
        else:
            write_ply(path, clean_splats(gaussians, self.export), self.export.frame)
        return path

    def _rig(self, posed: PosedBody) -> Rig:
        return avatar_rig(self.model, self.body, posed, standing_pose(self.body, self.current_pose))

    def _repr_png_(self) -> bytes:
        """The front view, which notebooks show."""
        png = io.BytesIO()
        Image.fromarray(self.render()).save(png, format="PNG")
        return png.getvalue()
