"""How far an avatar's splats tear apart in extreme poses: ``python -m avatar_gs.lab.metrics.tearing outputs/anna``.

Compares the weights of the optimisation with those of finished avatars (``splats.binding``) in 60 poses: each large
joint turned by 60 degrees about each axis, both ways, arms overhead, a high kick, a squat.
"""

import math
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt

from avatar_gs.body.config import BodyConfig
from avatar_gs.body.model import Body, load_body
from avatar_gs.body.pose import JOINT, Pose, a_pose, pose_of
from avatar_gs.core.runs import RunFolder, read_config
from avatar_gs.export.antialias import widened
from avatar_gs.geometry import axis_angle_to_matrix, matrix_to_quat, project
from avatar_gs.render.cameras import orbit
from avatar_gs.render.config import CamerasConfig
from avatar_gs.render.rasterize import rasterize
from avatar_gs.splats.binding import BoundModel
from avatar_gs.splats.config import SplatsConfig
from avatar_gs.splats.model import GaussianModel
from avatar_gs.splats.neighbours import Points
from avatar_gs.splats.posing import Attachment, Triangles
from avatar_gs.training.state import load_avatar
from avatar_gs.types import Cameras, PosedBody

ANGLE = math.radians(60)
BALLS = (
    "left_shoulder", "left_hip", "spine1", "spine2", "spine3", "neck", "head", "left_wrist", "left_ankle",
)  # fmt: skip
"""Joints that are turned about three axes; bodies are symmetric, so that one side is enough."""
VISIBLE = 0.1
NEIGHBOURS, NEAR = 6, 0.025
"""Pairs of splats that should stay together: nearest ones within 2.5 cm in the A-pose."""
OLD_SIZE = 128
"""Pixels of the renders of runs that do not record it."""
PIXELS, FOV = 384, math.radians(20)
HOLES_AT = tuple(JOINT[f"{side}_{joint}"] for side in ("left", "right") for joint in ("shoulder", "hip", "knee"))
AROUND = 0.15
"""Metres from these joints within which holes are looked for."""
RIM = 0.01
"""Metres inside the body's silhouette within which a render may be transparent."""


@dataclass(frozen=True)
class Tear:
    """Measurements in one pose."""

    parted: float
    """Fraction of neighbours that part by more than 1 cm."""
    parted_far: float
    """… by more than 2 cm."""
    stray: float
    """Fraction of splats that move away from the point of the skin below them by more than 2 cm."""
    hole: float
    """Diameter in metres of the widest hole at armpits, crotch and hem, from the front and the side."""


def extreme_poses() -> dict[str, Pose]:
    """The poses by name."""
    found = {}
    for joint in BALLS:
        for axis in range(3):
            for sign in (1, -1):
                turn = torch.zeros(3)
                turn[axis] = sign * ANGLE
                pose = a_pose()
                both = axis_angle_to_matrix(turn) @ axis_angle_to_matrix(pose.axis_angles[JOINT[joint]])
                quat = matrix_to_quat(both)
                angle = 2 * torch.acos(quat[0].clamp(-1, 1))
                pose.axis_angles[JOINT[joint]] = angle * torch.nn.functional.normalize(quat[1:], dim=0)
                found[f"{joint} {'xyz'[axis]}{'+' if sign > 0 else '-'}"] = pose
    others = {
        "left_elbow": pose_of(left_elbow=(0, -ANGLE, 0)),
        "left_knee": pose_of(left_knee=(ANGLE, 0, 0)),
        "right_knee": pose_of(right_knee=(ANGLE, 0, 0)),
        "arms overhead": pose_of(left_shoulder=(0, 0, 1.2), right_shoulder=(0, 0, -1.2)),
        "high kick": pose_of(left_hip=(-1.5, 0, 0.1)),
        "squat": pose_of(
            left_hip=(-1.6, 0, 0.3), right_hip=(-1.6, 0, -0.3), left_knee=(1.8, 0, 0), right_knee=(1.8, 0, 0)
        ),
    }
    for name, changes in others.items():
        turned = changes.axis_angles.abs().sum(1, keepdim=True) > 0
        found[name] = Pose(torch.where(turned, changes.axis_angles, a_pose().axis_angles), torch.zeros(3))
    return found


