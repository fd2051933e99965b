"""A page whose avatar moves, in a real browser: its pixels are those of the program's renderer in the same pose."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from avatar_gs.body.config import BodyConfig
from avatar_gs.body.files import FREE_BODY
from avatar_gs.body.model import Body, load_body
from avatar_gs.body.pose import JOINTS, PARENTS
from avatar_gs.export.config import ExportConfig
from avatar_gs.export.ply import read_ply
from avatar_gs.export.writer import export_avatar
from avatar_gs.motion.clip import Motion
from avatar_gs.motion.frame import rotated
from avatar_gs.motion.load import load_motion
from avatar_gs.motion.packaged import PACKAGED
from avatar_gs.motion.write_bvh import bvh_name, write_bvh
from avatar_gs.render.cameras import orbit
from avatar_gs.render.rasterize import rasterize
from avatar_gs.splats.config import SplatsConfig
from avatar_gs.splats.model import GaussianModel
from avatar_gs.splats.surface import surface_splats
from avatar_gs.stages.export import CLIP_FPS, avatar_rig, standing, standing_pose
from avatar_gs.types import Gaussians
from avatar_gs.viewer.html import csp_hash

SIZE, FOV, DISTANCE, TARGET = 300, 40.0, 3.2, (0.0, 0.85, 0.0)
BARE = f"spin=0&controls=0&background=7f7f7f&fov={FOV}&distance={DISTANCE}&target={','.join(map(str, TARGET))}"
GREY = torch.full((1, 3), 127 / 255)


@dataclass(frozen=True)
class Avatar:
    path: Path
    model: GaussianModel
    body: Body
    exported: Gaussians


@pytest.fixture(scope="module")
def avatar(tmp_path_factory: pytest.TempPathFactory) -> Avatar:
    """An avatar of 3,000 splats, striped so that a wrong place shows; exports leave one out, which is invisible."""
    body = load_body(BodyConfig(path=str(FREE_BODY)))
    model = surface_splats(SplatsConfig(count=3000), body.rest(), body.weights, torch.Generator().manual_seed(0))
    with torch.no_grad():
        height = model.params["means"][:, 1:2]
        stripes = torch.cat([(20 * height).sin(), (31 * height).cos(), (13 * model.params["means"][:, :1]).sin()], 1)
        model.params["sh0"].copy_(stripes[:, None])
        model.params["opacities"].fill_(4.0)
        model.params["opacities"][7] = -20.0
    gaussians, posed = standing(model, body)
    folder = tmp_path_factory.mktemp("moving")
    rig = avatar_rig(model, body, posed, standing_pose(body))
    about = ["Prompt: a man </script><b>in red</b>", "avatar-gs prompt='a man'"]
    export_avatar(folder, gaussians, "a man", ExportConfig(video=False), rig=rig, about=about)
    return Avatar(folder / "avatar.html", model, body, gaussians)


def expected(gaussians: Gaussians, azimuth: float) -> np.ndarray:
    span = 2 * DISTANCE * math.tan(math.radians(FOV / 2))
    around, above, fov = torch.deg2rad(torch.tensor([[azimuth], [0.0], [FOV]]))
    camera = orbit(torch.tensor([TARGET]), torch.tensor([span]), around, above, fov, SIZE)
    return (rasterize(gaussians, camera, GREY).rgb[0].detach().numpy() * 255).clip(0, 255)


def shown(chromium: Any, page: Path, options: str) -> np.ndarray:
    chromium.open(page, f"{BARE}&{options}", (SIZE, SIZE))
    return chromium.screenshot().astype(float)


def test_standing_it_is_what_was_exported(chromium: Any, avatar: Avatar) -> None:
    image = shown(chromium, avatar.path, "motion=none&azimuth=30&elevation=0")
    difference = np.abs(image - expected(avatar.exported, 30))
    assert difference.mean() < 1.0
    assert np.quantile(difference, 0.999) < 8


@pytest.mark.parametrize(("name", "frame"), [("squat", 25), ("wave", 30), ("run", 9)])
def test_moving_its_pixels_are_the_renderers(chromium: Any, avatar: Avatar, name: str, frame: int) -> None:
    motion = PACKAGED[name](avatar.body)
    motion = motion.resampled(CLIP_FPS) if motion.seconds > 2 else motion
    posed = avatar.model.pose(avatar.body.pose(motion.pose(frame)))
    image = shown(chromium, avatar.path, f"motion={name}&time={frame / motion.fps}&azimuth=-40&elevation=0")
    truth = expected(posed, -40)
    still = expected(avatar.exported, -40)
    difference = np.abs(image - truth)
    print(f"{name}: {difference.mean():.3f} of 255 on average, 99 % below {np.quantile(difference, 0.99):.1f}")
    assert np.abs(still - truth).mean() > 5 * difference.mean(), "the pose is another one"
    assert difference.mean() < 0.75, "four joints and 8-bit weights"
    assert np.quantile(difference, 0.99) < 30


def test_it_plays_pauses_and_scrubs(chromium: Any, avatar: Avatar) -> None:
    chromium.open(avatar.path, "spin=0&motion=none", (700, 500))
    names = chromium.evaluate("[...clips.options].map((option) => option.value)")
    assert names == ["pose", *PACKAGED]
    chromium.evaluate("clips.value = 'walk'; clips.dispatchEvent(new Event('change'))")
    first = chromium.evaluate("Number(timeline.value)")
    chromium.wait(f"Number(timeline.value) !== {first}")
    assert chromium.evaluate("play.getAttribute('aria-pressed')") == "true"
    chromium.evaluate("dispatchEvent(new KeyboardEvent('keydown', {key: 'p'}))")
    assert chromium.evaluate("play.getAttribute('aria-pressed')") == "false"
    chromium.wait("document.documentElement.dataset.frame === 'done'")
    before = chromium.screenshot()
    chromium.evaluate("timeline.value = 0.9; timeline.dispatchEvent(new Event('input'))")
    chromium.wait("document.documentElement.dataset.frame === 'done'")
    after = chromium.screenshot()
    assert (np.abs(before.astype(int) - after).max(-1) > 30).mean() > 0.01
    assert chromium.errors == []


def test_a_motion_that_does_not_loop_ends(chromium: Any, avatar: Avatar) -> None:
    chromium.open(avatar.path, "spin=0&motion=none", (700, 500))
    chromium.evaluate("loop.click(); speed.value = 2; speed.dispatchEvent(new Event('change'))")
    chromium.evaluate("clips.value = 'run'; clips.dispatchEvent(new Event('change'))")
    chromium.wait("play.getAttribute('aria-pressed') === 'false'")
    assert chromium.evaluate("Number(timeline.value)") == pytest.approx(1)


def test_reduced_motion_stands_still(chromium: Any, avatar: Avatar) -> None:
    feature = {"name": "prefers-reduced-motion", "value": "reduce"}
    chromium.send("Emulation.setEmulatedMedia", features=[feature])
    try:
        chromium.open(avatar.path, "", (700, 500))
        assert chromium.evaluate("clips.value") == "pose"
        assert chromium.evaluate("play.getAttribute('aria-pressed')") == "false"
    finally:
        chromium.send("Emulation.setEmulatedMedia", features=[])


def test_sliders_turn_joints_and_go_back(chromium: Any, avatar: Avatar) -> None:
    chromium.open(avatar.path, "spin=0&motion=none", (700, 500))
    before = chromium.screenshot()
    chromium.evaluate(
        "document.querySelector('[aria-label=\"Left arm: Raise\"]').value = 70;"
        "document.querySelector('[aria-label=\"Left arm: Raise\"]').dispatchEvent(new Event('input'))"
    )
    chromium.wait("document.documentElement.dataset.frame === 'done'")
    raised = chromium.screenshot()
    changed = np.abs(before.astype(int) - raised).max(-1) > 30
    columns = np.nonzero(changed)[1]
    assert len(columns) > 200
    assert columns.min() > 350, "only at its left hand, which is on our right"
    chromium.evaluate("document.getElementById('slider-reset').click()")
    chromium.wait("document.documentElement.dataset.frame === 'done'")
    np.testing.assert_array_equal(chromium.screenshot(), before)


def test_views_of_parts(chromium: Any, avatar: Avatar) -> None:
    chromium.open(avatar.path, "spin=0&motion=none", (500, 500))
    distances = {}
    for part in ("whole", "upper", "head", "hands"):
        chromium.evaluate(f"document.getElementById('view-{part}').click()")
        distances[part] = chromium.view()[2]
    assert distances["head"] < distances["upper"] < distances["whole"]
    assert chromium.errors == []


def test_the_wheel_zooms_to_the_pointer(chromium: Any, avatar: Avatar, face_of: Callable[[], float]) -> None:
    chromium.open(avatar.path, "spin=0&motion=none&background=7f7f7f", (500, 600))
    top = face_of()
    for _ in range(4):
        chromium.send("Input.dispatchMouseEvent", type="mouseWheel", x=250, y=top, deltaX=0, deltaY=-120)
    chromium.view()
    assert abs(face_of() - top) < 25, "the top of the head stays under the pointer"


@pytest.fixture
def face_of(chromium: Any) -> Callable[[], float]:
    """The uppermost row of the avatar, below the title."""

    def find() -> float:
        image = chromium.screenshot().astype(int)[45:, 235:265]
        rows = np.nonzero(np.abs(image - 127).max(-1).max(1) > 40)[0]
        return float(rows[0]) + 45

    return find


def test_the_saved_splats_are_the_exported_ones(chromium: Any, avatar: Avatar, tmp_path: Path) -> None:
    chromium.open(avatar.path, "spin=0&motion=none", (500, 500))
    chromium.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    chromium.evaluate("document.getElementById('save-ply').click()")
    for _ in range(400):
        if (tmp_path / "avatar.ply").exists():
            break
        chromium.evaluate("1")
        chromium.wait("true")
    saved, truth = read_ply(tmp_path / "avatar.ply"), read_ply(avatar.path.parent / "avatar.ply")
    assert len(saved) == len(truth) == len(avatar.exported) - 1
    np.testing.assert_allclose(saved.means, truth.means, atol=2e-4)
    np.testing.assert_allclose(saved.scales, truth.scales, rtol=2e-3)
    dots = (saved.quats * torch.nn.functional.normalize(truth.quats, dim=-1)).sum(-1).abs()
    assert float(dots.min()) > 0.9995
    np.testing.assert_allclose(saved.colors, truth.colors, atol=0.003)


def test_what_is_known_is_text(chromium: Any, avatar: Avatar) -> None:
    chromium.open(avatar.path, "spin=0&motion=none", (500, 500))
    chromium.evaluate("document.getElementById('about').click()")
    assert "a man </script><b>in red</b>" in chromium.evaluate("document.getElementById('facts-list').textContent")
    assert chromium.evaluate("document.querySelectorAll('#facts-list b').length") == 0
    assert all(url.startswith(("file:", "blob:")) for url in chromium.requests)


def test_the_page_is_small(avatar: Avatar) -> None:
    motions = avatar.path.stat().st_size - 4 / 3 * 32 * 3000
    assert motions + 4 / 3 * 32 * 7000 < 1e6, "7,000 splats and ten motions, in bytes"


def drop(chromium: Any, path: Path) -> None:
    """Drop a file on the page, as a user does."""
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        chromium.send("Input.dispatchDragEvent", type=kind, x=250, y=200, data=data)


@pytest.mark.parametrize("suffix", [".bvh", ".npz"])
def test_a_dropped_motion_plays_as_the_packaged_one(chromium: Any, avatar: Avatar, tmp_path: Path, suffix: str) -> None:
    motion = PACKAGED["point"](avatar.body)
    path = tmp_path / f"mine{suffix}"
    if suffix == ".bvh":
        write_bvh(path, motion, avatar.body.shaped()[1].double().numpy())
    else:
        lying = rotated(motion, Rotation.from_euler("x", 90, degrees=True))  # z is up in AMASS
        poses = lying.axis_angles.reshape(len(lying), -1)
        np.savez_compressed(path, poses=poses, trans=np.asfortranarray(lying.translation), mocap_frame_rate=motion.fps)
    chromium.open(avatar.path, "spin=0&motion=none", (500, 500))
    drop(chromium, path)
    chromium.wait("clips.value === 'mine'")
    scrub = "timeline.value = {}; timeline.dispatchEvent(new Event('input'))"
    chromium.evaluate(scrub.format(0.5))
    chromium.wait("document.documentElement.dataset.frame === 'done'")
    dropped = chromium.screenshot().astype(int)
    chromium.evaluate("clips.value = 'point'; clips.dispatchEvent(new Event('change'))")
    chromium.evaluate(scrub.format(0.5))
    chromium.wait("document.documentElement.dataset.frame === 'done'")
    difference = np.abs(chromium.screenshot().astype(int) - dropped)[60:380]
    assert difference.mean() < 0.6, "the same pose at the same place"
    assert chromium.errors == []


def lying_bvh(motion: Motion, rest: np.ndarray) -> str:
    """A motion in a file as Rokoko's: its zero pose has all bones along x and only defines their lengths."""
    frames, count = len(motion), len(JOINTS)
    first_child = [next((k for k in range(count) if PARENTS[k] == joint), None) for joint in range(count)]
    straight = [Rotation.identity() for _ in range(count)]
    for joint, child in enumerate(first_child):
        if joint and child is not None:
            straight[joint] = Rotation.align_vectors([rest[child] - rest[joint]], [[1.0, 0.0, 0.0]])[0]
    world, lines, turns = [], ["HIERARCHY"], {}
    for joint in range(count):
        own = Rotation.from_rotvec(motion.axis_angles[:, joint].astype(float))
        world.append(own if joint == 0 else world[PARENTS[joint]] * own)

    def add(joint: int) -> None:
        parent = PARENTS[joint]
        offset = straight[parent].inv().apply(rest[joint] - rest[parent]) if joint else rest[0]
        turned = world[joint] * straight[joint]
        turns[joint] = turned if joint == 0 else (world[parent] * straight[parent]).inv() * turned
        channels = "Yrotation Xrotation Zrotation"
        channels = f"3 {channels}" if joint else f"6 Xposition Yposition Zposition {channels}"
        lines.extend([f"{'JOINT' if joint else 'ROOT'} {bvh_name(JOINTS[joint])}", "{"])
        lines.extend([f"OFFSET {' '.join(f'{value:.6f}' for value in offset)}", f"CHANNELS {channels}"])
        children = [k for k in range(count) if PARENTS[k] == joint]
        for child in children:
            add(child)
        lines.extend([] if children else ["End Site", "{", "OFFSET 0.02 0 0", "}"])
        lines.append("}")

    add(0)
    angles = [turn.as_euler("YXZ", degrees=True) for turn in turns.values()]
    table = np.concatenate([rest[0] + motion.translation, *angles], 1)
    lines += ["MOTION", f"Frames: {frames}", f"Frame Time: {1 / motion.fps}"]
    return "\n".join([*lines, *(" ".join(f"{value:.5f}" for value in row) for row in table)]) + "\n"


