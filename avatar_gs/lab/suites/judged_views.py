"""The views that suite=judges looks at: heads, bodies and hands of a posed body, with the facts to compare with."""

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from avatar_gs.body.keypoints import openpose_keypoints
from avatar_gs.body.pose import Pose, random_pose
from avatar_gs.core.seeding import generator
from avatar_gs.geometry import project
from avatar_gs.lab.metrics.views import neutral_body
from avatar_gs.lab.people.samples import hand_camera
from avatar_gs.lab.world.rendering import mesh_depth
from avatar_gs.lab.world.views import find_heads, view_of
from avatar_gs.lab.world.wardrobe import HEAD_JOINT
from avatar_gs.render.cameras import fixed_views
from avatar_gs.render.pose_map import body_depth, render_pose_map
from avatar_gs.types import Bucket, Cameras, Framing, PosedBody

SIZE = 256
"""Pixels of a side of the judged images."""
VIEWS_PER_GROUP = 2
"""Views of one subject in each group, one from each side."""
SMALL_SPREAD, SPREADS = 0.1, (0.2, 0.9)
"""Every other subject stands nearly in the A-pose, the others in a range of poses (``random_pose``)."""


class Group(str, Enum):
    """Views that are judged together."""

    HEAD_FRONT = "head, front"
    THREE_QUARTER = "head, three-quarter"
    HEAD_BACK = "head, back"
    BODY_FRONT = "body, front"
    BODY_SIDE = "body, side"
    BODY_BACK = "body, back"
    HAND = "hand"


HEADS = (Group.HEAD_FRONT, Group.THREE_QUARTER, Group.HEAD_BACK)
BODIES = (Group.BODY_FRONT, Group.BODY_SIDE, Group.BODY_BACK)
RANGES = {
    Group.HEAD_FRONT: (0, 15),
    Group.THREE_QUARTER: (30, 50),
    Group.HEAD_BACK: (135, 180),
    Group.BODY_FRONT: (0, 30),
    Group.BODY_SIDE: (70, 110),
    Group.BODY_BACK: (150, 180),
    Group.HAND: (20, 70),
}
"""Angles in degrees between the camera and the front of the face (heads) or of the person, to both sides."""


@dataclass(frozen=True)
class JudgedViews:
    """All views of one posed subject.

    Args:
        posed: the free body in the subject's shape and pose.
        groups: of each view.
        azimuths: of each view in radians, relative to the front of the face (heads) or of the person.
        cameras: ``SIZE``² pixels.
    """

    posed: PosedBody
    groups: tuple[Group, ...]
    azimuths: tuple[float, ...]
    cameras: Cameras

    def __len__(self) -> int:
        return len(self.groups)

    def of(self, *groups: Group) -> list[int]:
        """The indices of the views in some groups."""
        return [index for index, group in enumerate(self.groups) if group in groups]

    def bucket(self, index: int) -> Bucket | None:
        """The prompt bucket of a view; None for hands, which have none."""
        group = self.groups[index]
        if group is Group.HAND:
            return None
        framing = Framing.HEAD if group in HEADS else Framing.BODY
        return Bucket(framing, view_of(self.azimuths[index]))

    def joints(self) -> Float[np.ndarray, "V 18 2"]:
        """OpenPose's body points in pixels."""
        points = openpose_keypoints(neutral_body("cpu"), self.posed).body
        return project(points, self.cameras)[0].numpy().astype(np.float64)

    def head_sizes(self) -> list[float]:
        """Longer side of the head in pixels."""
        return [head.span for head in find_heads(self.posed, self.cameras)]

    def bare(self) -> Bool[np.ndarray, "V S S"]:
        """The pixels of the undressed body."""
        depth = mesh_depth(self.posed.vertices.numpy(), self.posed.faces.numpy(), self.cameras)
        return np.isfinite(depth)

    @torch.no_grad()
    def pose_maps(self, size: int) -> Float[Tensor, "V size size 3"]:
        """Pose maps with hands and face."""
        keypoints = openpose_keypoints(neutral_body("cpu"), self.posed)
        return render_pose_map(keypoints, self.cameras, body_depth(self.posed, self.cameras), size=size)


def subject_pose(index: int, seed: int) -> Pose:
    """The pose of a subject, the same for all sources of images."""
    some = generator(seed, index, "judged pose")
    low, high = SPREADS
    drawn = low + (high - low) * float(torch.rand((), generator=some))
    return random_pose(some, SMALL_SPREAD if index % 2 == 0 else drawn)


def judged_views(posed: PosedBody, index: int, seed: int) -> JudgedViews:
    """The views of a subject: ``VIEWS_PER_GROUP`` in each group.

    Args:
        posed: the free body in the subject's shape and pose, on the CPU.
        index: of the subject.
        seed: of all subjects.
    """
    rng = np.random.default_rng([seed, index, 70_000])
    forward = posed.T_posed_rest[HEAD_JOINT, :3, 2]
    yaw = math.atan2(float(forward[0]), float(forward[2]))
    groups, azimuths, cameras = [], [], []
    for group, (low, high) in RANGES.items():
        for view in range(VIEWS_PER_GROUP):
            azimuth = math.radians(rng.uniform(low, high)) * (-1) ** view
            groups.append(group)
            azimuths.append(azimuth)
            if group is Group.HAND:
                cameras.append(hand_camera(posed, azimuth, rng, SIZE))
            else:
                framing, turn = (Framing.HEAD, yaw) if group in HEADS else (Framing.BODY, 0.0)
                cameras.append(fixed_views(posed, [framing], [math.degrees(azimuth + turn)], SIZE).cameras)
    T = torch.cat([camera.T_camera_world for camera in cameras])
    K = torch.cat([camera.K for camera in cameras])
    return JudgedViews(posed, tuple(groups), tuple(azimuths), Cameras(T, K, SIZE, SIZE))
