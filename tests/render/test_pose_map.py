"""Pose maps: the drawing, the culling, and the body's depth. Images use the free body's keypoints."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from avatar_gs.body.config import BodyConfig
from avatar_gs.body.files import FREE_BODY
from avatar_gs.body.keypoints import openpose_keypoints
from avatar_gs.body.model import load_body
from avatar_gs.body.pose import a_pose
from avatar_gs.geometry import project
from avatar_gs.render.cameras import fixed_views, orbit
from avatar_gs.render.pose_map import (
    MARGINS,
    NUM_POINTS,
    body_depth,
    body_surfels,
    render_keypoints,
    render_pose_map,
    stack_keypoints,
    triangle_axes,
    visible_points,
)
from avatar_gs.types import Cameras, Framing, Keypoints, PosedBody

SIZE = 256
EYES_NOSE = [0, 14, 15]


@pytest.fixture(scope="module")
def scene() -> tuple[PosedBody, Keypoints]:
    body = load_body(BodyConfig(path=str(FREE_BODY)))
    posed = body.pose(a_pose())
    return posed, openpose_keypoints(body, posed)


def views(posed: PosedBody, *azimuths: int, framing: Framing = Framing.BODY) -> Cameras:
    return fixed_views(posed, [framing] * len(azimuths), [float(a) for a in azimuths], SIZE).cameras


def seen(scene: tuple[PosedBody, Keypoints], cameras: Cameras) -> np.ndarray:
    """Visibility ``[B, 130]`` by the body's own depth."""
    posed, keypoints = scene
    depth = body_depth(posed, cameras).double().numpy()
    image, points = (cameras.width, cameras.height), stack_keypoints(keypoints)
    poses, Ks = cameras.T_camera_world.double().numpy(), cameras.K.double().numpy()
    cases = zip(poses, Ks, depth, strict=True)
    return np.stack([visible_points(points, pose, K, image, surface)[1] for pose, K, surface in cases])


def colour_at(image: Tensor, pixel: Tensor) -> list[int]:
    x, y = pixel.long().tolist()
    return (image[y, x] * 255).round().long().tolist()


def test_limbs_have_their_openpose_colours_and_sides(scene: tuple[PosedBody, Keypoints]) -> None:
    posed, keypoints = scene
    for azimuth, left_is_right_in_image in ((0, True), (180, False)):
        cameras = views(posed, azimuth).resized(512, 512)
        image = render_pose_map(keypoints, cameras, body_depth(posed, cameras), size=512, hands=False, face=False)[0]
        pixels = project(keypoints.body, cameras)[0][0]
        limbs = {(2, 3): (255, 170, 0), (3, 4): (255, 255, 0), (5, 6): (170, 255, 0), (6, 7): (85, 255, 0),
                 (8, 9): (0, 255, 85), (11, 12): (0, 170, 255), (1, 8): (0, 255, 0)}  # fmt: skip
        for (a, b), colour in limbs.items():
            middle = (pixels[a] + pixels[b]) / 2
            assert colour_at(image, middle) == pytest.approx([0.6 * c for c in colour], abs=1), (azimuth, a, b)
        assert (pixels[7, 0] > pixels[4, 0]) == left_is_right_in_image


def test_no_face_from_behind(scene: tuple[PosedBody, Keypoints]) -> None:
    posed, keypoints = scene
    for framing in (Framing.BODY, Framing.HEAD):
        cameras = views(posed, 0, 180, 150, -150, framing=framing)
        visible = seen(scene, cameras)
        assert visible[0, EYES_NOSE].all()
        assert visible[0, 60:].mean() > 0.95
        assert not visible[1:, EYES_NOSE].any()
        assert visible[1, 16:18].all()  # both ears stick out
        maps = render_pose_map(keypoints, cameras, body_depth(posed, cameras), size=SIZE)
        white = (maps > 0.9).all(-1).flatten(1).sum(1)
        assert white[0] > 20
        assert (white[1:] == 0).all(), framing


def test_a_profile_shows_one_eye_and_one_ear(scene: tuple[PosedBody, Keypoints]) -> None:
    visible = seen(scene, views(scene[0], 90, -90, framing=Framing.HEAD))
    right_eye, left_eye, right_ear, left_ear = range(14, 18)
    assert visible[0, [0, left_eye, left_ear]].all()
    assert not visible[0, [right_eye, right_ear]].any()
    assert visible[1, [0, right_eye, right_ear]].all()
    assert not visible[1, [left_eye, left_ear]].any()


