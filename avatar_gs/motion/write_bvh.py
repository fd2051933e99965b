"""A motion as a BVH file with Mixamo's names, in centimetres, which Blender and other programs read."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from avatar_gs.body.pose import JOINTS, PARENTS
from avatar_gs.core.io import write_text
from avatar_gs.motion.clip import Motion

_NAMES = {
    "pelvis": "Hips", "spine1": "Spine", "spine2": "Spine1", "spine3": "Spine2", "neck": "Neck", "head": "Head",
    "hip": "UpLeg", "knee": "Leg", "ankle": "Foot", "foot": "ToeBase", "collar": "Shoulder", "shoulder": "Arm",
    "elbow": "ForeArm", "wrist": "Hand", "eye": "Eye", "jaw": "Jaw",
}  # fmt: skip
_END = 5.0
"""Centimetres from a last joint to its end, away from its parent."""


def bvh_name(joint: str) -> str:
    """Mixamo's name of one of SMPL-X's joints."""
    side, _, part = joint.rpartition("_")
    return side.capitalize() + (_NAMES.get(part) or f"Hand{part.capitalize()}")


def write_bvh(path: Path, motion: Motion, rest: Float[np.ndarray, "55 3"]) -> None:
    """Write a file.

    Args:
        path: the file.
        motion: any motion.
        rest: the body's joints in the T-pose, metres.

    Raises:
        OSError: if the file cannot be written.
    """
    children = {joint: [k for k, parent in enumerate(PARENTS) if parent == joint] for joint in range(len(JOINTS))}
    order: list[int] = []
    lines = ["HIERARCHY"]

    def add(joint: int, indent: str) -> None:
        order.append(joint)
        parent = PARENTS[joint]
        offset = 100 * (rest[joint] - (rest[parent] if parent >= 0 else 0 * rest[joint]))
        position = "6 Xposition Yposition Zposition" if parent < 0 else "3"
        lines.append(f"{indent}{'ROOT' if parent < 0 else 'JOINT'} {bvh_name(JOINTS[joint])}")
        lines.extend([f"{indent}{{", f"{indent}\tOFFSET {_numbers(offset)}"])
        lines.append(f"{indent}\tCHANNELS {position} Zrotation Yrotation Xrotation")
        for child in children[joint]:
            add(child, indent + "\t")
        if not children[joint]:
            end = _END * offset / max(1e-6, float(np.linalg.norm(offset)))
            lines.extend(
                [f"{indent}\tEnd Site", f"{indent}\t{{", f"{indent}\t\tOFFSET {_numbers(end)}", f"{indent}\t}}"]
            )
        lines.append(f"{indent}}}")

    add(0, "")
    lines += ["MOTION", f"Frames: {len(motion)}", f"Frame Time: {1 / motion.fps:.8f}"]
    positions = 100 * (rest[0] + motion.translation.astype(np.float64))
    angles = [
        Rotation.from_rotvec(motion.axis_angles[:, joint].astype(np.float64)).as_euler("ZYX", degrees=True)
        for joint in order
    ]
    table = np.concatenate([positions, *angles], 1)
    lines += [_numbers(row) for row in table]
    write_text(path, "\n".join(lines) + "\n")


def _numbers(values: Float[np.ndarray, " n"]) -> str:
    return " ".join(f"{value:.5f}" for value in values)
