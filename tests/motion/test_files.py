"""Motions from files: what comes back is what was written, and bad files get one clear line."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from avatar_gs.body.model import Body
from avatar_gs.body.pose import JOINT, JOINTS
from avatar_gs.core.errors import UserError
from avatar_gs.motion import bvh
from avatar_gs.motion.clip import MAX_FRAMES, Motion
from avatar_gs.motion.config import UpAxis
from avatar_gs.motion.frame import facing_front, rotated
from avatar_gs.motion.kinematics import joint_transforms
from avatar_gs.motion.load import load_motion, load_pose
from avatar_gs.motion.npz import read_npz
from avatar_gs.motion.packaged import PACKAGED
from avatar_gs.motion.retarget import read_retargeted
from avatar_gs.motion.write_bvh import bvh_name, write_bvh

RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def rest(body: Body) -> np.ndarray:
    return body.shaped()[1].double().numpy()


@pytest.fixture(scope="module")
def walk(body: Body) -> Motion:
    return PACKAGED["walk"](body)


def angles_apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Degrees between rotations given by axis-angle vectors [F, 55, 3]."""
    one, other = (Rotation.from_rotvec(values.reshape(-1, 3)) for values in (a, b))
    return np.rad2deg((one.inv() * other).magnitude())


# --- .npz ---------------------------------------------------------------------------------------------------------


def amass(motion: Motion, **changed: object) -> dict[str, object]:
    poses = motion.axis_angles.reshape(len(motion), -1)
    return {"poses": poses, "trans": motion.translation, "mocap_frame_rate": np.array(motion.fps)} | changed


def save(path: Path, arrays: dict[str, object]) -> Path:
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    return path


def test_amass_with_z_up_comes_back_with_y_up(walk: Motion, tmp_path: Path) -> None:
    lying = rotated(walk, Rotation.from_euler("x", 90, degrees=True))  # AMASS stands along +z
    read = read_npz(save(tmp_path / "a.npz", amass(lying)))
    assert angles_apart(read.axis_angles, walk.axis_angles).max() < 0.01
    np.testing.assert_allclose(read.translation, walk.translation, atol=1e-5)
    assert read.fps == walk.fps
    assert angles_apart(read_npz(tmp_path / "a.npz", UpAxis.y).axis_angles, lying.axis_angles).max() < 0.01


def test_smplh_smpl_and_poses_by_parts(walk: Motion, tmp_path: Path) -> None:
    flat = walk.axis_angles.reshape(len(walk), -1)
    hands = flat[:, 75:]
    smplh = read_npz(save(tmp_path / "h.npz", amass(walk, poses=np.concatenate([flat[:, :66], hands], 1))))
    assert angles_apart(smplh.axis_angles, walk.axis_angles).max() < 0.01
    smpl = read_npz(save(tmp_path / "s.npz", amass(walk, poses=flat[:, :72])))
    assert angles_apart(smpl.axis_angles[:, :22], walk.axis_angles[:, :22]).max() < 0.01
    assert not smpl.axis_angles[:, 22:].any()
    parts = {
        "global_orient": flat[:, :3], "body_pose": flat[:, 3:66].reshape(-1, 21, 3), "jaw_pose": flat[:1, 66:69],
        "left_hand_pose": hands[:, :45], "right_hand_pose": hands[:, 45:], "transl": walk.translation,
    }  # fmt: skip
    assert angles_apart(read_npz(save(tmp_path / "p.npz", parts)).axis_angles, walk.axis_angles).max() < 0.01


BAD_ARRAYS = {
    "not finite": lambda poses: {"poses": np.where(np.arange(165) == 7, np.nan, poses)},
    "at least one frame": lambda poses: {"poses": poses[:0], "trans": np.zeros((0, 3))},
    "degrees": lambda poses: {"poses": np.degrees(poses)},
    "three for each joint": lambda poses: {"poses": poses[:, :100]},
    "never unpickled": lambda poses: {"poses": np.array([{"a": 1}, None])},
    "translations of shape": lambda poses: {"trans": np.zeros((4, 3))},
    "frames a second": lambda poses: {"mocap_frame_rate": np.array(0.0)},
    "expected metres": lambda poses: {"trans": np.full((len(poses), 3), 1e6)},
}


