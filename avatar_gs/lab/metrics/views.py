"""Where suite=scores looks from: an orbit around the body and around the head, and poses that no run has seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import binary_dilation, binary_erosion
from torch import Tensor

from avatar_gs.body.keypoints import openpose_keypoints
from avatar_gs.body.pose import Pose, a_pose, random_pose
from avatar_gs.core.seeding import generator
from avatar_gs.lab.metrics.truth import Stage, neutral_body, stage_of
from avatar_gs.prior.config import PromptConfig
from avatar_gs.prior.prompts import view_buckets
from avatar_gs.render.pose_map import body_depth, render_pose_map
from avatar_gs.types import Bucket, Framing

ORBIT = tuple(45.0 * turn for turn in range(8))
"""Degrees; each framing's views are a closed orbit."""
ORBITS = (Framing.BODY, Framing.HEAD)
NEW_POSES = 2
NEW_POSE_TURNS = (0.0, 90.0, 180.0, 270.0)
NEW_POSE = "new pose"
POSE_SEED = 60_000
AROUND = 6
"""Pixels around the body that hair and clothes may cover: beyond them a picture shows its background."""


@dataclass(frozen=True)
class Sights:
    """All measured views, pose by pose: the A-pose first."""

    stages: tuple[Stage, ...]

    def __len__(self) -> int:
        return sum(len(stage.views) for stage in self.stages)

    @property
    def bare(self) -> Bool[np.ndarray, "V S S"]:
        """Where the undressed body is."""
        return np.concatenate([stage.bare for stage in self.stages])

    @property
    def inside(self) -> Bool[np.ndarray, "V S S"]:
        """Pixels that every picture of a person in these views shows the person in, whoever it is."""
        return np.stack([binary_erosion(mask, iterations=2) for mask in self.bare])

    @property
    def outside(self) -> Bool[np.ndarray, "V S S"]:
        """Pixels of the background, whoever stands before it."""
        return np.stack([np.logical_not(binary_dilation(mask, iterations=AROUND)) for mask in self.bare])

    def buckets(self, config: PromptConfig) -> list[Bucket]:
        """The bucket of prompts of each view."""
        return [bucket for stage in self.stages for bucket in view_buckets(stage.views, config)]

    def groups(self, config: PromptConfig) -> list[str]:
        """What figures are reported by: framing and side, or "new pose" and side."""
        standing = len(self.stages[0].views)
        return [
            str(bucket) if index < standing else f"{NEW_POSE}/{bucket.direction.value}"
            for index, bucket in enumerate(self.buckets(config))
        ]

    @torch.no_grad()
    def pose_maps(self, size: int, *, full: bool, device: torch.device) -> Float[Tensor, "V size size 3"]:
        """What the prior's own samples are drawn for; ``full``: hands and face too."""
        body = neutral_body("cpu")
        maps = []
        for stage in self.stages:
            cameras = stage.views.cameras
            depth, keypoints = body_depth(stage.posed, cameras), openpose_keypoints(body, stage.posed)
            maps.append(render_pose_map(keypoints, cameras, depth, size=size, hands=full, face=full))
        return torch.cat(maps).to(device)


def orbit(framing: Framing) -> slice:
    """The views of a framing's orbit."""
    start = ORBITS.index(framing) * len(ORBIT)
    return slice(start, start + len(ORBIT))


@lru_cache(maxsize=1)
def sights() -> Sights:
    """The fixed views of the suite."""
    standing = _stage(a_pose(), [framing for framing in ORBITS for _ in ORBIT], ORBIT * len(ORBITS))
    poses = [random_pose(generator(POSE_SEED, index, "pose")) for index in range(NEW_POSES)]
    others = [_stage(pose, [Framing.BODY] * len(NEW_POSE_TURNS), NEW_POSE_TURNS) for pose in poses]
    return Sights((standing, *others))


def _stage(pose: Pose, framings: Sequence[Framing], azimuths: Sequence[float]) -> Stage:
    return stage_of(pose, framings, azimuths, tuple(f"{azimuth:g}" for azimuth in azimuths))
