"""The packaged motions: feet do not slide, joints stay within their limits, loops close, nothing jumps."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from avatar_gs.body.config import BodyConfig
from avatar_gs.body.files import FREE_BODY
from avatar_gs.body.model import Body, load_body
from avatar_gs.body.pose import JOINT
from avatar_gs.motion.clip import Motion
from avatar_gs.motion.kinematics import joint_transforms, skinned
from avatar_gs.motion.packaged import PACKAGED

NAMES = sorted(PACKAGED)
MILLIMETRE = 0.001


@pytest.fixture(scope="session", params=[[], [1.2, 0.5, -0.5, 1.0, -1.5, 1.0]], ids=["mean", "other"])
def figure(request: pytest.FixtureRequest) -> Body:
    """The mean body, and one of other proportions."""
    return load_body(BodyConfig(path=str(FREE_BODY), betas=request.param))


def soles(body: Body) -> torch.Tensor:
    """The vertices on which it stands: those within 4 mm of the ground in the T-pose."""
    vertices, _ = body.shaped()
    return (vertices[:, 1] < vertices[:, 1].min() + 4 * MILLIMETRE).nonzero()[:, 0]


def posed(body: Body, motion: Motion) -> tuple[np.ndarray, np.ndarray]:
    """Vertices of the soles [F, S, 3] on the ground's frame, and the joints [F, 55, 3]."""
    vertices, joints = (values.double().numpy() for values in body.shaped())
    picked = soles(body)
    rotations, positions = joint_transforms(motion, joints)
    points = skinned(vertices[picked], body.weights[picked].double().numpy(), rotations, positions, joints)
    travelled = np.array(motion.velocity) * np.arange(len(motion))[:, None] / motion.fps
    return points + travelled[:, None], positions


def test_the_kinematics_are_the_bodys(figure: Body) -> None:
    motion = PACKAGED["walk"](figure)
    points, positions = posed(figure, motion)
    frame = 7
    expected = figure.pose(motion.pose(frame))
    np.testing.assert_allclose(positions[frame], expected.joints.numpy(), atol=1e-5)
    moved = np.array(motion.velocity) * frame / motion.fps
    np.testing.assert_allclose(points[frame] - moved, expected.vertices[soles(figure)].numpy(), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_feet_do_not_slide_nor_sink(figure: Body, name: str) -> None:
    motion = PACKAGED[name](figure)
    points, _ = posed(figure, motion)
    assert points[..., 1].min() > -6 * MILLIMETRE, "nothing sinks into the ground"
    down = points[..., 1] < 2 * MILLIMETRE
    planted = down[1:] & down[:-1]  # on the ground in two frames in a row
    moved = np.linalg.norm(np.diff(points, axis=0)[..., [0, 2]], axis=-1)
    assert planted.sum() > 100
    assert moved[planted].max() < 4 * MILLIMETRE, "a sole that is down stays where it is"
    assert moved[planted].mean() < 0.5 * MILLIMETRE


@pytest.mark.parametrize("name", NAMES)
def test_someone_stands_on_the_ground(figure: Body, name: str) -> None:
    points, joints = posed(figure, PACKAGED[name](figure))
    lowest = points[..., 1].min(1)
    on_ground = (lowest < 3 * MILLIMETRE).mean()
    assert on_ground > (0.6 if name == "run" else 0.99), "only a runner leaves the ground"
    assert joints[:, JOINT["head"], 1].max() < joints[0, JOINT["head"], 1] + 0.12


@pytest.mark.parametrize("name", NAMES)
def test_loops_close_and_nothing_jumps(figure: Body, name: str) -> None:
    motion = PACKAGED[name](figure)
    assert motion.loops
    assert 0.5 < motion.seconds < 10
    around = np.concatenate([np.arange(len(motion)), [0, 1]])
    rotations = [Rotation.from_rotvec(motion.axis_angles[around, joint]) for joint in range(55)]
    steps = np.stack([(r[:-1].inv() * r[1:]).magnitude() for r in rotations], 1)
    assert np.rad2deg(steps.max()) < 32, "degrees from one frame to the next, a runner's knee included"
    assert np.rad2deg(steps[-2:].max()) < 32, "the last frame leads to the first"
    shift = np.linalg.norm(np.diff(motion.translation[around], axis=0), axis=1)
    assert shift.max() < 0.05
    accelerations = np.diff(motion.translation[around], 2, axis=0)
    assert np.abs(accelerations).max() * motion.fps**2 < 40, "metres per second squared"


# Degrees from the T-pose, of everyday movements: the angle of the whole rotation.
LIMITS = {
    "hip": 125, "knee": 150, "ankle": 55, "foot": 60, "spine1": 30, "spine2": 30, "spine3": 30, "neck": 35, "head": 45,
    "collar": 30, "shoulder": 160, "elbow": 150, "wrist": 60,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_joints_stay_within_their_limits(figure: Body, name: str) -> None:
    motion = PACKAGED[name](figure)
    degrees = np.rad2deg(np.linalg.norm(motion.axis_angles, axis=-1)).max(0)
    for joint, limit in LIMITS.items():
        for full in (joint, f"left_{joint}", f"right_{joint}"):
            if full in JOINT:
                assert degrees[JOINT[full]] < limit, full
    knees = motion.axis_angles[:, [JOINT["left_knee"], JOINT["right_knee"]]]
    assert knees[..., 0].min() > 0, "a knee bends backwards only"
    assert np.abs(knees[..., 1:]).max() < 1e-3, "and about one axis"
    left, right = (motion.axis_angles[:, JOINT[f"{side}_elbow"], 1] for side in ("left", "right"))
    assert left.max() <= 0 <= right.min(), "an elbow bends forwards only"


def test_each_does_what_it_is_called(figure: Body) -> None:
    joints = {name: posed(figure, PACKAGED[name](figure))[1] for name in NAMES}

    def height(name: str, joint: str) -> np.ndarray:
        return joints[name][:, JOINT[joint], 1]

    head = height("stand", "head").mean()
    assert np.ptp(height("stand", "head")) < 0.02
    assert (height("wave", "right_wrist") > height("wave", "right_shoulder")).mean() > 0.4
    assert np.ptp(joints["wave"][50:90, JOINT["right_wrist"], 0]) > 0.1, "and it swings"
    assert height("squat", "pelvis").min() < 0.62 * height("squat", "pelvis").max()
    assert abs(height("sit", "pelvis") - height("sit", "left_knee")).min() < 0.08, "thighs are level"
    assert height("bow", "head").min() < 0.8 * head
    assert height("run", "left_knee").max() > 0.6 * height("run", "pelvis").mean()
    assert abs(height("point", "left_wrist") - height("point", "left_shoulder")).min() < 0.12
    assert np.ptp(joints["dance"][:, 0, 0]) > 0.15
    walk = PACKAGED["walk"](figure)
    assert 0.7 < walk.velocity[2] < 1.5, "metres per second"
    turned = Rotation.from_rotvec(PACKAGED["turn"](figure).axis_angles[:, 0]).as_matrix()[:, :, 2]
    assert turned[:, 2].min() < -0.99, "it sees what was behind it"