def test_a_file_whose_zero_pose_does_not_stand_plays_as_the_program_reads_it(
    chromium: Any, avatar: Avatar, tmp_path: Path
) -> None:
    path = tmp_path / "lying.bvh"
    path.write_text(lying_bvh(PACKAGED["wave"](avatar.body), avatar.body.shaped()[1].double().numpy()))
    motion = load_motion(str(path), avatar.body)
    chromium.open(with_open_viewer(avatar.path, tmp_path / "open.html"), "spin=0&motion=none", (SIZE, SIZE))
    drop(chromium, path)
    chromium.wait("clips.value === 'lying' || !note.hidden")
    assert chromium.evaluate("note.hidden"), chromium.evaluate("note.textContent")
    quats = np.array(chromium.evaluate("[...viewer.player.clip.quats]")).reshape(-1, 4)
    program = Rotation.from_rotvec(motion.axis_angles.reshape(-1, 3))
    apart = np.degrees((program.inv() * Rotation.from_quat(quats[:, [1, 2, 3, 0]])).magnitude())
    moved = np.array(chromium.evaluate("viewer.player.clip.translation"))
    print(f"at most {apart.max():.3f} degrees, {100 * np.abs(moved - motion.translation).max():.1f} cm")
    assert apart.max() < 0.1
    assert np.abs(moved - motion.translation).max() < 0.06, "the ground is that of joints, not of the skin"
    assert chromium.errors == []


