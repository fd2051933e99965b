"""Pose maps: OpenPose keypoints, culled by the body's depth and rendered as ControlNet expects them.

controlnet-aux draws them (imported at the first use, which takes seconds). Its strokes are 4 pixels wide on any canvas.
Maps of up to 512 pixels are drawn at 512 and averaged down, so that strokes are as wide relative to the body as in
512-pixel maps; larger maps are drawn at their own size. The functions on keypoints are numpy, for programs that render
thousands of maps.
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
_BODY_NAMES = (
    "nose", "neck", "shoulder", "elbow", "wrist", "shoulder", "elbow", "wrist",
    "hip", "knee", "ankle", "hip", "knee", "ankle", "eye", "eye", "ear", "ear",
)  # fmt: skip
MARGINS: Float[np.ndarray, " 130"] = np.array(
    [_BODY_MARGINS[name] for name in _BODY_NAMES] + [0.05] * (2 * NUM_HAND) + [0.025] * NUM_FACE
)
"""Maximum depth in metres of each keypoint behind the visible surface. Joints lie inside the body (hips deepest), face
points on the skin. The packaged prior was trained with these values."""

SMALLEST_CANVAS = 512
"""Side in pixels of the canvas on which smaller pose maps are drawn."""

SURFEL_SCALE = 1.3
"""Standard deviation of a surfel in units of its triangle's: smaller leaves gaps, larger inflates the body."""


def render_pose_map(
    keypoints: Keypoints,
    cameras: Cameras,
    depth: Float[Tensor, "B H W"],
    *,
    size: int,
    hands: bool = True,
    face: bool = True,
) -> Float[Tensor, "B size size 3"]:
    """Render pose maps in [0, 1] of one body for each camera.

    Args:
        keypoints: world metres. Those outside the image or more than ``MARGINS`` behind the surface are left out.
        cameras: of any image size.
        depth: the body's surface from the same cameras in metres, at any resolution; 0 or inf where it is empty
            (``body_depth``).
        size: side of the maps in pixels.
        hands, face: render these keypoints (some ControlNets know the body only).
    """
    points = stack_keypoints(keypoints)
    selected = np.ones(NUM_POINTS, dtype=bool)
    selected[NUM_BODY : NUM_BODY + 2 * NUM_HAND] = hands
    selected[NUM_BODY + 2 * NUM_HAND :] = face
    draw_size, maps = max(SMALLEST_CANVAS, size), []
    for T, K, surface in zip(_numpy(cameras.T_camera_world), _numpy(cameras.K), _numpy(depth), strict=True):
        pixels, visible = visible_points(points, T, K, (cameras.width, cameras.height), surface)
        pixels = pixels * (draw_size / np.array([cameras.width, cameras.height]))
        maps.append(render_keypoints(pixels, visible & selected, draw_size, size))
    return torch.from_numpy(np.stack(maps)).to(depth.device).float() / 255


def stack_keypoints(keypoints: Keypoints) -> Float[np.ndarray, "130 3"]:
    """The keypoints in one array: 18 body, 21 left hand, 21 right hand, 70 face."""
    parts = [keypoints.body, keypoints.left_hand, keypoints.right_hand, keypoints.face]
    return _numpy(torch.cat(parts))


