"""A recording of another skeleton on SMPL-X's joints: rest poses mapped bone by bone, the hips' height scaled."""

from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from avatar_gs.body.pose import JOINT, JOINTS, PARENTS
from avatar_gs.core.errors import UserError
from avatar_gs.motion.bvh import Recording, read_bvh
from avatar_gs.motion.clip import Motion, checked
from avatar_gs.motion.skeletons import match_joints

_TRUNK = ("spine1", "spine2", "spine3", "neck", "head")
_STANDING = 0.85
"""Cosine from which the zero pose's trunk and legs make one line: a rest pose in which a person stands."""


def read_retargeted(path: Path, rest: Float[np.ndarray, "55 3"]) -> Motion:
    """Read a BVH file as a motion.

    Args:
        path: the file.
        rest: the avatar's joints in the T-pose, metres.

    Raises:
        UserError: if the file is damaged, or its skeleton unknown.
    """
    return checked(retarget(read_bvh(path), rest, path), path)


def retarget(recording: Recording, rest: Float[np.ndarray, "55 3"], path: Path) -> Motion:
    """The recording as a motion of a body with joints ``rest`` (T-pose, metres).

    A bone's world rotation is the recording's, relative to a pose in which both skeletons' bones have one direction:
    ``alignment`` turns each bone of the T-pose there, from the parent's by the smallest rotation.
    """
    found = match_joints([bone.name for bone in recording.bones], path)
    world_file = _axes(recording, found, path)
    frames = len(recording.positions)
    alignments = _alignments(recording, found, rest, world_file)
    world: list[Rotation] = []
    for joint, name in enumerate(JOINTS):
        if name in found:
            turned = recording.rotations[found[name]]
            world.append(world_file * turned * world_file.inv() * alignments[name])
        else:
            world.append(world[PARENTS[joint]] if joint else Rotation.identity(frames))
    for missing, (below, above) in {"spine1": ("pelvis", "spine3"), "spine2": ("spine1", "spine3")}.items():
        if missing not in found and "spine3" in found:
            world[JOINT[missing]] = _between(
                world[JOINT[below]], world[JOINT[above]], 1 / 3 if missing == "spine1" else 1 / 2
            )
    local = [world[0], *(world[parent].inv() * own for parent, own in zip(PARENTS[1:], world[1:], strict=True))]
    axis_angles = np.stack([rotation.as_rotvec() for rotation in local], 1).astype(np.float32)
    scale = _leg(rest, {name: JOINT[name] for name in found if name in JOINT}) / _leg(recording.rest, found)
    hips = world_file.apply(recording.positions[:, found["pelvis"]]) * scale
    return Motion(path.stem, recording.fps, axis_angles, (hips - rest[0]).astype(np.float32))


def _leg(joints: Float[np.ndarray, "J 3"], index: dict[str, int]) -> float:
    """Length of the legs from hips to ankles (or knees), the mean of both sides."""
    chain = ("hip", "knee", "ankle") if "left_ankle" in index and "right_ankle" in index else ("hip", "knee")
    lengths = [
        np.linalg.norm(joints[index[f"{side}_{b}"]] - joints[index[f"{side}_{a}"]])
        for side in ("left", "right")
        for a, b in pairwise(chain)
    ]
    return float(np.sum(lengths)) / 2


def _axes(recording: Recording, found: dict[str, int], path: Path) -> Rotation:
    """The rotation from the file's axes to +y up and, in the zero pose, the left hand at +x."""
    rest = recording.rest

    def towards(child: str) -> np.ndarray:
        return rest[found[child]] - rest[found["pelvis"]]

    left = towards("left_hip") - towards("right_hip")
    up = -(towards("left_knee") + towards("right_knee"))
    trunk = next(
        (towards(name) for name in ("spine1", "spine2", "spine3", "neck") if name in found and towards(name).any()), up
    )
    if not _stands(recording, found):
        up = trunk  # of the zero pose, only the pelvis with what hangs on it is meaningful
    up = _nearest_axis(up)
    left = left - (left @ up) * up
    length = float(np.linalg.norm(left))
    if not length > 1e-6 * (np.abs(rest).max() + 1e-9):
        raise UserError(f"{path}: both hips are at one place at rest, so left and right cannot be told")
    left /= length
    return Rotation.from_matrix(np.stack([left, up, np.cross(left, up)]))


