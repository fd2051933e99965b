"""Where avatars are measured from: cameras around the neutral body, and around poses that no run has seen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import binary_dilation, binary_erosion
from torch import Tensor

from avatar_gs.body.keypoints import openpose_keypoints
from avatar_gs.body.model import Body
from avatar_gs.body.pose import Pose, a_pose, random_pose
from avatar_gs.core.seeding import generator
from avatar_gs.lab.world.dataset import OVERSAMPLING, SIZE
from avatar_gs.lab.world.rendering import mesh_depth
from avatar_gs.lab.world.views import view_of
from avatar_gs.lab.world.wardrobe import load_wardrobe
from avatar_gs.prior.config import PromptConfig
from avatar_gs.prior.prompts import view_buckets
from avatar_gs.render.cameras import fixed_views, subject
from avatar_gs.render.pose_map import body_depth, render_pose_map
from avatar_gs.types import Bucket, Framing, PosedBody, Views

DIRECTIONS = {"front": 0.0, "left": 90.0, "back": 180.0, "right": -90.0}
"""Azimuths in degrees; left is the avatar's left."""
SPAN = 1.15
"""Height of a view relative to its subject."""
ORBIT = tuple(45.0 * turn for turn in range(8))
"""Azimuths in degrees of a closed orbit."""
ORBITS = (Framing.BODY, Framing.HEAD)
"""Framings with an orbit, in the order of the views."""
FRONTS = (0, len(ORBIT))
"""Indices of the front views of both orbits."""
BACK_AZIMUTHS = tuple(np.linspace(135.0, 225.0, 17).tolist())
"""Azimuths in degrees where no face may be visible; six avatars give more than a hundred views."""
NEW_POSES = 2
NEW_POSE_TURNS = (0.0, 90.0, 180.0, 270.0)
NEW_POSE = "new pose"
POSE_SEED = 60_000
AROUND = 6
"""Distance in pixels from the body within which hair and clothes may cover the background."""


@dataclass(frozen=True)
class Viewpoints:
    """A posed neutral body and the views of it.

    Args:
        directions: the name of each view's direction.
        bare: the pixels that the undressed body touches (a quarter of a pixel counts).
    """

    posed: PosedBody
    views: Views
    directions: tuple[str, ...]
    bare: Bool[np.ndarray, "V S S"]

    def index(self, framing: Framing, direction: str) -> int:
        """The index of a view."""
        return list(zip(self.views.framings, self.directions, strict=True)).index((framing, direction))

    def pixel(self, framing: Framing) -> float:
        """Size of a pixel in metres at the person."""
        return SPAN * subject(self.posed, framing)[1] / SIZE


def neutral_body(device: torch.device | str) -> Body:
    """The body that avatars are measured on."""
    return load_wardrobe().body.to(device)


def standard_viewpoints() -> Viewpoints:
    """The A-pose in every framing from every one of ``DIRECTIONS``."""
    framings = [framing for framing in Framing for _ in DIRECTIONS]
    azimuths = [azimuth for _ in Framing for azimuth in DIRECTIONS.values()]
    return viewpoints_of(a_pose(), framings, azimuths, tuple(DIRECTIONS) * len(Framing))


def viewpoints_of(
    pose: Pose, framings: Sequence[Framing], azimuths: Sequence[float], directions: tuple[str, ...] = ()
) -> Viewpoints:
    """Views of the free body, on which the synthetic people are based.

    Args:
        azimuths: in degrees.
        directions: names of the views; default: their azimuths.
    """
    wardrobe = load_wardrobe()
    posed = wardrobe.body.pose(pose)
    fine = fixed_views(posed, framings, azimuths, SIZE * OVERSAMPLING, span=SPAN)
    depth = mesh_depth(posed.vertices.numpy(), wardrobe.faces, fine.cameras)
    cells = np.isfinite(depth).reshape(len(fine), SIZE, OVERSAMPLING, SIZE, OVERSAMPLING)
    views = replace(fine, cameras=fine.cameras.resized(SIZE, SIZE))
    return Viewpoints(posed, views, directions or tuple(f"{a:g}" for a in azimuths), np.asarray(cells.any((2, 4))))