def skin_below(model: GaussianModel, body: Body) -> Attachment:
    """The points of the skin that the splats are above, at rest."""
    rest = body.rest()
    return Triangles(rest.vertices, rest.faces).attach(model.params["means"].detach())


@torch.no_grad()
def measure(model: GaussianModel, body: Body, below: Attachment, pose: Pose) -> Tear:
    """Compare a pose with the A-pose."""
    standing, posed = body.pose(a_pose()), body.pose(pose)
    before, after = model.pose(standing), model.pose(posed)
    visible = before.opacities > VISIBLE
    distances, index = Points(before.means).nearest(before.means, NEIGHBOURS + 1)
    distances, index = distances[:, 1:].float(), index[:, 1:]
    together = (distances < NEAR) & visible[:, None] & visible[index]
    grown = ((after.means[:, None] - after.means[index]).norm(dim=-1) - distances)[together]
    heights = [
        (splats.means - below.interpolate(shown.vertices)).norm(dim=1)[visible]
        for splats, shown in ((before, standing), (after, posed))
    ]
    return Tear(
        float((grown > 0.01).double().mean()),
        float((grown > 0.02).double().mean()),
        float((heights[1] - heights[0] > 0.02).double().mean()),
        max(_widest_hole(model, posed, azimuth) for azimuth in (0.0, 90.0)),
    )


def _widest_hole(model: GaussianModel, posed: PosedBody, azimuth: float) -> float:
    low, high = posed.vertices.amin(0), posed.vertices.amax(0)
    span = 1.1 * (high - low).amax()[None]
    around = torch.tensor([math.radians(azimuth)])
    camera = orbit(((low + high) / 2)[None], span, around, torch.tensor([0.05]), torch.tensor([FOV]), PIXELS)
    alpha = rasterize(model.pose(posed), camera, torch.ones(1, 3)).alpha[0, ..., 0].numpy()
    metres = float(span) / PIXELS
    inside = np.asarray(distance_transform_edt(silhouette(posed, camera))) * metres > RIM
    rows, columns = np.indices(inside.shape) + 0.5
    near = np.zeros_like(inside)
    for column, row in project(posed.joints[list(HOLES_AT)], camera)[0][0].tolist():
        near |= np.hypot(rows - row, columns - column) * metres < AROUND
    holes = np.asarray(distance_transform_edt(inside & near & (alpha < 0.5)))
    return 2 * metres * float(holes.max())


def silhouette(posed: PosedBody, camera: Cameras) -> Bool[np.ndarray, "H W"]:
    """The pixels that the body covers."""
    image = np.zeros((camera.height, camera.width), np.uint8)
    corners = (project(posed.vertices, camera)[0][0].numpy() * 16).round().astype(np.int32)
    for triangle in corners[posed.faces.numpy()]:
        cv2.fillConvexPoly(image, triangle, 1, shift=4)
    return image > 0


def table(before: list[Tear], after: list[Tear]) -> str:
    """Means and worst poses of two models."""
    lines = [f"{'':<12}{'mean before':>14}{'after':>9}{'worst before':>15}{'after':>9}"]
    for entry in fields(Tear):
        values: list[Float[np.ndarray, " P"]] = [
            np.array([getattr(tear, entry.name) for tear in tears]) for tears in (before, after)
        ]
        numbers = [value for function in (np.mean, np.max) for value in map(function, values)]
        lines.append(
            f"{entry.name:<12}" + "".join(f"{n:>{w}.4f}" for n, w in zip(numbers, (14, 9, 15, 9), strict=True))
        )
    return "\n".join(lines)


def main(run: str) -> None:
    """Print the table of a run."""
    body = load_body(BodyConfig(**read_config(Path(run))["body"]))
    model, size = load_avatar(RunFolder(run).avatar_checkpoint, SplatsConfig())
    model = widened(model, body, CamerasConfig(), size or OLD_SIZE)
    bound = BoundModel(model, body.rest(), body.pose(a_pose()), body.weights)
    below, poses = skin_below(model, body), extreme_poses()
    before, after = ([measure(one, body, below, pose) for pose in poses.values()] for one in (model, bound))
    print(f"{run}: {len(model)} splats in {len(poses)} poses (fractions; hole in metres)\n{table(before, after)}")


if __name__ == "__main__":
    main(sys.argv[1])
