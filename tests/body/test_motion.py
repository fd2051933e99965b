"""Posing: smplx's own skinning, exactly the right vertices in the right direction, and limbs that keep their volume."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from avatar_gs.body.config import BodyConfig
from avatar_gs.body.model import EXTRA_POINTS, Body, load_body
from avatar_gs.body.pose import JOINT, PARENTS, Pose, a_pose, pose_of, random_pose, zero_pose
from avatar_gs.types import PosedBody

RIGHT_ANGLE = math.pi / 2


def moved(body: Body, posed: PosedBody) -> Tensor:
    return (posed.vertices - body.rest().vertices).norm(dim=1)


def below(joint: str) -> list[int]:
    """A joint and all that hangs on it."""
    found = [JOINT[joint]]
    for k, parent in enumerate(PARENTS):
        if parent in found:
            found.append(k)
    return found


def point(body: Body, posed: PosedBody, name: str) -> Tensor:
    return posed.vertices[body.extra_points[EXTRA_POINTS.index(name)]]


@pytest.mark.parametrize("joint", ["left_elbow", "right_knee", "left_shoulder", "right_hip", "left_index1", "head"])
def test_a_bend_moves_what_hangs_on_the_joint_and_nothing_else(body: Body, joint: str) -> None:
    posed = body.pose(pose_of(**{joint: (0.3, 0.9, -0.6)}))
    weight = body.weights[:, below(joint)].sum(1)
    assert moved(body, posed)[weight == 0].max() < 1e-5
    assert weight[weight > 0].numel() > 50
    rigid = weight > 1 - 1e-6
    rest, pivot = body.rest(), body.rest().joints[JOINT[joint]]
    R = posed.T_posed_rest[JOINT[joint], :3, :3]
    expected = (rest.vertices[rigid] - pivot) @ R.T + pivot
    assert torch.allclose(posed.vertices[rigid], expected, atol=1e-5)
    assert not torch.allclose(R, torch.eye(3), atol=0.1)


def test_left_elbow_bends_the_forearm_forwards(body: Body) -> None:
    posed, rest = body.pose(pose_of(left_elbow=(0, -RIGHT_ANGLE, 0))), body.rest()
    elbow, wrist = posed.joints[JOINT["left_elbow"]], posed.joints[JOINT["left_wrist"]]
    length = (rest.joints[JOINT["left_wrist"]] - elbow).norm()
    assert torch.allclose(wrist, elbow + torch.tensor([0.0, 0.0, float(length)]), atol=0.01)
    x, distance = rest.vertices[:, 0], moved(body, posed)
    assert distance[x > elbow[0] + 0.06].min() > 0.05  # the whole forearm and hand
    assert distance[x < elbow[0] - 0.12].max() < 5e-3  # next to nothing of the upper half of the upper arm
    assert distance[x < rest.joints[JOINT["left_shoulder"], 0]].max() < 1e-5
    assert posed.vertices[x > elbow[0] + 0.06][:, 2].min() > 0


def test_raised_arm_goes_up(body: Body) -> None:
    posed, rest = body.pose(pose_of(right_shoulder=(0, 0, -RIGHT_ANGLE))), body.rest()
    shoulder, wrist = posed.joints[JOINT["right_shoulder"]], posed.joints[JOINT["right_wrist"]]
    assert wrist[1] - shoulder[1] > 0.45
    assert abs(wrist[0] - shoulder[0]) < 0.03
    x, distance = rest.vertices[:, 0], moved(body, posed)
    assert distance[x < shoulder[0] - 0.12].min() > 0.1
    assert distance[x > 0.02].max() < 0.01  # the other half of the body
    assert distance[rest.vertices[:, 1] < 0.2].max() < 0.01  # belly and legs


def test_bent_knee_takes_the_shin_back(body: Body) -> None:
    posed, rest = body.pose(pose_of(left_knee=(RIGHT_ANGLE, 0, 0))), body.rest()
    knee, ankle = posed.joints[JOINT["left_knee"]], posed.joints[JOINT["left_ankle"]]
    assert ankle[2] - knee[2] < -0.35
    assert abs(ankle[1] - knee[1]) < 0.03
    v, distance = rest.vertices, moved(body, posed)
    left = v[:, 0] > 0
    assert distance[left & (v[:, 1] < knee[1] - 0.08)].min() > 0.05
    assert distance[left & (v[:, 1] > knee[1] + 0.2)].max() < 1e-5
    assert distance[~left].max() < 1e-5


def test_finger_curl_closes_the_palm(body: Body) -> None:
    curl = {f"left_index{k}": (0.0, 0.0, -0.9) for k in (1, 2, 3)}
    posed, rest = body.pose(pose_of(**curl)), body.rest()
    tip, straight = point(body, posed, "left_index"), point(body, rest, "left_index")
    assert tip[1] < straight[1] - 0.01  # down, where the palm is
    assert tip[0] < straight[0] - 0.03  # and back towards the wrist
    distance = moved(body, posed)
    for other in ("left_thumb", "left_middle", "left_pinky", "right_index"):
        assert (point(body, posed, other) - point(body, rest, other)).norm() < 1e-5
    assert distance[(rest.vertices - rest.joints[JOINT["left_index1"]]).norm(dim=1) > 0.12].max() < 1e-5
    fingertip = (rest.vertices - point(body, rest, "left_index")).norm(dim=1) < 0.012
    assert fingertip.sum() > 10
    assert distance[fingertip].min() > 0.03


def test_head_turn_looks_to_the_left_and_leaves_the_trunk(body: Body) -> None:
    posed, rest = body.pose(pose_of(head=(0, 0.8, 0))), body.rest()
    assert point(body, posed, "nose")[0] > 0.06
    assert point(body, posed, "left_ear")[2] < point(body, rest, "left_ear")[2] - 0.04
    distance, height = moved(body, posed), rest.vertices[:, 1]
    neck = rest.joints[JOINT["neck"]]
    off_axis = (rest.vertices[:, [0, 2]] - rest.joints[JOINT["head"], [0, 2]]).norm(dim=1) > 0.03
    assert distance[(height > rest.joints[JOINT["head"], 1] + 0.02) & off_axis].min() > 0.01
    assert distance[height < neck[1] - 0.06].max() < 1e-3
    assert distance[(rest.vertices[:, 0].abs() > 0.2)].max() < 1e-5


def limb(body: Body, joints: list[str]) -> tuple[np.ndarray, list[list[int]]]:
    """The triangles of a limb and the rims where it is cut off the body (each closed by a fan to its middle)."""
    mine = np.isin(body.weights.argmax(1).numpy(), [JOINT[name] for name in joints])
    faces = body.faces.numpy()
    faces = faces[mine[faces].all(1)]
    edges = {edge for a, b, c in faces.tolist() for edge in ((a, b), (b, c), (c, a))}
    follow = {b: a for a, b in edges if (b, a) not in edges}
    rims = []
    while follow:
        start, rim = next(iter(follow)), []
        while start in follow:
            rim.append(start)
            start = follow.pop(start)
        rims.append(rim)
    return faces, rims


def volume(vertices: np.ndarray, faces: np.ndarray, rims: list[list[int]]) -> float:
    total = np.einsum("fi,fi->", vertices[faces[:, 0]], np.cross(vertices[faces[:, 1]], vertices[faces[:, 2]]))
    for rim in rims:
        ring = vertices[rim]
        total += (np.cross(ring, np.roll(ring, -1, 0)) @ ring.mean(0)).sum()
    return float(total / 6)


ARM = ["left_shoulder", "left_elbow", "left_wrist"]
LEG = ["right_hip", "right_knee", "right_ankle", "right_foot"]
HAND = ["left_wrist", *(f"left_{f}{k}" for f in ("index", "middle", "ring", "pinky", "thumb") for k in (1, 2, 3))]
SIXTY = math.pi / 3
BENDS = [
    *[(ARM, "left_elbow", axis) for axis in ((0, -1, 0), (0, 0, 1), (1, 0, 0))],
    *[(ARM, "left_shoulder", axis) for axis in ((0, 0, -1), (0, 0, 1), (0, -1, 0), (1, 0, 0))],
    *[(HAND, "left_wrist", axis) for axis in ((0, 0, -1), (0, 0, 1))],
    (LEG, "right_knee", (1, 0, 0)),
    *[(LEG, "right_hip", axis) for axis in ((-1, 0, 0), (0, 0, -1), (0, 1, 0))],
    *[(LEG, "right_ankle", axis) for axis in ((1, 0, 0), (-1, 0, 0))],
    *[(HAND, f"left_{finger}{k}", (0, 0, -1)) for finger in ("index", "pinky", "thumb") for k in (1, 2, 3)],
    *[(["neck", "head"], joint, axis) for joint in ("neck", "head") for axis in ((0, 1, 0), (1, 0, 0))],
]


@pytest.mark.parametrize(("joints", "joint", "axis"), BENDS, ids=lambda value: value if isinstance(value, str) else "")
def test_limbs_keep_their_volume(body: Body, joints: list[str], joint: str, axis: tuple[int, int, int]) -> None:
    faces, rims = limb(body, joints)
    rest = volume(body.rest().vertices.double().numpy(), faces, rims)
    bend = pose_of(**{joint: (SIXTY * axis[0], SIXTY * axis[1], SIXTY * axis[2])})
    bent = volume(body.pose(bend).vertices.double().numpy(), faces, rims)
    assert rest > 1e-4
    assert bent / rest == pytest.approx(1, abs=0.1)


def test_posing_is_that_of_smplx(body: Body) -> None:
    import smplx

    pose = random_pose(torch.Generator().manual_seed(0), 1.5)
    pose = Pose(pose.axis_angles, torch.tensor([0.1, -0.2, 0.3]))
    betas = torch.linspace(-1, 1, 10)
    theirs = smplx.create(str(body.path), ext="npz", use_pca=False, flat_hand_mean=True)
    a = pose.axis_angles.flatten()[None]
    with torch.no_grad():
        output = theirs(
            betas=betas[None], global_orient=a[:, :3], body_pose=a[:, 3:66], jaw_pose=a[:, 66:69],
            leye_pose=a[:, 69:72], reye_pose=a[:, 72:75], left_hand_pose=a[:, 75:120], right_hand_pose=a[:, 120:],
            transl=pose.translation[None],
        )  # fmt: skip
    posed = body.pose(pose, betas)
    assert torch.allclose(posed.vertices, output.vertices[0], atol=1e-5)
    assert torch.allclose(posed.joints, output.joints[0, :55], atol=1e-5)
    assert np.array_equal(posed.faces.numpy(), theirs.faces)


def test_transforms_take_rest_points_to_posed_ones(body: Body) -> None:
    pose = random_pose(torch.Generator().manual_seed(1))
    pose = Pose(pose.axis_angles, torch.tensor([0.5, 0.0, -0.4]))
    posed, rest = body.pose(pose), body.rest()
    blended = torch.einsum("vj,jab->vab", body.weights, posed.T_posed_rest)
    skinned = (blended[:, :3, :3] @ rest.vertices[..., None])[..., 0] + blended[:, :3, 3]
    assert torch.allclose(skinned, posed.vertices, atol=1e-5)
    joints = (posed.T_posed_rest[:, :3, :3] @ rest.joints[..., None])[..., 0] + posed.T_posed_rest[:, :3, 3]
    assert torch.allclose(joints, posed.joints, atol=1e-5)


def test_posing_is_differentiable_in_pose_and_betas(body: Body) -> None:
    angles = a_pose().axis_angles.clone().requires_grad_()
    betas = torch.zeros(10, requires_grad=True)
    height = body.pose(Pose(angles, torch.zeros(3)), betas).joints[JOINT["left_wrist"], 1]
    height.backward()
    assert angles.grad is not None
    assert betas.grad is not None
    nudge = torch.zeros(55, 3)
    nudge[JOINT["left_shoulder"], 2] = 1e-2
    up = body.pose(Pose(a_pose().axis_angles + nudge, torch.zeros(3))).joints[JOINT["left_wrist"], 1]
    down = body.pose(Pose(a_pose().axis_angles - nudge, torch.zeros(3))).joints[JOINT["left_wrist"], 1]
    assert float(angles.grad[JOINT["left_shoulder"], 2]) == pytest.approx(float(up - down) / 2e-2, rel=1e-2)
    assert abs(float(betas.grad[4])) > 1e-3


def test_configured_betas_shape_the_body(body: Body) -> None:
    tall = load_body(BodyConfig(path=str(body.path), betas=[0.0, 0.0, 0.0, 0.0, 1.0]))
    assert torch.allclose(tall.rest().vertices, body.pose(zero_pose(), torch.tensor([0, 0, 0, 0, 1.0])).vertices)
    assert tall.rest().vertices[:, 1].max() > body.rest().vertices[:, 1].max() + 0.05


def test_random_poses_stand_naturally_and_follow_their_generator(body: Body) -> None:
    def draw(seed: int, scale: float = 1.0) -> Tensor:
        return random_pose(torch.Generator().manual_seed(seed), scale).axis_angles

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert torch.equal(draw(0, 0.0), a_pose().axis_angles)
    angles = torch.stack([draw(seed) for seed in range(60)])
    assert angles[:, JOINT["left_elbow"], 1].max() <= 0  # elbows bend forwards only
    assert angles[:, JOINT["right_elbow"], 1].min() >= 0
    assert angles[:, [JOINT["left_knee"], JOINT["right_knee"]], 0].min() >= 0  # knees backwards only
    assert angles[:, JOINT["left_elbow"], 1].min() < -1.3
    turns = angles[:, JOINT["head"], 1] + angles[:, JOINT["neck"], 1]
    assert -0.45 < turns.min() < -0.25 < 0.25 < turns.max() < 0.45
    for seed in range(8):
        joints = body.pose(random_pose(torch.Generator().manual_seed(seed))).joints
        assert joints[JOINT["head"], 1] > joints[JOINT["pelvis"], 1] + 0.4
        assert joints[[JOINT["left_ankle"], JOINT["right_ankle"]], 1].max() < -0.5
        assert joints[JOINT["left_ankle"], 0] > joints[JOINT["right_ankle"], 0]  # legs do not cross


def test_pose_of_knows_its_joints() -> None:
    with pytest.raises(KeyError):
        pose_of(left_elbwo=(0, 0, 1))
