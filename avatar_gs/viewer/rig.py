"""What makes the splats of a page move: a skeleton, four joints a splat, and motions, as sections of the container."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from avatar_gs.geometry import matrix_to_quat, quat_multiply
from avatar_gs.types import Gaussians

JOINTS_A_SPLAT = 4
STILL = 1e-4
"""Radians within which a joint does not move in a motion."""
Section = tuple[dict[str, Any], bytes]


@dataclass(frozen=True)
class Clip:
    """A motion of F frames."""

    name: str
    fps: float
    quats: Float[np.ndarray, "F J 4"]
    """Rotations relative to the parent (wxyz)."""
    translation: Float[np.ndarray, "F 3"]
    loops: bool


@dataclass(frozen=True)
class Rig:
    """The skeleton of posed splats, with J joints."""

    names: Sequence[str]
    parents: Sequence[int]
    joints: Float[np.ndarray, "J 3"]
    """At rest, metres."""
    weights: Float[Tensor, "N J"]
    """Skinning weights of the splats."""
    T_posed_rest: Float[Tensor, "J 4 4"]
    """The pose that the splats are in."""
    quats: Float[np.ndarray, "J 4"]
    """The same pose as rotations relative to the parents (wxyz)."""
    translation: Float[np.ndarray, "3"]
    clips: Sequence[Clip] = ()


def largest_weights(
    weights: Float[Tensor, "N J"],
) -> tuple[UInt8[np.ndarray, "N 4"], UInt8[np.ndarray, "N 4"]]:
    """The four joints with the largest weights of each splat, and these weights in bytes."""
    values, joints = weights.detach().cpu().topk(min(JOINTS_A_SPLAT, weights.shape[1]), dim=1)
    bytes_ = (255 * values / values.sum(1, keepdim=True)).round()
    missing = JOINTS_A_SPLAT - values.shape[1]
    pad = lambda array: np.pad(array.numpy().astype(np.uint8), ((0, 0), (0, missing)))
    return pad(joints), pad(bytes_)


def at_rest(gaussians: Gaussians, rig: Rig) -> Gaussians:
    """Posed splats, taken back to the rest pose by the weights as the page has them.

    So the page shows in this pose exactly what is exported, whatever the weights' precision and the body's correctives.
    """
    joints, weights = (torch.from_numpy(values.astype(np.int64)) for values in largest_weights(rig.weights))
    fractions = weights.double() / weights.sum(1, keepdim=True)
    T = rig.T_posed_rest.detach().cpu().double()
    blended = torch.einsum("nk,nkab->nab", fractions, T[joints])
    linear, offset = blended[:, :3, :3], blended[:, :3, 3]
    means = torch.linalg.solve(linear, gaussians.means.detach().cpu().double() - offset)
    left, _, right = torch.linalg.svd(linear)
    back = matrix_to_quat((left @ right).transpose(1, 2))
    quats = quat_multiply(back, torch.nn.functional.normalize(gaussians.quats.detach().cpu().double(), dim=-1))
    return Gaussians(
        means.float(),
        quats.float(),
        gaussians.scales.detach().cpu(),
        gaussians.opacities.detach().cpu(),
        gaussians.colors.detach().cpu(),
    )


def describe(rig: Rig) -> tuple[dict[str, Any], list[Section]]:
    """The header's entry ``rig``, and the sections: joints and weights of splats, and the rotations of every clip."""
    joints, weights = largest_weights(rig.weights)
    sections: list[Section] = [
        ({"name": "joints", "type": "uint8", "components": JOINTS_A_SPLAT}, joints.tobytes()),
        ({"name": "weights", "type": "uint8", "components": JOINTS_A_SPLAT}, weights.tobytes()),
    ]
    clips = []
    for index, clip in enumerate(rig.clips):
        vectors = _vectors(clip.quats)
        moving = np.flatnonzero(np.ptp(vectors, axis=0).max(1) > STILL)
        stored = np.rint(vectors[:, moving] * 32767).astype("<i2")
        name = f"clip{index}"
        section = {"name": name, "type": "int16", "components": 3 * len(moving), "count": len(clip.quats)}
        sections.append((section, stored.tobytes()))
        clips.append(
            {
                "name": clip.name,
                "fps": clip.fps,
                "frames": len(clip.quats),
                "loops": clip.loops,
                "section": name,
                "moving": moving.tolist(),
                "still": vectors[0].round(4).tolist(),
                "translation": clip.translation.round(4).tolist(),
            }
        )
    rig_header = {
        "names": list(rig.names),
        "parents": list(rig.parents),
        "joints": np.round(rig.joints, 5).tolist(),
        "quats": np.round(rig.quats, 6).tolist(),
        "translation": np.round(rig.translation, 5).tolist(),
        "clips": clips,
    }
    return rig_header, sections


def _vectors(quats: Float[np.ndarray, "F J 4"]) -> Float[np.ndarray, "F J 3"]:
    """The vector parts of unit quaternions whose real part is not negative; they are enough to know the rotation."""
    return np.where(quats[..., :1] < 0, -quats, quats)[..., 1:]