def test_the_trunk_hides_the_far_arm_and_not_its_own_joints(scene: tuple[PosedBody, Keypoints]) -> None:
    visible = seen(scene, views(scene[0], 90, 0, 180, 45))
    neck, right_shoulder, left_shoulder, right_hip, left_hip = 1, 2, 5, 8, 11
    # from exactly the side, the near arm hangs before the trunk, which is drawn all the same
    assert visible[0, left_shoulder] and not visible[0, right_shoulder]
    assert visible[:, [neck, left_shoulder, left_hip]].all()
    assert visible[1:, right_hip].all()
    assert visible[1:3, 1:14].all()


def test_random_views_never_show_a_face_through_the_head(scene: tuple[PosedBody, Keypoints]) -> None:
    """From more than 120 degrees off the front, at any height, eyes and nose are hidden; within 50 they are seen."""
    posed, _ = scene
    generator = torch.Generator().manual_seed(0)
    n = 40
    azimuth = (torch.rand(n, generator=generator) * 2 - 1) * math.pi
    elevation = (torch.rand(n, generator=generator) - 0.3) * 0.6
    centre = posed.joints[15].expand(n, 3)
    cameras = orbit(centre, torch.full((n,), 0.5), azimuth, elevation, torch.full((n,), 0.9), SIZE)
    visible = seen(scene, cameras)[:, EYES_NOSE]
    degrees = azimuth.abs().rad2deg().numpy()
    assert (degrees > 120).sum() > 8
    assert not visible[degrees > 120].any()
    assert (degrees < 50).sum() > 8
    assert visible[degrees < 50].all()