def with_open_viewer(page: Path, copy: Path) -> Path:
    """A copy of a page that shows its viewer to the test."""
    text, start = page.read_text(encoding="utf-8"), "const viewer = new Viewer(splats);"
    assert text.count(start) == 1
    text = text.replace(start, f"{start} window.viewer = viewer;")
    script = text.split('<script type="module">')[1].split("</script>")[0]
    policy = re.sub("script-src '[^']*'", f"script-src '{csp_hash(script)}'", text.split("</head>")[0])
    copy.write_text(policy + text[text.index("</head>") :], encoding="utf-8")
    return copy


def test_what_cannot_be_played_is_answered_with_a_line(chromium: Any, avatar: Avatar, tmp_path: Path) -> None:
    bad = {"a.txt": b"hello", "a.bvh": b"HIERARCHY\nROOT a\n{\n}\nMOTION\nFrames: 1\nFrame Time: 1\n", "a.npz": b"PK"}
    chromium.open(avatar.path, "spin=0&motion=none", (500, 500))
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        drop(chromium, tmp_path / name)
        chromium.wait(f"!note.hidden && note.textContent.startsWith('{name} cannot be played: ')")
    with (tmp_path / "huge.bvh").open("wb") as file:
        file.truncate(100 * 2**20)
    drop(chromium, tmp_path / "huge.bvh")
    chromium.wait("note.textContent.includes('100 MB')")
    chromium.evaluate("clips.value = 'walk'; clips.dispatchEvent(new Event('change'))")
    chromium.wait("play.getAttribute('aria-pressed') === 'true'")
    assert chromium.errors == []
