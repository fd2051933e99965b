"""The body: a file in the SMPL-X layout, loaded by ``smplx.create``, shaped by betas and posed by linear blend skinning
(Pavlakos et al., "Expressive Body Capture", CVPR 2019, equations 1-5)."""

import contextlib
import io
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatar_gs.body.config import BodyConfig
from avatar_gs.body.files import checked_body, find_body, reading_arrays
from avatar_gs.body.pose import PARENTS, Pose, zero_pose
from avatar_gs.core.errors import UserError
from avatar_gs.geometry import axis_angle_to_matrix
from avatar_gs.types import Correctives, PosedBody

SMPLX_VERTICES = 10475
SIZES = ((0.2, 4.0), (0.3, 4.0), (0.03, 2.0))
"""Smallest and largest width, height and depth of a body at rest, in metres: from small children to giants."""
EXTRA_POINTS = (
    "nose", "right_eye", "left_eye", "right_ear", "left_ear",
    "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel",
    "left_thumb", "left_index", "left_middle", "left_ring", "left_pinky",
    "right_thumb", "right_index", "right_middle", "right_ring", "right_pinky",
)  # fmt: skip
"""Names of the 21 vertices with fixed ids in smplx, in its order; fingers are their tips."""


@dataclass(frozen=True)
class Body:
    """A shaped body that can be posed, in metres. V vertices, F faces, S shape coefficients."""

    name: str
    """``smplx``, or ``free`` for a body with another number of vertices."""
    path: Path
    template: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]
    weights: Float[Tensor, "V 55"]
    """Skinning weights; rows sum to 1."""
    parents: Int[Tensor, " 55"]
    """Parent of each joint, -1 for the pelvis."""
    shape_directions: Float[Tensor, "V 3 S"]
    pose_directions: Float[Tensor, "486 V3"] | None
    """Corrective offsets by ``R - I`` of joints 1..54; None if the body has none (the free body)."""
    joint_regressor: Float[Tensor, "55 V"]
    betas: Float[Tensor, " S"]
    extra_points: Int[Tensor, " 21"]
    """Vertex ids of ``EXTRA_POINTS``."""
    landmark_faces: Int[Tensor, " 68"]
    """Triangles of the face landmarks in SMPL-X order: 51 inner ones, then the jaw line's 17 (seen from the front)."""
    landmark_barycentrics: Float[Tensor, "68 3"]

    def pose(self, pose: Pose, betas: Float[Tensor, " S"] | None = None) -> PosedBody:
        """Pose the body; ``betas`` (at most S) replace the configured ones. Differentiable in both."""
        shaped, joints = self.shaped(betas)
        rotations = axis_angle_to_matrix(pose.axis_angles.to(shaped))
        T_posed_rest, posed_joints = _joint_transforms(rotations, joints, self.parents_list)
        offset, correctives = torch.zeros_like(shaped), None
        if self.pose_directions is not None:
            feature = (rotations[1:] - torch.eye(3).to(shaped)).flatten()
            offset = (feature @ self.pose_directions).view_as(shaped)
            correctives = Correctives(shaped, offset)
        blended = (self.weights @ T_posed_rest[:, :3].flatten(1)).unflatten(1, (3, 4))
        vertices = (blended[..., :3] @ (shaped + offset)[..., None])[..., 0] + blended[..., 3]
        translation = pose.translation.to(shaped)
        shift = torch.zeros(4, 4).to(shaped)
        shift[:3, 3] = translation
        return PosedBody(
            vertices + translation, self.faces, posed_joints + translation, T_posed_rest + shift, correctives
        )

    def rest(self) -> PosedBody:
        """The body in the zero pose (the T-pose)."""
        return self.pose(zero_pose())

    def shaped(self, betas: Float[Tensor, " S"] | None = None) -> tuple[Float[Tensor, "V 3"], Float[Tensor, "55 3"]]:
        """Vertices and joints in the zero pose, without pose-dependent offsets."""
        betas = self.betas if betas is None else betas.to(self.template)
        vertices = self.template + self.shape_directions[..., : len(betas)] @ betas
        return vertices, self.joint_regressor @ vertices

    @cached_property
    def parents_list(self) -> list[int]:
        return self.parents.tolist()

    def to(self, device: torch.device | str) -> "Body":
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def load_body(config: BodyConfig, device: torch.device | str = "cpu") -> Body:
    """Load the configured body.

    Raises:
        UserError: for a missing, damaged or unsuitable file, or too many betas.
    """
    path = find_body(config.path)
    model = _create(checked_body(path))
    _check(path, model)
    size = model.shapedirs.shape[-1]
    if len(config.betas) > size:
        raise UserError(f"body.betas: found {len(config.betas)} numbers, {path} has {size} shape coefficients")
    betas = torch.zeros(size)
    betas[: len(config.betas)] = torch.tensor(config.betas)
    return Body(
        name="smplx" if len(model.v_template) == SMPLX_VERTICES else "free",
        path=path,
        template=model.v_template,
        faces=model.faces_tensor,
        weights=model.lbs_weights,
        parents=model.parents,
        shape_directions=model.shapedirs,
        pose_directions=model.posedirs if bool(model.posedirs.any()) else None,
        joint_regressor=model.J_regressor,
        betas=betas,
        extra_points=model.vertex_joint_selector.extra_joints_idxs,
        landmark_faces=torch.cat([model.lmk_faces_idx, model.dynamic_lmk_faces_idx[0]]),
        landmark_barycentrics=torch.cat([model.lmk_bary_coords, model.dynamic_lmk_bary_coords[0]]),
    ).to(device)


