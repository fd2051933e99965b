"""Pose maps: OpenPose keypoints, culled by the body's own depth and drawn as ControlNet expects them.

The drawing is controlnet-aux's own (imported at the first use: it takes seconds). Its strokes are a fixed 4 pixels wide
on any canvas. Maps of up to 512 pixels are drawn at 512 and averaged down, so that small priors see strokes as wide as
512-pixel ones do, relative to the body. Larger maps are drawn at their own size: what controlnet-aux draws for a
picture of that size, with no pixel enlarged. Everything below ``render_pose_map`` is numpy, for programs that draw maps
by the thousand.
"""

import functools
import warnings
from types import ModuleType

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from avatar_gs.geometry import matrix_to_quat
from avatar_gs.render.rasterize import rasterize
from avatar_gs.types import Cameras, Gaussians, Keypoints, PosedBody

NUM_BODY, NUM_HAND, NUM_FACE = 18, 21, 70
NUM_POINTS = NUM_BODY + 2 * NUM_HAND + NUM_FACE
"""All keypoints in one array: body, left hand, right hand, face."""
NOSE = 0

_BODY_MARGINS = {
    "nose": 0.025, "neck": 0.60, "shoulder": 0.14, "elbow": 0.10, "wrist": 0.07, "hip": 0.60, "knee": 0.12,
    "ankle": 0.10, "eye": 0.03, "ear": 0.05,
}  # fmt: skip
_BODY_KINDS = (
    "nose", "neck", "shoulder", "elbow", "wrist", "shoulder", "elbow", "wrist",
    "hip", "knee", "ankle", "hip", "knee", "ankle", "eye", "eye", "ear", "ear",
)  # fmt: skip
MARGINS: Float[np.ndarray, " 130"] = np.array(
    [_BODY_MARGINS[kind] for kind in _BODY_KINDS] + [0.05] * (2 * NUM_HAND) + [0.025] * NUM_FACE
)
"""How far behind the visible surface a keypoint may lie and still be drawn, in metres. Joints lie inside the flesh
(hips deepest); face points lie on the skin. The packaged prior was trained on maps drawn with these numbers."""

SMALLEST_CANVAS = 512
"""Side in pixels of the canvas that smaller pose maps are drawn on."""

SURFEL_SCALE = 1.3
"""A depth splat's deviation in units of its triangle's: less lets the far side shine through, more swells the body."""


def render_pose_map(
    keypoints: Keypoints,
    cameras: Cameras,
    depth: Float[Tensor, "B H W"],
    *,
    size: int,
    hands: bool = True,
    face: bool = True,
) -> Float[Tensor, "B size size 3"]:
    """Pose maps in [0, 1] of one body seen by each camera.

    ``depth`` is the body's surface from the same cameras at any resolution, metres, 0 or inf where it is not
    (``body_depth``). Points outside the picture or farther than ``MARGINS`` behind the surface are left out.
    ``hands`` and ``face`` say whether those are drawn at all (some ControlNets know the body only).
    """
    points = stack_points(keypoints)
    drawn = np.ones(NUM_POINTS, dtype=bool)
    drawn[NUM_BODY : NUM_BODY + 2 * NUM_HAND] = hands
    drawn[NUM_BODY + 2 * NUM_HAND :] = face
    draw_size, maps = max(SMALLEST_CANVAS, size), []
    for T, K, surface in zip(_numpy(cameras.T_camera_world), _numpy(cameras.K), _numpy(depth), strict=True):
        pixels, visible = visible_points(points, T, K, (cameras.width, cameras.height), surface)
        pixels = pixels * (draw_size / np.array([cameras.width, cameras.height]))
        maps.append(draw_points(pixels, visible & drawn, draw_size, size))
    return torch.from_numpy(np.stack(maps)).to(depth.device).float() / 255


def stack_points(keypoints: Keypoints) -> Float[np.ndarray, "130 3"]:
    """The keypoints as one array: 18 body, 21 left hand, 21 right hand, 70 face."""
    parts = [keypoints.body, keypoints.left_hand, keypoints.right_hand, keypoints.face]
    return _numpy(torch.cat(parts))


