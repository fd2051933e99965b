"""Views of people: their names by azimuth, and where heads are in images and from which side they are seen."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from avatar_gs.geometry import project
from avatar_gs.lab.world.wardrobe import HEAD_JOINT, load_wardrobe
from avatar_gs.render.shading import camera_positions
from avatar_gs.types import Cameras, PosedBody, ViewDirection

VIEW_LIMIT_FRONT, VIEW_LIMIT_BACK = np.deg2rad(60), np.deg2rad(120)
CLEAR = np.deg2rad(15)
"""Distance from a limit between views from which on the view is unambiguous."""
CUT = 64
"""Side of a head's crop in pixels."""
MARGIN = 1.5
"""Side of a crop relative to the head's size."""


@dataclass(frozen=True)
class Head:
    """A head's bounding box in one image, and the direction that it is seen from."""

    centre: tuple[float, float]
    """Centre (x, y) of the box in pixels."""
    span: float
    """Longer side of the box in pixels."""
    turn: float
    """Azimuth of the camera in radians; 0: in front of the face, positive: at its left."""
    shown: float
    """Fraction of the box inside the image."""


def from_the_front(azimuth: float) -> float:
    """Angle between an azimuth (radians, any turn) and the front, 0 to pi."""
    return abs((azimuth + np.pi) % (2 * np.pi) - np.pi)


def view_of(azimuth: float) -> ViewDirection:
    """Front, side or back by azimuth (radians, any turn)."""
    turn = from_the_front(azimuth)
    if turn < VIEW_LIMIT_FRONT:
        return ViewDirection.FRONT
    return ViewDirection.BACK if turn > VIEW_LIMIT_BACK else ViewDirection.SIDE


def beyond_doubt(azimuth: float) -> bool:
    """Whether the view of an azimuth (radians, any turn) is unambiguous."""
    turn = from_the_front(azimuth)
    return bool(min(abs(turn - limit) for limit in (VIEW_LIMIT_FRONT, VIEW_LIMIT_BACK)) > CLEAR)


def find_heads(posed: PosedBody, cameras: Cameras) -> list[Head]:
    """The head of the undressed body in the image of each camera."""
    forward = posed.T_posed_rest[HEAD_JOINT, :3, 2]
    towards = camera_positions(cameras) - posed.joints[HEAD_JOINT]
    turns = torch.atan2(towards[:, 0], towards[:, 2]) - torch.atan2(forward[0], forward[2])
    size = np.array([cameras.width, cameras.height])
    heads = []
    for pixels, turn in zip(project(posed.vertices[_head_vertices()], cameras)[0].numpy(), turns.tolist(), strict=True):
        low, high = pixels.min(0), pixels.max(0)
        inside = np.clip(high, 0, size) - np.clip(low, 0, size)
        x, y = ((low + high) / 2).tolist()
        shown = float(np.prod(inside / (high - low)))
        heads.append(Head((x, y), float((high - low).max()), math.remainder(turn, math.tau), shown))
    return heads


def _head_vertices() -> Int[Tensor, " H"]:
    return torch.nonzero(load_wardrobe().body.weights.argmax(1) == HEAD_JOINT)[:, 0]


def cut_out(image: NDArray[np.float32], head: Head) -> Float[np.ndarray, "64 64 3"]:
    """A square crop around the head; the image's border is replicated outside of it."""
    half = max(1.0, MARGIN * head.span / 2)
    left, top = (round(middle - half) for middle in head.centre)
    right, bottom = left + round(2 * half), top + round(2 * half)
    rows = np.clip(np.arange(top, bottom), 0, image.shape[0] - 1)
    columns = np.clip(np.arange(left, right), 0, image.shape[1] - 1)
    shrinks = len(rows) > CUT
    window = np.ascontiguousarray(image[rows][:, columns])
    return cv2.resize(window, (CUT, CUT), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