def _nearest_axis(vector: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    axis = np.zeros(3)
    axis[np.abs(vector).argmax()] = np.sign(vector[np.abs(vector).argmax()])
    return axis


def _stands(recording: Recording, found: dict[str, int]) -> bool:
    """Whether the zero pose is that of a standing person; in some files it only defines the bones' lengths."""
    rest, top = recording.rest, found.get("head", found.get("neck", found.get("spine3")))
    if top is None:
        return True
    trunk = rest[top] - rest[found["pelvis"]]
    legs = rest[found["pelvis"]] - (rest[found["left_knee"]] + rest[found["right_knee"]]) / 2
    return float(trunk @ legs) > _STANDING * float(np.linalg.norm(trunk) * np.linalg.norm(legs))


def _alignments(
    recording: Recording, found: dict[str, int], rest: Float[np.ndarray, "55 3"], world_file: Rotation
) -> dict[str, Rotation]:
    """The rotation of each bone from the T-pose to the recording's zero pose, in our axes."""
    stands = _stands(recording, found)
    theirs = world_file.apply(recording.rest)
    alignments: dict[str, Rotation] = {}
    for joint, name in enumerate(JOINTS):
        inherited = alignments[JOINTS[PARENTS[joint]]] if joint else Rotation.identity()
        alignments[name] = inherited
        if name not in found or name == "pelvis":
            continue
        central = name in _TRUNK or name.endswith("collar")
        if stands and central:
            # The curve of a spine is each skeleton's own: where both stand, their trunks agree as they are.
            alignments[name] = Rotation.identity()
            continue
        direction = _direction(recording, found, name, theirs)
        if direction is None or (name == "head" and not stands):
            if not stands:
                alignments[name] = _neutral_on_average(recording, found, name, world_file, inherited)
            continue
        child = _child(name, found)
        ours = rest[JOINT[child]] - rest[joint] if child else rest[joint] - rest[PARENTS[joint]]
        if central:
            ours = np.array([0.0, 1.0, 0.0] if name in _TRUNK else [np.sign(ours[0]), 0.0, 0.0])
        elif name.endswith("ankle") and stands:
            # Feet stand flat in both rest poses; only their headings differ.
            ours, direction, inherited = ours * [1, 0, 1], direction * [1, 0, 1], Rotation.identity()
        if np.linalg.norm(direction) > 1e-6 and np.linalg.norm(ours) > 1e-6:
            alignments[name] = _smallest(inherited.apply(ours), direction) * inherited
    return alignments


def _child(name: str, found: dict[str, int]) -> str | None:
    """The joint at the bone's other end, if the file has it."""
    chains = {"spine1": ("spine2", "spine3"), "spine2": ("spine3",), "spine3": ("neck", "head"), "neck": ("head",)}
    side, _, part = name.partition("_")
    limbs = {
        "hip": "knee", "knee": "ankle", "ankle": "foot", "collar": "shoulder", "shoulder": "elbow", "elbow": "wrist",
        "wrist": "middle1",
    }  # fmt: skip
    options = chains.get(name, ())
    if part in limbs:
        options = (f"{side}_{limbs[part]}",)
    elif part[-1:] in ("1", "2"):
        options = (f"{side}_{part[:-1]}{int(part[-1]) + 1}",)
    return next((option for option in options if option in found), None)


def _direction(
    recording: Recording, found: dict[str, int], name: str, theirs: Float[np.ndarray, "J 3"]
) -> Float[np.ndarray, "3"] | None:
    """Where the file's bone points in the zero pose: to the next joint, or from a head or finger tip to its end."""
    child, joint = _child(name, found), found[name]
    if child is not None:
        return theirs[found[child]] - theirs[joint]
    ends = [k for k, bone in enumerate(recording.bones) if bone.parent == joint]
    if not ends or (name != "head" and JOINT[name] < JOINT["left_index1"]):
        return None
    return theirs[ends[0]] - theirs[joint]


def _neutral_on_average(
    recording: Recording, found: dict[str, int], name: str, world_file: Rotation, inherited: Rotation
) -> Rotation:
    """The alignment of a bone without a direction, such as a head: over the frames it is turned as its parent is."""
    parent = JOINTS[PARENTS[JOINT[name]]]
    if parent not in found:
        return inherited
    own, parents = (world_file * recording.rotations[found[joint]] * world_file.inv() for joint in (name, parent))
    return (own.inv() * parents).mean() * inherited


def _smallest(a: Float[np.ndarray, "3"], b: Float[np.ndarray, "3"]) -> Rotation:
    """The smallest rotation from the direction of ``a`` to that of ``b``."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    axis = np.cross(a, b)
    sine, cosine = float(np.linalg.norm(axis)), float(a @ b)
    if sine < 1e-9:
        other = np.cross(a, [0, 0, 1]) if abs(a[2]) < 0.9 else np.cross(a, [1, 0, 0])
        return Rotation.identity() if cosine > 0 else Rotation.from_rotvec(np.pi * other / np.linalg.norm(other))
    return Rotation.from_rotvec(axis / sine * np.arctan2(sine, cosine))


def _between(a: Rotation, b: Rotation, fraction: float) -> Rotation:
    """Rotations between those of ``a`` and ``b``, frame by frame."""
    return a * Rotation.from_rotvec(fraction * (a.inv() * b).as_rotvec())