def _create(path: Path) -> Any:
    """The ``smplx`` module of a checked file, without smplx's warnings for bodies with few betas."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import smplx

        with reading_arrays(path):
            model = smplx.create(str(path), ext="npz", use_pca=False, flat_hand_mean=True, use_face_contour=True)
    return model.requires_grad_(False)


def _check(path: Path, model: Any) -> None:
    """Raise UserError unless the body's values are consistent."""
    weights, vertices = model.lbs_weights, len(model.v_template)
    numbers = {
        "v_template": model.v_template,
        "shapedirs": model.shapedirs,
        "posedirs": model.posedirs,
        "J_regressor": model.J_regressor,
        "weights": weights,
        "lmk_bary_coords": model.lmk_bary_coords,
        "dynamic_lmk_bary_coords": model.dynamic_lmk_bary_coords,
    }
    for name, values in numbers.items():
        count = int((~values.isfinite()).sum())
        if count:
            raise UserError(f"{path}: found {name}: {count} numbers that are not finite; expected a SMPL-X body")
    size = (model.v_template.amax(0) - model.v_template.amin(0)).tolist()
    if not all(low <= length <= high for length, (low, high) in zip(size, SIZES, strict=True)):
        found = " × ".join(f"{length:.3g}" for length in size)
        raise UserError(
            f"{path}: found a body of {found} (width, height, depth in the T-pose); expected metres, +y up, such as "
            "1.8 × 1.7 × 0.3: divide by 100 what is in centimetres, turn what stands along another axis"
        )
    joints = model.J_regressor @ model.v_template
    outside = (joints - joints.clamp(model.v_template.amin(0) - 0.1, model.v_template.amax(0) + 0.1)).abs().amax()
    triangles = torch.cat([model.lmk_faces_idx, model.dynamic_lmk_faces_idx[0]])
    checks = {
        "f: triangles of vertices that are not there": _below(model.faces_tensor, vertices),
        "kintree_table: another tree of joints than SMPL-X's": tuple(model.parents.tolist()) == PARENTS,
        "weights: rows that do not sum to 1": (weights.sum(1) - 1).abs().max() < 1e-3 and weights.min() >= -1e-6,
        "J_regressor: joints outside of the body": bool(outside == 0),
        "f: triangles without area": bool(_area(model.v_template, model.faces_tensor) > 0.1),
        "lmk_faces_idx: triangles that are not there": _below(triangles, len(model.faces_tensor)),
    }
    for mistake, fine in checks.items():
        if not fine:
            raise UserError(f"{path}: found {mistake}; expected a SMPL-X body")


def _area(vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]) -> float:
    """The surface's area in square metres; 0 if a triangle names vertices that are not there."""
    if not _below(faces, len(vertices)):
        return 0.0
    corners = vertices[faces]
    return float(
        torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1).sum() / 2
    )


def _below(indices: Tensor, count: int) -> bool:
    return int(indices.min()) >= 0 and int(indices.max()) < count


def _joint_transforms(
    rotations: Float[Tensor, "55 3 3"], joints: Float[Tensor, "55 3"], parents: list[int]
) -> tuple[Float[Tensor, "55 4 4"], Float[Tensor, "55 3"]]:
    """Transforms from rest to pose of every joint, and the posed joints, down the kinematic tree."""
    last_row = torch.tensor([0.0, 0.0, 0.0, 1.0]).to(joints)
    world_rotations, positions = [rotations[0]], [joints[0]]
    for joint, parent in enumerate(parents[1:], start=1):
        positions.append(positions[parent] + world_rotations[parent] @ (joints[joint] - joints[parent]))
        world_rotations.append(world_rotations[parent] @ rotations[joint])
    R, posed = torch.stack(world_rotations), torch.stack(positions)
    t = posed - (R @ joints[..., None])[..., 0]
    T = torch.cat([torch.cat([R, t[..., None]], -1), last_row.expand(len(R), 1, 4)], -2)
    return T, posed
