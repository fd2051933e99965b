"""SMPL-X and AMASS motions (``.npz``), read without unpickling. Their formats: Mahmood et al., "AMASS", ICCV 2019."""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from avatar_gs.body.pose import JOINTS
from avatar_gs.core.errors import UserError, first_line
from avatar_gs.core.npz import DAMAGED, read_header
from avatar_gs.motion.clip import Motion, checked, require_few_frames
from avatar_gs.motion.config import UpAxis
from avatar_gs.motion.frame import upright

DEFAULT_FPS = 30.0
MAX_NUMBERS = 20_000_000
"""In one array of a file; a larger one is refused before it is read."""

_RATES = ("mocap_frame_rate", "mocap_framerate", "fps", "frame_rate")
_TRANSLATIONS = ("trans", "transl", "translation")
# The parts of a pose and the joints that they turn, by the names of AMASS and of the smplx package.
_PARTS: dict[tuple[str, ...], range] = {
    ("root_orient", "global_orient"): range(1),
    ("pose_body", "body_pose"): range(1, 22),
    ("pose_jaw", "jaw_pose"): range(22, 23),
    ("leye_pose",): range(23, 24),
    ("reye_pose",): range(24, 25),
    ("pose_eye",): range(23, 25),
    ("left_hand_pose",): range(25, 40),
    ("right_hand_pose",): range(40, 55),
    ("pose_hand",): range(25, 55),
}
# Joints of ``poses`` by its number of columns: SMPL-X; SMPL-H, without jaw and eyes; SMPL, whose last two are hands.
_LAYOUTS = {
    165: tuple(range(55)),
    156: (*range(22), *range(25, 55)),
    72: tuple(range(22)),
    66: tuple(range(22)),
    63: tuple(range(1, 22)),
}


def read_npz(path: Path, up: UpAxis = UpAxis.auto) -> Motion:
    """Read a motion in the layout of AMASS (``poses``, ``trans``, ``mocap_frame_rate``) or by the parts of the pose.

    Args:
        path: the file.
        up: the file's vertical axis; AMASS has z, most others y.

    Raises:
        UserError: if the file is damaged, too large, or holds no motion of SMPL, SMPL-H or SMPL-X.
    """
    wanted = {"poses", *_RATES, *_TRANSLATIONS, *(name for names in _PARTS for name in names)}
    arrays = _read_arrays(path, wanted)
    axis_angles = _axis_angles(arrays, path)
    count = len(axis_angles)
    translation = next((arrays[name] for name in _TRANSLATIONS if name in arrays), np.zeros((count, 3)))
    if translation.shape != (count, 3):
        raise UserError(f"{path}: {count} poses, but translations of shape {translation.shape}; expected ({count}, 3)")
    rate = next((arrays[name] for name in _RATES if name in arrays), np.array(DEFAULT_FPS))
    fps = float(rate.flat[0]) if rate.size == 1 else math.nan
    motion = checked(Motion(path.stem, fps, axis_angles, translation.astype(np.float32)), path)
    return upright(motion, up)


def _axis_angles(arrays: Mapping[str, np.ndarray], path: Path) -> Float[np.ndarray, "F 55 3"]:
    if "poses" in arrays:
        poses = _rows(arrays["poses"])
        if poses.shape[1] not in _LAYOUTS:
            sizes = ", ".join(map(str, _LAYOUTS))
            raise UserError(f"{path}: poses of {poses.shape[1]} numbers; expected {sizes} (three for each joint)")
        joints = list(_LAYOUTS[poses.shape[1]])
        parts = {"poses": (joints, poses[:, : 3 * len(joints)])}
    else:
        parts = {
            name: (list(joints), _rows(arrays[name]))
            for names, joints in _PARTS.items()
            for name in names
            if name in arrays
        }
    if not parts:
        raise UserError(f"{path}: no poses in it; expected 'poses', or 'root_orient', 'pose_body', … as AMASS has them")
    count = max(len(values) for _, values in parts.values())
    axis_angles = np.zeros((count, len(JOINTS), 3), np.float32)
    for name, (joints, values) in parts.items():
        if len(values) not in (1, count) or values.shape[1] != 3 * len(joints):
            raise UserError(
                f"{path}: '{name}' has shape {values.shape}, expected ({count}, {3 * len(joints)}): axis-angle vectors"
                " (the components of a hand's PCA are not enough)"
            )
        axis_angles[:, joints] = values.reshape(len(values), len(joints), 3)
    return axis_angles


def _rows(array: np.ndarray) -> Float[np.ndarray, "F C"]:
    """One row for each frame."""
    return array.reshape(len(array), math.prod(array.shape[1:])) if array.ndim else array.reshape(1, 1)


def _read_arrays(path: Path, wanted: set[str]) -> dict[str, np.ndarray]:
    """The wanted arrays as float64; their sizes are checked before any is read."""
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                name = member.removesuffix(".npy")
                if name not in wanted:
                    continue
                with archive.open(member) as stream:
                    shape, dtype = read_header(stream)
                    if dtype.kind not in "fiu":
                        raise UserError(f"{path}: '{name}' is {dtype}, expected numbers (objects are never unpickled)")
                    require_few_frames(shape[0] if shape else 0, path)
                    if math.prod(shape) > MAX_NUMBERS:
                        raise UserError(
                            f"{path}: '{name}' has {math.prod(shape)} numbers, at most {MAX_NUMBERS} are read"
                        )
                with archive.open(member) as stream:
                    array = np.lib.format.read_array(stream, allow_pickle=False)
                arrays[name] = array.astype(np.float64)
    except DAMAGED as error:
        raise UserError(f"{path}: not a whole .npz file ({first_line(error)}); copy or download it again") from error
    return arrays
