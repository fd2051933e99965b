"""The free body at rest: joints inside their parts, fixed vertices where their names say, betas as documented."""

import numpy as np
import pytest
import torch
from torch import Tensor

from avatar_gs.body.free import PHENOTYPES
from avatar_gs.body.model import EXTRA_POINTS, Body
from avatar_gs.body.pose import JOINT, JOINTS, PARENTS


def winding_numbers(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """How often a closed surface winds around each point: 0 outside, 1 inside (Van Oosterom and Strackee, 1983)."""
    a, b, c = (vertices[faces[:, k]][None] - points[:, None] for k in range(3))
    la, lb, lc = (np.linalg.norm(x, axis=-1) for x in (a, b, c))
    top = np.einsum("pfi,pfi->pf", a, np.cross(b, c))
    bottom = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
    return (2 * np.arctan2(top, bottom)).sum(1) / (4 * np.pi)


def parts(body: Body) -> np.ndarray:
    """The joint that moves each vertex most."""
    return body.weights.argmax(1).numpy()


SHAPES = [[], [1.0], [0, -1.0], [0, 1.0], [0, 0, 0, 1.5], [0, 0, 0, 0, -1.0], [0, 0, 0, 0, 1.0]]


@pytest.mark.parametrize("betas", SHAPES, ids=str)
def test_every_joint_lies_inside_the_body(body: Body, betas: list[float]) -> None:
    vertices, joints = body.shaped(torch.tensor(betas))
    inside = winding_numbers(joints.double().numpy(), vertices.double().numpy(), body.faces.numpy())
    assert [name for name, winding in zip(JOINTS, inside, strict=True) if winding < 0.9] == []
    ahead = joints.double().numpy() + np.array([0, 0, 1.0])
    outside = winding_numbers(ahead, vertices.double().numpy(), body.faces.numpy())
    assert np.abs(outside).max() < 0.1


@pytest.mark.parametrize("betas", SHAPES, ids=str)
def test_every_joint_lies_where_its_part_begins(body: Body, betas: list[float]) -> None:
    """The flesh around a joint belongs to it and to its parent, each with a weight."""
    vertices, joints = body.shaped(torch.tensor(betas))
    near = torch.cdist(joints, vertices).topk(60, largest=False).indices.numpy()
    around = body.weights.numpy()[near].mean(1)
    for joint, name in enumerate(JOINTS):
        if name in ("pelvis", "jaw", "left_eye", "right_eye"):
            continue
        own = around[joint, joint] + around[joint, PARENTS[joint]]
        own += sum(around[joint, child] for child in range(55) if PARENTS[child] == joint)
        assert own > 0.65, (name, own)  # a collar bone lies under skin that spine and neck move too
        assert around[joint, joint] > 0.05, name
    assert around[JOINT["jaw"], JOINT["head"]] > 0.9  # the jaw has no weights of its own yet
    for eye in ("left_eye", "right_eye"):
        ball = vertices[parts(body) == JOINT[eye]]
        assert (joints[JOINT[eye]] - (ball.amin(0) + ball.amax(0)) / 2).norm() < 2e-3


def test_joints_mirror_each_other(body: Body) -> None:
    joints = body.rest().joints
    for name in JOINTS:
        if name.startswith("left_"):
            mirrored = joints[JOINT[name.replace("left", "right")]] * torch.tensor([-1.0, 1.0, 1.0])
            assert (joints[JOINT[name]] - mirrored).norm() < 2e-3, name
            assert joints[JOINT[name], 0] > 0.01, name  # the left is at +x


def test_rest_is_a_t_pose_that_faces_z(body: Body) -> None:
    rest = body.rest()
    j = {name: rest.joints[k] for name, k in JOINT.items()}
    assert j["pelvis"].abs().max() < 1e-5
    for a, b, direction in (
        ("left_shoulder", "left_elbow", (1, 0, 0)),
        ("left_elbow", "left_wrist", (1, 0, 0)),
        ("right_shoulder", "right_wrist", (-1, 0, 0)),
        ("left_hip", "left_knee", (0, -1, 0)),
        ("right_knee", "right_ankle", (0, -1, 0)),
        ("pelvis", "head", (0, 1, 0)),
    ):
        along = torch.nn.functional.normalize(j[b] - j[a], dim=0)
        assert along @ torch.tensor(direction, dtype=torch.float32) > 0.995, (a, b)
    assert j["left_foot"][2] > j["left_ankle"][2] + 0.1  # toes to +z
    assert 1.5 < float(rest.vertices[:, 1].max() - rest.vertices[:, 1].min()) < 1.8


def test_the_21_fixed_vertices_are_those_points(body: Body) -> None:
    rest = body.rest()
    v, j = rest.vertices, {name: rest.joints[k] for name, k in JOINT.items()}
    point: dict[str, Tensor] = dict(zip(EXTRA_POINTS, v[body.extra_points], strict=True))
    part: dict[str, int] = dict(zip(EXTRA_POINTS, parts(body)[body.extra_points.numpy()], strict=True))
    assert len(set(body.extra_points.tolist())) == 21

    head = v[parts(body) == JOINT["head"]]
    below_eyes = head[head[:, 1] < j["left_eye"][1]]
    assert part["nose"] == JOINT["head"]
    assert abs(point["nose"][0]) < 0.005
    assert point["nose"][2] >= below_eyes[:, 2].max() - 1e-4  # nothing of the face stands out farther
    for side, x in (("left", 1.0), ("right", -1.0)):
        eye, ear = point[f"{side}_eye"], point[f"{side}_ear"]
        assert part[f"{side}_eye"] == JOINT[f"{side}_eye"]
        assert (eye - j[f"{side}_eye"])[2] > 0.98 * (eye - j[f"{side}_eye"]).norm()  # the pupil, straight ahead
        assert x * ear[0] > 0.9 * head[:, 0].max()
        assert abs(ear[1] - j[f"{side}_eye"][1]) < 0.04
        assert ear[2] < j[f"{side}_eye"][2] - 0.04
        for finger in ("thumb", "index", "middle", "ring", "pinky"):
            last = JOINT[f"{side}_{finger}3"]
            tip, mine = point[f"{side}_{finger}"], v[parts(body) == last]
            assert part[f"{side}_{finger}"] == last
            assert (mine - j[f"{side}_{finger}2"]).norm(dim=1).max() - (tip - j[f"{side}_{finger}2"]).norm() < 1e-3
        foot = v[torch.from_numpy(np.isin(parts(body), [JOINT[f"{side}_ankle"], JOINT[f"{side}_foot"]]))]
        big, small, heel = (point[f"{side}_{name}"] for name in ("big_toe", "small_toe", "heel"))
        assert big[2] > foot[:, 2].max() - 0.005
        outermost = foot[x * foot[:, 0] > x * small[0] - 0.005]
        assert small[2] > outermost[:, 2].max() - 0.005  # the tip of the outer edge
        assert small[2] > j[f"{side}_foot"][2]
        assert x * small[0] > x * big[0] + 0.05
        assert heel[2] < foot[:, 2].min() + 0.01
        assert max(p[1] for p in (big, small, heel)) < foot[:, 1].min() + 0.03


def measures(body: Body, betas: list[float]) -> dict[str, float]:
    vertices, joints = body.shaped(torch.tensor(betas))
    v, f = vertices.double(), body.faces
    trunk = np.isin(parts(body), [JOINT[name] for name in ("pelvis", "spine1", "spine2", "spine3")])

    def width(height: float) -> float:
        ring = v[torch.from_numpy(trunk) & ((v[:, 1] - height).abs() < 0.02)]
        return float(ring[:, 0].max() - ring[:, 0].min())

    tall = float(v[:, 1].max() - v[:, 1].min())
    return {
        "height": tall,
        "litres": float((v[f[:, 0]] * torch.linalg.cross(v[f[:, 1]], v[f[:, 2]])).sum() / 6) * 1000,
        "shoulders": float((joints[JOINT["left_shoulder"]] - joints[JOINT["right_shoulder"]]).norm()),
        "waist": width(float(joints[JOINT["spine2"], 1])),
        "hips": width(-0.02 * tall),
    }


DOCUMENTED = [  # of body_models/README.md: beta, measure, values at -1, 0 and 1, and the rounding of that page
    ("gender", "height", (1.67, 1.63, 1.60), 0.006),
    ("gender", "shoulders", (0.340, 0.330, 0.320), 0.0006),
    ("gender", "hips", (0.244, 0.248, 0.252), 0.0006),
    ("age", "height", (1.42, 1.63, 1.84), 0.006),
    ("muscle", "waist", (0.272, 0.269, 0.264), 0.0006),
    ("weight", "litres", (48.7, 51.1, 53.6), 0.06),
    ("height", "height", (1.38, 1.63, 1.89), 0.006),
    ("proportions", "shoulders", (0.342, 0.330, 0.318), 0.0006),
]


@pytest.mark.parametrize(("name", "measure", "values", "rounding"), DOCUMENTED)
def test_betas_do_what_their_documentation_says(
    body: Body, name: str, measure: str, values: tuple[float, ...], rounding: float
) -> None:
    for beta, value in zip((-1.0, 0.0, 1.0), values, strict=True):
        betas = [0.0] * 10
        betas[PHENOTYPES.index(name)] = beta
        assert measures(body, betas)[measure] == pytest.approx(value, abs=rounding), beta


def test_the_last_four_betas_do_nothing(body: Body) -> None:
    assert body.shape_directions[..., : len(PHENOTYPES)].abs().amax((0, 1)).min() > 1e-3
    assert body.shape_directions[..., len(PHENOTYPES) :].abs().max() == 0


def test_the_surface_is_closed_and_faces_outwards(body: Body) -> None:
    edges = body.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    forward = {tuple(edge) for edge in edges.tolist()}
    assert len(forward) == len(edges)
    assert all((b, a) in forward for a, b in forward)
    assert measures(body, [])["litres"] > 40


def test_weights_are_smooth_convex_combinations(body: Body) -> None:
    assert body.weights.min() >= 0
    assert torch.allclose(body.weights.sum(1), torch.ones(len(body.weights)), atol=1e-5)
    edges = body.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    jump = (body.weights[edges[:, 0]] - body.weights[edges[:, 1]]).abs().amax(1)
    assert jump.quantile(0.99) < 0.5
