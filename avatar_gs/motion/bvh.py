"""BVH files (Biovision hierarchy): read into world rotations and positions."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from avatar_gs.core.errors import UserError
from avatar_gs.motion.clip import require_few_frames

MAX_BYTES = 256 * 2**20
MAX_JOINTS = 512
_CHANNELS = ("Xposition", "Yposition", "Zposition", "Xrotation", "Yrotation", "Zrotation")


@dataclass
class Bone:
    """A joint of a file."""

    name: str
    parent: int
    """Index of the parent, -1 for the root."""
    offset: Float[np.ndarray, "3"]
    """From the parent, at rest, in the file's unit."""
    channels: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Recording:
    """A file's skeleton, and its motion in world coordinates of the file. J joints (ends included), F frames."""

    bones: list[Bone]
    fps: float
    rotations: list[Rotation]
    """World rotations of each joint, over the frames; relative to the zero pose, in which the axes are the world's."""
    positions: Float[np.ndarray, "F J 3"]
    rest: Float[np.ndarray, "J 3"]
    """Positions in the zero pose, the root at its offset."""


def read_bvh(path: Path) -> Recording:
    """Read a file.

    Raises:
        UserError: if it is too large, damaged, or has more frames than are read.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(f"{path}: {size / 2**20:.0f} MB, at most {MAX_BYTES // 2**20} MB are read")
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    return parse_bvh(text, path)


def parse_bvh(text: str, path: Path) -> Recording:
    """The recording of a file's text (see ``read_bvh``); ``path`` is for messages."""
    lines = iter(text.splitlines())
    bones = _hierarchy(lines, path)
    count = _number(_after(lines, "Frames:", path), path)
    require_few_frames(int(count), path)
    seconds = _number(_after(lines, "Frame Time:", path), path)
    if not 0 < seconds < 10:
        raise UserError(f"{path}: a frame time of {seconds:g} seconds, expected more than 0")
    width = sum(len(bone.channels) for bone in bones)
    rows = [_row(line, width, path) for line in lines if line.strip()]
    if not rows:
        raise UserError(f"{path}: no frames in it")
    if len(rows) < count:
        raise UserError(f"{path}: ends after {len(rows)} of {int(count)} frames; copy or download it again")
    values = np.array(rows[: int(count)])
    if not np.isfinite(values).all():
        raise UserError(
            f"{path}: frame {int((~np.isfinite(values)).any(1).argmax())} holds numbers that are not finite"
        )
    return _posed(bones, 1 / seconds, values)


def _hierarchy(lines: Iterator[str], path: Path) -> list[Bone]:
    bones: list[Bone] = []
    open_bones: list[int] = []
    for line in lines:
        words = line.split()
        if not words or words[0] in ("HIERARCHY", "{"):
            continue
        if words[0] in ("ROOT", "JOINT", "End"):
            if len(bones) >= MAX_JOINTS:
                raise UserError(f"{path}: more than {MAX_JOINTS} joints")
            parent = open_bones[-1] if open_bones else -1
            name = " ".join(words[1:]) if words[0] != "End" else f"{bones[parent].name} end"
            bones.append(Bone(name, parent, np.zeros(3)))
            open_bones.append(len(bones) - 1)
        elif words[0] == "OFFSET" and open_bones and len(words) == 4:
            bones[open_bones[-1]].offset = np.array([_number(word, path) for word in words[1:]])
        elif words[0] == "CHANNELS" and open_bones and len(words) > 1:
            bones[open_bones[-1]].channels = words[2:]
            unknown = [word for word in words[2:] if word not in _CHANNELS]
            if unknown:
                raise UserError(f"{path}: channel {unknown[0]}, expected {', '.join(_CHANNELS)}")
        elif words[0] == "}" and open_bones:
            open_bones.pop()
        elif words[0] == "MOTION" and bones and not open_bones:
            return bones
        else:
            break
    raise UserError(f"{path} is damaged or no BVH file: expected HIERARCHY, joints in braces, and MOTION")


def _after(lines: Iterator[str], label: str, path: Path) -> str:
    line = next((line.strip() for line in lines if line.strip()), "")
    if not line.startswith(label):
        raise UserError(f"{path}: expected '{label}' after MOTION, found '{line[:40]}'")
    return line.removeprefix(label)


def _number(word: str, path: Path) -> float:
    try:
        value = float(word)
    except ValueError:
        raise UserError(f"{path}: expected a number, found '{word.strip()[:40]}'") from None
    if not math.isfinite(value):
        raise UserError(f"{path}: found {value}, expected a finite number")
    return value


def _row(line: str, width: int, path: Path) -> Float[np.ndarray, " width"]:
    words = line.split()
    if len(words) != width:
        raise UserError(f"{path}: a frame of {len(words)} numbers, expected {width} (one for each channel)")
    try:
        return np.array(words, dtype=np.float64)
    except ValueError:
        raise UserError(f"{path}: a frame with something that is no number: '{line[:40]}'") from None


def _posed(bones: list[Bone], fps: float, values: Float[np.ndarray, "F C"]) -> Recording:
    """Forward kinematics of all frames."""
    rotations: list[Rotation] = []
    positions = np.zeros((len(values), len(bones), 3))
    rest = np.zeros((len(bones), 3))
    column = 0
    for index, bone in enumerate(bones):
        own = values[:, column : column + len(bone.channels)]
        column += len(bone.channels)
        turns = [k for k, channel in enumerate(bone.channels) if channel.endswith("rotation")]
        order = "".join(bone.channels[k][0] for k in turns)
        local = Rotation.identity(len(values))
        for k, axis in zip(turns, order, strict=True):
            local = local * Rotation.from_euler(axis.lower(), own[:, k : k + 1], degrees=True)
        moved = np.tile(bone.offset, (len(values), 1))
        for k, channel in enumerate(bone.channels):
            if channel.endswith("position"):
                # The channels of a position replace the offset.
                moved[:, "XYZ".index(channel[0])] = own[:, k]
        if bone.parent < 0:
            rotations.append(local)
            positions[:, index], rest[index] = moved, bone.offset
        else:
            rotations.append(rotations[bone.parent] * local)
            positions[:, index] = positions[:, bone.parent] + rotations[bone.parent].apply(moved)
            rest[index] = rest[bone.parent] + bone.offset
    return Recording(bones, fps, rotations, positions, rest)