@dataclass(frozen=True)
class ScoredViews:
    """The views of suite=scores, pose by pose; the A-pose is first."""

    poses: tuple[Viewpoints, ...]

    def __len__(self) -> int:
        return sum(len(viewpoints.views) for viewpoints in self.poses)

    @property
    def bare(self) -> Bool[np.ndarray, "V S S"]:
        """The pixels of the undressed body."""
        return np.concatenate([viewpoints.bare for viewpoints in self.poses])

    @property
    def inside(self) -> Bool[np.ndarray, "V S S"]:
        """Pixels that any person in these views covers."""
        return np.stack([binary_erosion(mask, iterations=2) for mask in self.bare])

    @property
    def outside(self) -> Bool[np.ndarray, "V S S"]:
        """Pixels that no person in these views covers."""
        return np.stack([np.logical_not(binary_dilation(mask, iterations=AROUND)) for mask in self.bare])

    def buckets(self, config: PromptConfig) -> list[Bucket]:
        """The prompt bucket of each view."""
        return [bucket for viewpoints in self.poses for bucket in view_buckets(viewpoints.views, config)]

    def groups(self, config: PromptConfig) -> list[str]:
        """The group of each view in reports: framing and direction, or "new pose" and direction."""
        standing = len(self.poses[0].views)
        return [
            str(bucket) if index < standing else f"{NEW_POSE}/{bucket.direction.value}"
            for index, bucket in enumerate(self.buckets(config))
        ]

    @torch.no_grad()
    def pose_maps(self, size: int, *, full: bool, device: torch.device) -> Float[Tensor, "V size size 3"]:
        """Pose maps of the views, on which the prior's samples are conditioned.

        Args:
            full: include hands and face.
        """
        body = neutral_body("cpu")
        maps = []
        for viewpoints in self.poses:
            cameras = viewpoints.views.cameras
            depth, keypoints = body_depth(viewpoints.posed, cameras), openpose_keypoints(body, viewpoints.posed)
            maps.append(render_pose_map(keypoints, cameras, depth, size=size, hands=full, face=full))
        return torch.cat(maps).to(device)


def orbit(framing: Framing) -> slice:
    """The indices of a framing's orbit in the scored views."""
    start = ORBITS.index(framing) * len(ORBIT)
    return slice(start, start + len(ORBIT))


@lru_cache(maxsize=1)
def scored_views() -> ScoredViews:
    """Both orbits around the A-pose, then ``NEW_POSES`` random poses from four directions."""
    a = viewpoints_of(a_pose(), [framing for framing in ORBITS for _ in ORBIT], ORBIT * len(ORBITS))
    poses = [random_pose(generator(POSE_SEED, index, "pose")) for index in range(NEW_POSES)]
    return ScoredViews(
        (a, *(viewpoints_of(pose, [Framing.BODY] * len(NEW_POSE_TURNS), NEW_POSE_TURNS) for pose in poses))
    )


@lru_cache(maxsize=1)
def standing() -> PosedBody:
    """The neutral body in the A-pose."""
    return load_wardrobe().body.pose(a_pose())


@lru_cache(maxsize=1)
def measured_views() -> Views:
    """The views of suite=identity: both orbits around the A-pose, ``SIZE``² pixels."""
    framings = [framing for framing in ORBITS for _ in ORBIT]
    return fixed_views(standing(), framings, ORBIT * len(ORBITS), SIZE)


@lru_cache(maxsize=1)
def back_views() -> Views:
    """Views of the head from behind."""
    return fixed_views(standing(), [Framing.HEAD] * len(BACK_AZIMUTHS), BACK_AZIMUTHS, SIZE)


def some_views(views: Views, indices: Sequence[int]) -> Views:
    """The views with the given indices."""
    chosen = list(indices)
    cameras = replace(views.cameras, T_camera_world=views.cameras.T_camera_world[chosen], K=views.cameras.K[chosen])
    framings = tuple(views.framings[index] for index in chosen)
    return Views(cameras, framings, views.azimuth[chosen], views.elevation[chosen])


def sides(views: Views) -> list[str]:
    """Front, side or back for each view."""
    return [view_of(float(azimuth)).value for azimuth in views.azimuth]
