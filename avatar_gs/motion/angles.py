"""Motions and poses as tables of joint angles: JSON and CSV.

JSON: ``{"fps": 30, "frames": [{"left_elbow": [0, -1.2, 0], "translation": [0, 0.1, 0]}, …]}``, or one pose
``{"left_elbow": [0, -1.2, 0]}``. CSV: a column for each number, ``left_elbow.x``, ``translation.z``, and ``time``
in seconds, if any. Vectors are axis-angle in radians, by the names of ``body.pose.JOINTS``; what is left out is 0.
"""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from avatar_gs.body.pose import JOINT, JOINTS
from avatar_gs.core.errors import UserError, first_line
from avatar_gs.motion.clip import Motion, checked, require_few_frames
from avatar_gs.motion.npz import DEFAULT_FPS

MAX_BYTES = 128 * 2**20
TRANSLATION = "translation"


def read_angles(path: Path) -> Motion:
    """Read a ``.json`` or ``.csv`` file.

    Raises:
        UserError: if it is too large or damaged, or names an unknown joint.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: {path.stat().st_size / 2**20:.0f} MB, at most {MAX_BYTES // 2**20} MB are read")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text (UTF-8)") from error
    fps, frames = _json_frames(text, path) if path.suffix.lower() == ".json" else _csv_frames(text, path)
    require_few_frames(len(frames), path)
    axis_angles = np.zeros((len(frames), len(JOINTS), 3), np.float32)
    translation = np.zeros((len(frames), 3), np.float32)
    for index, frame in enumerate(frames):
        for name, values in frame.items():
            if name == TRANSLATION:
                translation[index] = values
            else:
                axis_angles[index, JOINT[name]] = values
    return checked(Motion(path.stem, fps, axis_angles, translation), path)


def _json_frames(text: str, path: Path) -> tuple[float, list[Mapping[str, Any]]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f'{path}: expected {{"fps": 30, "frames": [{{"left_elbow": [0, -1.2, 0]}}, …]}}, or one pose')
    frames = content.get("frames", [content])
    fps = content.get("fps", DEFAULT_FPS)
    if not isinstance(frames, list) or not isinstance(fps, int | float):
        raise UserError(f"{path}: expected a list of frames and a number of frames a second")
    for index, frame in enumerate(frames):
        if not isinstance(frame, dict):
            raise UserError(f"{path}: frame {index} is {str(frame)[:40]}, expected joints with three numbers each")
        for name, values in frame.items():
            if name not in JOINT and name != TRANSLATION:
                raise UserError(
                    f"{path}: frame {index} has no joint {name!r}; expected {', '.join(JOINTS)}, translation"
                )
            numbers = isinstance(values, list) and len(values) == 3
            if not (numbers and all(isinstance(value, int | float) for value in values)):
                raise UserError(f"{path}: frame {index}: {name} is {str(values)[:40]}, expected three numbers")
    return float(fps), frames


def _csv_frames(text: str, path: Path) -> tuple[float, list[Mapping[str, Any]]]:
    rows = csv.reader(io.StringIO(text))
    header = [name.strip() for name in next(rows, [])]
    columns: list[tuple[str, int]] = []
    for name in header:
        joint, _, axis = name.rpartition(".")
        if name != "time" and ((joint not in JOINT and joint != TRANSLATION) or axis not in ("x", "y", "z")):
            raise UserError(
                f"{path}: column {name!r}; expected time, translation.x, or a joint with an axis such as left_elbow.y"
                f" (joints: {', '.join(JOINTS)})"
            )
        columns.append((joint, "xyz".find(axis)))
    frames: list[Mapping[str, Any]] = []
    times: list[float] = []
    try:
        for row in filter(None, rows):
            frame: dict[str, list[float]] = {}
            for (joint, axis), cell in zip(columns, row, strict=True):
                if joint:
                    frame.setdefault(joint, [0.0, 0.0, 0.0])[axis] = float(cell)
                else:
                    times.append(float(cell))
            frames.append(frame)
            require_few_frames(len(frames), path)
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"{path}: row {len(frames) + 2}: {first_line(error)}; expected {len(header)} numbers"
        ) from error
    fps = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else DEFAULT_FPS
    return fps, frames