@pytest.mark.parametrize("word", BAD_ARRAYS)
def test_a_bad_npz_gets_one_line(walk: Motion, tmp_path: Path, word: str) -> None:
    poses = walk.axis_angles.reshape(len(walk), -1)
    path = save(tmp_path / "bad.npz", amass(walk) | BAD_ARRAYS[word](poses))
    with pytest.raises(UserError, match=word) as failure:
        read_npz(path)
    assert "\n" not in str(failure.value)
    assert str(path) in str(failure.value)


def test_a_zip_bomb_and_a_million_frames_are_refused_unread(tmp_path: Path) -> None:
    """The header promises more than is there, so reading it would fail with another message."""
    for shape, word in (((MAX_FRAMES + 1, 165), "frames, at most"), ((100, 10**9), "numbers, at most")):
        with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
            archive.writestr("poses.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
        with pytest.raises(UserError, match=word):
            read_npz(tmp_path / "bomb.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"\x00" * 1000])
def test_what_is_no_npz_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"not a whole \.npz"):
        read_npz(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", something=np.zeros(3))
    with pytest.raises(UserError, match="no poses in it"):
        read_npz(tmp_path / "b.npz")


# --- .bvh ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["walk", "dance", "point"])
def test_a_motion_written_as_bvh_comes_back(body: Body, rest: np.ndarray, tmp_path: Path, name: str) -> None:
    motion = PACKAGED[name](body)
    write_bvh(tmp_path / "a.bvh", motion, rest)
    read = read_retargeted(tmp_path / "a.bvh", rest)
    assert len(read) == len(motion)
    assert read.fps == pytest.approx(motion.fps, rel=1e-4)
    # Jaw and eyes have no names in BVH files.
    named = [k for k, joint in enumerate(JOINTS) if not joint.endswith(("jaw", "eye"))]
    assert angles_apart(read.axis_angles[:, named], motion.axis_angles[:, named]).max() < 0.1
    np.testing.assert_allclose(read.translation, motion.translation, atol=1e-3)


def cmu(motion: Motion, rest: np.ndarray) -> str:
    """A skeleton with CMU's names in inches, z up, arms down and legs apart at rest, in the same poses.

    Its zero pose is ``lowered``; its bones are ours turned there, so its world rotations are ours times the inverse.
    """
    names = {
        "pelvis": "Hips", "left_hip": "LeftUpLeg", "left_knee": "LeftLeg", "left_ankle": "LeftFoot",
        "right_hip": "RightUpLeg", "right_knee": "RightLeg", "right_ankle": "RightFoot", "spine1": "LowerBack",
        "spine3": "Spine1", "neck": "Neck", "head": "Head", "left_collar": "LeftShoulder", "left_shoulder": "LeftArm",
        "left_elbow": "LeftForeArm", "left_wrist": "LeftHand", "right_collar": "RightShoulder",
        "right_shoulder": "RightArm", "right_elbow": "RightForeArm", "right_wrist": "RightHand",
    }  # fmt: skip
    lowered = {
        side + joint: Rotation.from_euler("z", sign * degrees, degrees=True)
        for side, sign in (("left_", 1), ("right_", -1))
        for joints, degrees in ((("shoulder", "elbow", "wrist"), -80), (("hip", "knee"), 15))
        for joint in joints
    }
    z_up = Rotation.from_euler("x", 90, degrees=True)
    rotations, positions = joint_transforms(motion, rest)
    unit = 39.37
    parents = {name: next((p for p in ancestors(name) if p in names), None) for name in names}

    def bone(name: str) -> np.ndarray:
        parent = parents[name]
        if parent is None:
            return np.zeros(3)
        return unit * z_up.apply(
            lowered.get(parent, Rotation.identity()).apply(rest[JOINT[name]] - rest[JOINT[parent]])
        )

    lines, columns = ["HIERARCHY"], [unit * z_up.apply(positions[:, 0])]

    def world(name: str) -> Rotation:
        ours = Rotation.from_matrix(rotations[:, JOINT[name]])
        return z_up * ours * lowered.get(name, Rotation.identity()).inv() * z_up.inv()

    def add(name: str) -> None:
        parent = parents[name]
        lines.append(f"{'JOINT' if parent else 'ROOT'} {names[name]}")
        lines.append("{")
        lines.append("OFFSET " + " ".join(f"{v:.6f}" for v in bone(name)))
        lines.append(f"CHANNELS {'3' if parent else '6 Xposition Yposition Zposition'} Yrotation Xrotation Zrotation")
        local = world(parent).inv() * world(name) if parent else world(name)
        columns.append(local.as_euler("YXZ", degrees=True))
        children = [child for child in names if parents[child] == name]
        for child in children:
            add(child)
        if not children:
            lines.extend(["End Site", "{", "OFFSET 0 0 1", "}"])
        lines.append("}")

    add("pelvis")
    lines += ["MOTION", f"Frames: {len(motion)}", f"Frame Time: {1 / motion.fps}"]
    lines += [" ".join(f"{value:.6f}" for value in row) for row in np.concatenate(columns, 1)]
    return "\n".join(lines)


def ancestors(name: str) -> list[str]:
    from avatar_gs.body.pose import PARENTS

    found, joint = [], PARENTS[JOINT[name]]
    while joint >= 0:
        found.append(JOINTS[joint])
        joint = PARENTS[joint]
    return found


@pytest.mark.parametrize("name", ["walk", "squat", "wave"])
def test_another_rest_pose_unit_and_axis_are_mapped(body: Body, rest: np.ndarray, tmp_path: Path, name: str) -> None:
    motion = PACKAGED[name](body)
    (tmp_path / "cmu.bvh").write_text(cmu(motion, rest))
    read = read_retargeted(tmp_path / "cmu.bvh", rest)
    expected, found = joint_transforms(motion, rest)[1], joint_transforms(read, rest)[1]
    limbs = [JOINT[f"{side}_{joint}"] for side in ("left", "right") for joint in ("knee", "ankle", "elbow", "wrist")]
    far = np.linalg.norm(expected - found, axis=-1)[:, [0, JOINT["head"], *limbs]]
    assert far.max() < 0.03, "metres; the middle of the spine, which the file does not have, is interpolated"


def test_a_smaller_skeletons_hips_are_scaled(walk: Motion, rest: np.ndarray, tmp_path: Path) -> None:
    half = Motion("half", walk.fps, walk.axis_angles, 0.5 * walk.translation)
    write_bvh(tmp_path / "a.bvh", half, 0.5 * rest)
    read = read_retargeted(tmp_path / "a.bvh", rest)
    np.testing.assert_allclose(read.translation, walk.translation, atol=2e-3)


BAD_BVH = {
    "found root, arm": ("ROOT root", "{", "OFFSET 0 0 0", "CHANNELS 3 Zrotation Yrotation Xrotation", "JOINT arm", "{",
                        "OFFSET 0 1 0", "CHANNELS 3 Zrotation Yrotation Xrotation", "}", "}", "MOTION", "Frames: 1",
                        "Frame Time: 0.1", "0 0 0 0 0 0"),
    "no BVH file": ("ROOT root", "{", "OFFSET 0 0"),
    "more than 512 joints": tuple("JOINT a" for _ in range(600)),
    "expected 'Frames:'": ("ROOT root", "{", "OFFSET 0 0 0", "}", "MOTION", "Frame Time: 1"),
    "frames, at most": ("ROOT root", "{", "OFFSET 0 0 0", "}", "MOTION", "Frames: 1000000"),
    "no frames in it": ("ROOT root", "{", "OFFSET 0 0 0", "}", "MOTION", "Frames: 0", "Frame Time: 0.1"),
    "ends after 1 of 3": ("ROOT r", "{", "OFFSET 0 0 0", "CHANNELS 1 Zrotation", "}", "MOTION", "Frames: 3",
                          "Frame Time: 0.1", "5"),
    "not finite": ("ROOT r", "{", "OFFSET 0 0 0", "CHANNELS 1 Zrotation", "}", "MOTION", "Frames: 1", "Frame Time: 0.1",
                   "nan"),
    "no number": ("ROOT r", "{", "OFFSET 0 0 0", "CHANNELS 1 Zrotation", "}", "MOTION", "Frames: 1", "Frame Time: 0.1",
                  "abc"),
    "a frame of 2 numbers": ("ROOT r", "{", "OFFSET 0 0 0", "CHANNELS 1 Zrotation", "}", "MOTION", "Frames: 1",
                             "Frame Time: 0.1", "1 2"),
}  # fmt: skip


@pytest.mark.parametrize("word", BAD_BVH)
def test_a_bad_bvh_gets_one_line(rest: np.ndarray, tmp_path: Path, word: str) -> None:
    (tmp_path / "bad.bvh").write_text("HIERARCHY\n" + "\n".join(BAD_BVH[word]))
    with pytest.raises(UserError, match=word) as failure:
        read_retargeted(tmp_path / "bad.bvh", rest)
    assert "\n" not in str(failure.value)


def test_a_huge_bvh_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.bvh").open("wb") as file:
        file.truncate(bvh.MAX_BYTES + 1)  # sparse
    with pytest.raises(UserError, match="MB are read"):
        bvh.read_bvh(tmp_path / "huge.bvh")


def test_names_are_mixamos() -> None:
    assert bvh_name("left_shoulder") == "LeftArm"
    assert bvh_name("right_index2") == "RightHandIndex2"
    assert bvh_name("pelvis") == "Hips"


# --- tables, names, poses -----------------------------------------------------------------------------------------


def test_json_and_csv(body: Body, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"fps": 10, "frames": [{"left_elbow": [0, -1.2, 0]}, {}]}))
    (tmp_path / "a.csv").write_text("time, left_elbow.y, translation.x\n0, -1.2, 0\n0.1, 0, 0.5\n")
    for name in ("a.json", "a.csv"):
        motion = load_motion(str(tmp_path / name), body)
        assert len(motion) == 2
        assert motion.fps == pytest.approx(10)
        assert motion.axis_angles[0, JOINT["left_elbow"], 1] == pytest.approx(-1.2)
        assert not motion.axis_angles[1].any()
        posed = body.pose(motion.pose(1))
        assert float(posed.vertices[:, 1].min()) == pytest.approx(0, abs=1e-4), "on the ground"
    (tmp_path / "pose.json").write_text(json.dumps({"right_knee": [1.0, 0, 0]}))
    assert float(load_pose(str(tmp_path / "pose.json"), body).axis_angles[JOINT["right_knee"], 0]) == 1.0