def test_points_outside_the_image_are_left_out(scene: tuple[PosedBody, Keypoints]) -> None:
    posed, keypoints = scene
    cameras = views(posed, 0, framing=Framing.LOWER)
    visible = seen(scene, cameras)
    assert not visible[0, EYES_NOSE].any()
    assert visible[0, [9, 10, 12, 13]].all()  # knees and ankles
    lower = render_pose_map(keypoints, cameras, body_depth(posed, cameras), size=SIZE)
    assert lower[0, -SIZE // 3 :].sum() > 0
    behind = Cameras(cameras.T_camera_world.clone(), cameras.K, SIZE, SIZE)
    behind.T_camera_world[:, :3] *= -1  # all of the body lies behind this camera
    empty = torch.zeros(1, SIZE, SIZE)
    assert render_pose_map(keypoints, behind, empty, size=SIZE).abs().max() == 0


def test_hidden_and_empty_depth() -> None:
    """A wall one metre before the points hides them all; no surface, zero or infinite, hides none."""
    points = np.array([[0.0, 0.0, 3.0], [0.1, 0.0, 3.0], [0.0, 0.0, -1.0]])
    K = np.array([[100.0, 0, 32], [0, 100.0, 32], [0, 0, 1]])
    margins = np.array([0.1, 1.5, 9.0])

    def visible(depth: float) -> list[bool]:
        surface = np.full((16, 16), depth)
        return visible_points(points, np.eye(4), K, (64, 64), surface, margins)[1].tolist()

    assert visible(2.0) == [False, True, False]  # the last one is behind the camera
    assert visible(2.95) == [True, True, False]
    assert visible(0.0) == [True, True, False]
    assert visible(math.inf) == [True, True, False]
    pixels, _ = visible_points(points, np.eye(4), K, (64, 64), np.zeros((16, 16)), margins)
    assert pixels[1] == pytest.approx([32 + 100 * 0.1 / 3, 32])


def test_a_point_on_an_edge_is_not_hidden_by_a_neighbouring_pixel() -> None:
    surface = np.zeros((8, 8))
    surface[:, :4], surface[:, 4:] = 1.0, 2.0
    K = np.array([[8.0, 0, 4], [0, 8.0, 4], [0, 0, 1]])
    point = np.array([[-0.05, 0.0, 2.0]])  # on the farther surface, a fraction of a pixel from the edge
    assert visible_points(point, np.eye(4), K, (8, 8), surface, np.array([0.02]))[1].all()
    point = np.array([[-0.8, 0.0, 2.0]])  # three pixels behind the nearer one
    assert not visible_points(point, np.eye(4), K, (8, 8), surface, np.array([0.02]))[1].any()


def test_drawing_is_averaged_down() -> None:
    random = np.random.default_rng(0)
    pixels = random.uniform(20, 492, (NUM_POINTS, 2))
    everything = np.ones(NUM_POINTS, dtype=bool)
    large = render_keypoints(pixels, everything, 512, 512)
    small = render_keypoints(pixels, everything, 512, 128)
    assert large.dtype == small.dtype == np.uint8
    mean = large.reshape(128, 4, 128, 4, 3).mean((1, 3))
    assert np.abs(small - mean).max() <= 0.51
    assert render_keypoints(pixels, ~everything, 512, 128).max() == 0
    assert len(MARGINS) == NUM_POINTS


@pytest.mark.parametrize("size", [512, 768])
def test_drawing_is_controlnet_auxs_own(size: int) -> None:
    """The same image as ``draw_poses`` makes of a detected pose in which everything was found."""
    from controlnet_aux.open_pose import PoseResult, draw_poses
    from controlnet_aux.open_pose.body import BodyResult, Keypoint

    pixels = np.random.default_rng(1).uniform(20, size - 20, (NUM_POINTS, 2))
    found = [Keypoint(x / size, y / size) for x, y in pixels]
    pose = PoseResult(BodyResult([*found[:18]], 18.0, 18), found[18:39], found[39:60], found[60:])
    ours = render_keypoints(pixels, np.ones(NUM_POINTS, dtype=bool), size, size)
    assert np.array_equal(ours, draw_poses([pose], size, size))


DISCS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85),
    (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255),
    (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip
"""Colours of OpenPose's body keypoints; limbs have 0.6 of them."""


@pytest.mark.parametrize("size", [768, 1024])
def test_maps_above_512_pixels_are_drawn_at_their_own_size(scene: tuple[PosedBody, Keypoints], size: int) -> None:
    posed, keypoints = scene
    cameras = views(posed, 0).resized(size, size)
    image = render_pose_map(keypoints, cameras, body_depth(posed, cameras), size=size, hands=False, face=False)[0]
    drawn = (image * 255).round().int()
    pixels = project(keypoints.body, cameras)[0][0]
    for pixel, colour in zip(pixels, DISCS, strict=True):
        rows, columns = torch.nonzero((drawn == torch.tensor(colour)).all(-1), as_tuple=True)
        assert len(rows) == 49  # the whole disc of radius 4, none of it blended
        centre = torch.stack([columns.float().mean() + 0.5, rows.float().mean() + 0.5])
        assert (centre - pixel).abs().max() <= 1
    limbs = {tuple(int(0.6 * c) for c in colour) for colour in DISCS}
    assert set(map(tuple, drawn.flatten(0, 1).unique(dim=0).tolist())) <= {(0, 0, 0), *DISCS, *limbs}


def test_maps_up_to_512_pixels_are_drawn_at_512(scene: tuple[PosedBody, Keypoints]) -> None:
    posed, keypoints = scene
    cameras = views(posed, 0)
    depth = body_depth(posed, cameras)
    pixels, visible = visible_points(
        stack_keypoints(keypoints),
        cameras.T_camera_world[0].double().numpy(),
        cameras.K[0].double().numpy(),
        (SIZE, SIZE),
        depth[0].double().numpy(),
    )
    for size in (128, 384, 512):
        expected = render_keypoints(pixels * (512 / SIZE), visible, 512, size)
        found = render_pose_map(keypoints, cameras, depth, size=size)[0]
        assert torch.equal(found, torch.from_numpy(expected).float() / 255)


def test_a_drawing_is_never_enlarged() -> None:
    with pytest.raises(ValueError, match="draw_size=512: expected at least size=768"):
        render_keypoints(np.zeros((NUM_POINTS, 2)), np.ones(NUM_POINTS, dtype=bool), 512, 768)


def test_hands_and_face_can_be_left_out(scene: tuple[PosedBody, Keypoints]) -> None:
    posed, keypoints = scene
    cameras = views(posed, 0)
    depth = body_depth(posed, cameras)
    both = render_pose_map(keypoints, cameras, depth, size=SIZE)
    bare = render_pose_map(keypoints, cameras, depth, size=SIZE, hands=False, face=False)
    assert both.shape == (1, SIZE, SIZE, 3)
    assert 0 <= float(both.min()) <= float(both.max()) <= 1
    assert (bare[0] > 0.9).all(-1).sum() == 0
    assert (both > 0).any(-1).sum() > (bare > 0).any(-1).sum()


def sphere(radius: float) -> PosedBody:
    """A sphere around the origin as a body (its joints are of no use)."""
    rows, columns = 48, 96
    polar = torch.linspace(0, math.pi, rows + 1)[:, None]
    around = torch.arange(columns)[None] * (2 * math.pi / columns)
    ring = torch.stack([polar.sin() * around.cos(), polar.cos() + 0 * around, polar.sin() * around.sin()], -1)
    faces = []
    for r in range(rows):
        for c in range(columns):
            a, b = r * columns + c, r * columns + (c + 1) % columns
            faces += [(a, b, a + columns), (b, b + columns, a + columns)]
    return PosedBody(
        radius * ring.reshape(-1, 3), torch.tensor(faces), torch.zeros(55, 3), torch.eye(4).expand(55, 4, 4)
    )


def test_depth_of_a_sphere_is_exact() -> None:
    radius, size = 0.5, 128
    centre = torch.zeros(2, 3)
    cameras = orbit(
        centre, torch.full((2,), 1.4), torch.tensor([0.3, 2.0]), torch.tensor([0.0, 0.5]), torch.full((2,), 0.7), size
    )
    depth = body_depth(sphere(radius), cameras, size)
    assert depth.shape == (2, size, size)
    distance = cameras.T_camera_world[0, :3, 3].norm()
    focal = cameras.K[0, 0, 0]
    grid = (torch.arange(size) + 0.5 - size / 2) / focal
    x, y = torch.meshgrid(grid, grid, indexing="xy")
    a, half_b = x**2 + y**2 + 1, distance
    discriminant = half_b**2 - a * (distance**2 - radius**2)
    truth = (half_b - discriminant.clamp_min(0).sqrt()) / a
    inside = discriminant > 0.5 * discriminant.max()  # off the rim, where splats of 3 cm swell
    for view in depth:
        error = view[inside] - truth[inside]
        assert error.max() < 0.005  # the far side does not shine through
        assert error.min() > -0.018
        assert (view > 0).sum() < 1.12 * (discriminant > 0).sum()
        assert view[0, 0] == 0


def test_the_axes_of_triangles_are_those_of_their_covariance(scene: tuple[PosedBody, Keypoints]) -> None:
    """Of all triangles of the body, of slivers, and of some without area or extent."""
    posed, _ = scene
    flat = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0.3, 0, 0]], [[1.0, 2, 3]] * 3, [[0.0, 0, 0], [0, 0, 0], [0, 2, 0]]])
    sliver = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0.5, 1e-4, 0]]])
    corners = torch.cat([posed.vertices[posed.faces], flat, sliver]).double()
    axes, deviations = triangle_axes(corners)
    torch.testing.assert_close(axes @ axes.transpose(1, 2), torch.eye(3).double().expand_as(axes), atol=1e-9, rtol=0)
    torch.testing.assert_close(torch.linalg.det(axes), torch.ones(len(axes)).double())
    centred = corners - corners.mean(1, keepdim=True)
    expected = centred.transpose(1, 2) @ centred / 3
    again = axes @ torch.diag_embed(deviations.square()) @ axes.transpose(1, 2)
    assert (again - expected).abs().amax((1, 2)).le(1e-9 * (1e-9 + expected.abs().amax((1, 2)))).all()
    assert (deviations[:, 0] == 0).all() and (deviations[:, 1] >= deviations[:, 2]).all()


def test_surfels_are_made_without_a_batched_solver(scene: tuple[PosedBody, Keypoints]) -> None:
    """cuSOLVER's takes workspace for each of the body's 27,420 triangles."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        body_surfels(scene[0])
    names = {event.key for event in profiled.key_averages()}
    assert "aten::linalg_cross" in names and not any("eig" in name or "svd" in name for name in names)
