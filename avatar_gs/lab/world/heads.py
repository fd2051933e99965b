"""Where people's heads are in pictures, and from which side they are seen."""

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
from avatar_gs.types import Cameras, PosedBody

CUT = 64
"""Pixels of a head's cut-out."""
MARGIN = 1.5
"""What a cut-out shows, in sizes of the head."""


@dataclass(frozen=True)
class Head:
    """One head in one picture: the middle (x, y) and the longer side of its box in pixels; ``turn``, the azimuth in
    radians that it is seen from (0: its own front, positive: from its left); and the share of the box that lies inside
    of the picture."""

    centre: tuple[float, float]
    span: float
    turn: float
    shown: float


def find_heads(posed: PosedBody, cameras: Cameras) -> list[Head]:
    """The head of the undressed body in each camera's picture."""
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


def cut_out(picture: NDArray[np.float32], head: Head) -> Float[np.ndarray, "64 64 3"]:
    """The head and what is around it, at one size; beyond the picture's edge its border goes on."""
    half = max(1.0, MARGIN * head.span / 2)
    left, top = (round(middle - half) for middle in head.centre)
    right, bottom = left + round(2 * half), top + round(2 * half)
    rows = np.clip(np.arange(top, bottom), 0, picture.shape[0] - 1)
    columns = np.clip(np.arange(left, right), 0, picture.shape[1] - 1)
    shrinks = len(rows) > CUT
    window = np.ascontiguousarray(picture[rows][:, columns])
    return cv2.resize(window, (CUT, CUT), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
