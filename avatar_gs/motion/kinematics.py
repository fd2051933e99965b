"""Forward kinematics of all frames of a motion at once."""

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from avatar_gs.body.pose import JOINTS, PARENTS
from avatar_gs.motion.clip import Motion


def joint_transforms(
    motion: Motion, rest: Float[np.ndarray, "55 3"]
) -> tuple[Float[np.ndarray, "F 55 3 3"], Float[np.ndarray, "F 55 3"]]:
    """World rotations and positions of the joints, as ``Body.pose`` has them.

    Args:
        motion: any motion.
        rest: the body's joints in the T-pose, metres.
    """
    rotations: list[Rotation] = []
    positions = np.zeros((len(motion), len(JOINTS), 3))
    for joint, parent in enumerate(PARENTS):
        local = Rotation.from_rotvec(motion.axis_angles[:, joint].astype(np.float64))
        if parent < 0:
            rotations.append(local)
            positions[:, joint] = rest[joint] + motion.translation
        else:
            rotations.append(rotations[parent] * local)
            positions[:, joint] = positions[:, parent] + rotations[parent].apply(rest[joint] - rest[parent])
    return np.stack([rotation.as_matrix() for rotation in rotations], 1), positions


def skinned(
    vertices: Float[np.ndarray, "V 3"],
    weights: Float[np.ndarray, "V 55"],
    rotations: Float[np.ndarray, "F 55 3 3"],
    positions: Float[np.ndarray, "F 55 3"],
    rest: Float[np.ndarray, "55 3"],
) -> Float[np.ndarray, "F V 3"]:
    """Vertices at rest, posed by linear blend skinning in every frame."""
    offsets = positions - np.einsum("fjab,jb->fja", rotations, rest)
    blended, moved = np.einsum("vj,fjab->fvab", weights, rotations), np.einsum("vj,fja->fva", weights, offsets)
    return np.einsum("fvab,vb->fva", blended, vertices) + moved