BAD_TABLES = {
    "a.json": {"no JSON": "{", "has no joint 'tail'": '{"tail": [0, 0, 0]}', "three numbers": '{"left_knee": 3}',
               "expected": "[1, 2]", "not finite": '{"left_knee": [NaN, 0, 0]}', "degrees": '{"left_knee": [90, 0, 0]}',
               "at least one": '{"frames": []}'},
    "a.csv": {"column 'tail.x'": "tail.x\n1", "expected 1 numbers": "left_knee.x\n1,2", "row 2": "left_knee.x\nabc",
              "at least one": "left_knee.x\n"},
}  # fmt: skip


@pytest.mark.parametrize(("name", "word"), [(name, word) for name, bad in BAD_TABLES.items() for word in bad])
def test_a_bad_table_gets_one_line(body: Body, tmp_path: Path, name: str, word: str) -> None:
    (tmp_path / name).write_text(BAD_TABLES[name][word])
    with pytest.raises(UserError, match=word) as failure:
        load_motion(str(tmp_path / name), body)
    assert "\n" not in str(failure.value)


def test_names_that_are_none_are_answered_with_those_there_are(body: Body, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stand, turn, wave"):
        load_motion("moonwalk", body)
    (tmp_path / "a.fbx").touch()
    with pytest.raises(UserError, match=r"\.npz, \.bvh"):
        load_motion(str(tmp_path / "a.fbx"), body)
    with pytest.raises(UserError, match="0 to 32"):
        load_pose("walk@33", body)
    assert float(load_pose("wave", body).axis_angles[JOINT["right_elbow"], 1]) > 1


# --- motions ------------------------------------------------------------------------------------------------------


def test_resampling_keeps_the_poses_and_the_loop(walk: Motion) -> None:
    double = walk.resampled(2 * walk.fps)
    assert len(double) == 2 * len(walk)
    assert angles_apart(double.axis_angles[::2], walk.axis_angles).max() < 0.01
    middle = double.axis_angles[-1]  # between the last frame and the first
    both = [angles_apart(middle[None], walk.axis_angles[[k]]).max() for k in (-1, 0)]
    assert both[0] == pytest.approx(both[1], abs=0.1)
    once = Motion("a", 10.0, walk.axis_angles[:5], walk.translation[:5]).resampled(30)
    assert len(once) == 13
    assert angles_apart(once.axis_angles[::3], walk.axis_angles[:5]).max() < 0.01


def test_a_motion_faces_the_front_first(walk: Motion) -> None:
    turned = rotated(walk, Rotation.from_euler("y", 130, degrees=True))
    front = facing_front(turned)
    ahead = Rotation.from_rotvec(front.axis_angles[0, 0]).apply([0, 0, 1])
    assert ahead[0] == pytest.approx(0, abs=1e-6)
    assert ahead[2] > 0.9
    assert np.abs(front.translation[0, [0, 2]]).max() < 1e-6