def visible_points(
    points: Float[np.ndarray, "P 3"],
    T_camera_world: Float[np.ndarray, "4 4"],
    K: Float[np.ndarray, "3 3"],
    picture: tuple[int, int],
    depth: Float[np.ndarray, "H W"],
    margins: Float[np.ndarray, " P"] = MARGINS,
) -> tuple[Float[np.ndarray, "P 2"], Bool[np.ndarray, " P"]]:
    """Pixel positions of world points in a picture of (width, height), and which of them are inside and not hidden.

    A point is hidden if it lies more than its margin behind the surface ``depth`` (metres, 0 or inf where empty).
    """
    width, height = picture
    in_camera = points @ T_camera_world[:3, :3].T + T_camera_world[:3, 3]
    z = in_camera[:, 2]
    in_front = z > 1e-3
    homogeneous = in_camera @ K.T
    pixels = homogeneous[:, :2] / np.where(in_front, z, 1.0)[:, None]
    inside = in_front & (pixels >= 0).all(1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
    rows, columns = depth.shape
    column = np.clip(np.where(inside, pixels[:, 0], 0) * columns / width, 0, columns - 1).astype(int)
    row = np.clip(np.where(inside, pixels[:, 1], 0) * rows / height, 0, rows - 1).astype(int)
    return pixels, inside & (z <= _lenient(depth)[row, column] + margins)


def draw_points(
    pixels: Float[np.ndarray, "130 2"], visible: Bool[np.ndarray, " 130"], draw_size: int, size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Draws keypoints (pixels of a ``draw_size`` square, ordered as ``stack_points``) and averages down to ``size``.

    Without a visible nose no face is drawn, as OpenPose finds none then (from behind, the jaw's ends would be left).

    Raises:
        ValueError: if ``draw_size`` is below ``size``: an enlarged drawing would be blurred.
    """
    if draw_size < size:
        raise ValueError(f"draw_size={draw_size}: expected at least size={size}")
    drawing, Keypoint = _controlnet_aux()
    visible = visible & (np.arange(NUM_POINTS) < NUM_POINTS - NUM_FACE * (not visible[NOSE]))
    scaled = pixels / draw_size
    # What the drawing functions skip: None for the body, points at negative positions for hands and face.
    points = [Keypoint(x, y) if seen else Keypoint(-1.0, -1.0) for (x, y), seen in zip(scaled, visible, strict=True)]
    body = [point if seen else None for point, seen in zip(points[:NUM_BODY], visible, strict=False)]
    left, right = points[NUM_BODY : NUM_BODY + NUM_HAND], points[NUM_BODY + NUM_HAND : NUM_BODY + 2 * NUM_HAND]
    canvas = np.zeros((draw_size, draw_size, 3), dtype=np.uint8)
    canvas = drawing.draw_bodypose(canvas, body)
    canvas = drawing.draw_handpose(drawing.draw_handpose(canvas, left), right)
    canvas = drawing.draw_facepose(canvas, points[NUM_BODY + 2 * NUM_HAND :])
    return canvas if size == draw_size else cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)


@torch.no_grad()
def body_depth(
    posed: PosedBody, cameras: Cameras, size: int = 256, surfels: Gaussians | None = None
) -> Float[Tensor, "B H W"]:
    """Depth in metres of the body's surface, 0 where it is not, in square pictures of ``size`` pixels.

    The body is drawn as opaque flat splats, so that depth comes from the renderer that the splats use. Who asks often
    for one pose keeps its ``body_surfels``: they cost more than the picture.
    """
    render = rasterize(body_surfels(posed) if surfels is None else surfels, cameras.resized(size, size))
    return torch.where(render.alpha[..., 0] > 0.5, render.depth[..., 0], 0.0)


@torch.no_grad()
def body_surfels(posed: PosedBody) -> Gaussians:
    """One flat splat a triangle, with the triangle's own extent: together they cover the surface."""
    corners = posed.vertices[posed.faces]
    means = corners.mean(1)
    axes, deviations = triangle_axes(corners)
    scales = (SURFEL_SCALE * deviations).clamp_min(1e-3)
    opacities = torch.full_like(means[:, 0], 0.99)
    return Gaussians(means, matrix_to_quat(axes), scales, opacities, torch.zeros_like(means))


def triangle_axes(corners: Float[Tensor, "F 3 3"]) -> tuple[Float[Tensor, "F 3 3"], Float[Tensor, "F 3"]]:
    """The principal axes of triangles' corners, and their standard deviations along them, in closed form.

    ``torch.linalg.eigh`` would do, but on CUDA its batched solver takes workspace for every matrix of the batch.

    Returns:
        Proper rotations whose columns are the normal and the longer and the shorter axis within the triangle, and the
        deviations in that order (the first is 0). Triangles without area get some axes across their longest edge.
    """
    spread = corners - corners.mean(1, keepdim=True)
    edges = corners.roll(-1, 1) - corners
    lengths = edges.norm(dim=-1)
    longest = edges.gather(1, lengths.argmax(1)[:, None, None].expand(-1, 1, 3))[:, 0]
    coordinate = torch.eye(3, dtype=corners.dtype, device=corners.device)
    has_length = (lengths.amax(1) > 0)[:, None]
    first = torch.nn.functional.normalize(torch.where(has_length, longest, coordinate[0]), dim=-1)
    across = torch.linalg.cross(edges[:, 0], edges[:, 1])
    has_area = across.norm(dim=-1, keepdim=True) > 1e-6 * lengths.amax(1)[:, None].square()
    some = torch.linalg.cross(first, coordinate[first.abs().argmin(-1)])
    normal = torch.nn.functional.normalize(torch.where(has_area, across, some), dim=-1)
    second = torch.linalg.cross(normal, first)
    x, y = (spread @ first[..., None])[..., 0], (spread @ second[..., None])[..., 0]
    half_sum, half_difference = (x.square() + y.square()).mean(1) / 2, (x.square() - y.square()).mean(1) / 2
    covariance = (x * y).mean(1)
    angle = torch.atan2(covariance, half_difference)[:, None] / 2
    long, short = angle.cos() * first + angle.sin() * second, angle.cos() * second - angle.sin() * first
    half_range = torch.hypot(half_difference, covariance)
    variances = torch.stack([torch.zeros_like(half_sum), half_sum + half_range, half_sum - half_range], -1)
    return torch.stack([normal, long, short], -1), variances.clamp_min(0).sqrt()


def _lenient(depth: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """The farthest surface within a pixel (a point near an edge must not be hidden by a pixel's rounding).

    Empty pixels count only where all nine are empty, and hide nothing there.
    """
    surface = np.where(np.isfinite(depth), depth, 0.0).astype(np.float32)
    farthest = cv2.dilate(surface, np.ones((3, 3), np.uint8))
    return np.where(farthest > 0, farthest, np.inf)


@functools.cache
def _controlnet_aux() -> tuple[ModuleType, type]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from controlnet_aux.open_pose import util
        from controlnet_aux.open_pose.body import Keypoint
    return util, Keypoint


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()