def visible_points(
    points: Float[np.ndarray, "P 3"],
    T_camera_world: Float[np.ndarray, "4 4"],
    K: Float[np.ndarray, "3 3"],
    image_size: tuple[int, int],
    depth: Float[np.ndarray, "H W"],
    margins: Float[np.ndarray, " P"] = MARGINS,
) -> tuple[Float[np.ndarray, "P 2"], Bool[np.ndarray, " P"]]:
    """Project world points and test their visibility.

    Args:
        points: world metres.
        T_camera_world, K: the camera; K in pixels.
        image_size: width and height in pixels.
        depth: surface in metres at any resolution, 0 or inf where it is empty.
        margins: maximum depth behind the surface, metres.

    Returns:
        Positions in pixels, and whether each point is inside the image and not hidden.
    """
    width, height = image_size
    in_camera = points @ T_camera_world[:3, :3].T + T_camera_world[:3, 3]
    z = in_camera[:, 2]
    in_front = z > 1e-3
    homogeneous = in_camera @ K.T
    pixels = homogeneous[:, :2] / np.where(in_front, z, 1.0)[:, None]
    inside = in_front & (pixels >= 0).all(1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
    rows, columns = depth.shape
    column = np.clip(np.where(inside, pixels[:, 0], 0) * columns / width, 0, columns - 1).astype(int)
    row = np.clip(np.where(inside, pixels[:, 1], 0) * rows / height, 0, rows - 1).astype(int)
    return pixels, inside & (z <= _farthest_nearby(depth)[row, column] + margins)


def render_keypoints(
    pixels: Float[np.ndarray, "130 2"], visible: Bool[np.ndarray, " 130"], draw_size: int, size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Draw keypoints and average the drawing down.

    Without a visible nose, no face is drawn, as OpenPose detects none then (e.g. from behind).

    Args:
        pixels: positions on the canvas, in the order of ``stack_keypoints``.
        visible: the keypoints to draw.
        draw_size: side of the canvas in pixels.
        size: side of the result in pixels.

    Raises:
        ValueError: if ``draw_size`` is below ``size`` (an enlarged drawing would be blurred).
    """
    if draw_size < size:
        raise ValueError(f"draw_size={draw_size}: expected at least size={size}")
    drawing, Keypoint = _controlnet_aux()
    visible = visible & (np.arange(NUM_POINTS) < NUM_POINTS - NUM_FACE * (not visible[NOSE]))
    scaled = pixels / draw_size
    # controlnet-aux skips None among body points, and negative positions among those of hands and face.
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
    """Depth of the body's surface in metres, 0 where it is empty.

    Args:
        posed: the body.
        cameras: of any image size.
        size: side of the square depth maps in pixels.
        surfels: ``body_surfels(posed)``; worth keeping for repeated calls, as they cost more than the render.
    """
    render = rasterize(body_surfels(posed) if surfels is None else surfels, cameras.resized(size, size))
    return torch.where(render.alpha[..., 0] > 0.5, render.depth[..., 0], 0.0)


@torch.no_grad()
def body_surfels(posed: PosedBody) -> Gaussians:
    """One opaque flat splat per triangle, with the triangle's extent: together they cover the surface."""
    corners = posed.vertices[posed.faces]
    means = corners.mean(1)
    axes, deviations = triangle_axes(corners)
    scales = (SURFEL_SCALE * deviations).clamp_min(1e-3)
    opacities = torch.full_like(means[:, 0], 0.99)
    return Gaussians(means, matrix_to_quat(axes), scales, opacities, torch.zeros_like(means))


def triangle_axes(corners: Float[Tensor, "F 3 3"]) -> tuple[Float[Tensor, "F 3 3"], Float[Tensor, "F 3"]]:
    """Principal axes of triangles' corners and the standard deviations along them, in closed form.

    (On CUDA, ``torch.linalg.eigh`` needs workspace for every matrix of the batch.)

    Returns:
        Proper rotations whose columns are the normal and the longer and the shorter axis in the triangle's plane, and
        the standard deviations in this order (the first is 0). Degenerate triangles get any axes across their longest
        edge.
    """
    offsets = corners - corners.mean(1, keepdim=True)
    edges = corners.roll(-1, 1) - corners
    norms = edges.norm(dim=-1)
    longest = edges.gather(1, norms.argmax(1)[:, None, None].expand(-1, 1, 3))[:, 0]
    coordinate = torch.eye(3, dtype=corners.dtype, device=corners.device)
    has_length = (norms.amax(1) > 0)[:, None]
    first = torch.nn.functional.normalize(torch.where(has_length, longest, coordinate[0]), dim=-1)
    across = torch.linalg.cross(edges[:, 0], edges[:, 1])
    has_area = across.norm(dim=-1, keepdim=True) > 1e-6 * norms.amax(1)[:, None].square()
    some = torch.linalg.cross(first, coordinate[first.abs().argmin(-1)])
    normal = torch.nn.functional.normalize(torch.where(has_area, across, some), dim=-1)
    second = torch.linalg.cross(normal, first)
    x, y = (offsets @ first[..., None])[..., 0], (offsets @ second[..., None])[..., 0]
    half_sum, half_difference = (x.square() + y.square()).mean(1) / 2, (x.square() - y.square()).mean(1) / 2
    covariance = (x * y).mean(1)
    angle = torch.atan2(covariance, half_difference)[:, None] / 2
    long, short = angle.cos() * first + angle.sin() * second, angle.cos() * second - angle.sin() * first
    half_range = torch.hypot(half_difference, covariance)
    variances = torch.stack([torch.zeros_like(half_sum), half_sum + half_range, half_sum - half_range], -1)
    return torch.stack([normal, long, short], -1), variances.clamp_min(0).sqrt()


def _farthest_nearby(depth: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """The farthest surface in a 3 x 3 neighbourhood, so that rounding hides no point near an edge; inf if all nine
    pixels are empty."""
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
