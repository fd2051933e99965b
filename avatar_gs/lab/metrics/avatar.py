"""What one avatar measures like against the drawn truth of a prompt."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from avatar_gs.lab.metrics.colours import SOLID, PartView, name_pixels, overlap, stray_alpha
from avatar_gs.lab.metrics.truth import BACKGROUND, CLOSE_UP, DIRECTIONS, VOLUME_FRAMING, Stage, Truth
from avatar_gs.render.rasterize import rasterize
from avatar_gs.types import Cameras, Framing, Gaussians

Strip = UInt8[np.ndarray, "S W 3"]
"""Square pictures side by side, as ``STRIP_LABELS`` names them."""
STRIP_LABELS = [
    *(f"true {direction}" for direction in DIRECTIONS),
    *(f"avatar {direction}" for direction in DIRECTIONS),
    "true head",
    "avatar head",
]
STRAY_MARGIN = 4.0
"""Pixels (6 cm) around the true silhouette: what no prompt says, such as the length of hair and skirt, stays within."""


@dataclass(frozen=True)
class Pictures:
    """An avatar (or a drawn person) in some views, on black."""

    rgb: Float[np.ndarray, "V S S 3"]
    alpha: Float[np.ndarray, "V S S"]

    def on_grey(self) -> Float[np.ndarray, "V S S 3"]:
        """The pictures in [0, 1] before the grey of picture sheets."""
        return np.clip(self.rgb + (1 - self.alpha[..., None]) * BACKGROUND, 0, 1)


@dataclass(frozen=True)
class Measurement:
    """Figures of one avatar at one moment, from which every table is made.

    ``parts``: each part's views, full body and the framing that shows it. ``volumes``: pixels of the intersection and
    of the union with the true volume, outside the bare body. ``stray``: alpha far from the person (``stray_alpha``).
    """

    parts: dict[str, list[PartView]]
    volumes: dict[str, tuple[int, int]]
    stray: float

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> "Measurement":
        parts = {part: [PartView(**view) for view in views] for part, views in plain["parts"].items()}
        volumes = {name: (int(both), int(either)) for name, (both, either) in plain["volumes"].items()}
        return cls(parts, volumes, plain["stray"])


def draw(gaussians: Gaussians, stage: Stage) -> Pictures:
    """The posed avatar in every view of the stage."""
    return draw_from(gaussians, stage.views.cameras)


@torch.no_grad()
def draw_from(gaussians: Gaussians, cameras: Cameras) -> Pictures:
    """The posed avatar from each camera."""
    cameras = cameras.to(gaussians.means.device)
    rgb, alpha = [], []
    for view in range(len(cameras)):
        render = rasterize(gaussians, cameras[view])
        rgb.append(render.rgb[0].cpu().numpy())
        alpha.append(render.alpha[0, ..., 0].cpu().numpy())
    return Pictures(np.stack(rgb), np.stack(alpha))


def measure(pictures: Pictures, truth: Truth) -> Measurement:
    """Colours of the parts on their true pixels, overlap of the volumes, and what strays from the person."""
    return Measurement(
        parts={part: _part_views(pictures, truth, part) for part in truth.case.asked if part in CLOSE_UP},
        volumes={name: _volume(pictures, truth, name) for name in truth.case.volumes},
        stray=_stray(pictures, truth),
    )


def _part_views(pictures: Pictures, truth: Truth, part: str) -> list[PartView]:
    found = []
    for framing in (Framing.BODY, CLOSE_UP[part]):
        for direction in DIRECTIONS:
            view = truth.stage.index(framing, direction)
            if truth.shows(view, part):
                mask = truth.mask(view, part)
                rgb, alpha = pictures.rgb[view], pictures.alpha[view]
                found.append(name_pixels(rgb, alpha, mask, part, framing.value, direction))
    return found


def _volume(pictures: Pictures, truth: Truth, name: str) -> tuple[int, int]:
    both, either = 0, 0
    for direction in DIRECTIONS:
        view = truth.stage.index(VOLUME_FRAMING[name], direction)
        true, domain = truth.volume(view, name)
        shared, joined = overlap(pictures.alpha[view] >= SOLID, true, domain)
        both, either = both + shared, either + joined
    return both, either


def _stray(pictures: Pictures, truth: Truth) -> float:
    """The mean over the full-body views."""
    shares = []
    for direction in DIRECTIONS:
        view = truth.stage.index(Framing.BODY, direction)
        shares.append(stray_alpha(pictures.alpha[view], truth.silhouettes[view], STRAY_MARGIN))
    return float(np.mean(shares))


def strip(pictures: Pictures, truth: Truth) -> Strip:
    """Truth beside avatar, for people: front, left, back and right of each, then the two heads from the front."""
    body = [truth.stage.index(Framing.BODY, direction) for direction in DIRECTIONS]
    head = truth.stage.index(Framing.HEAD, "front")
    avatar = pictures.on_grey()
    people = [truth.picture(view) for view in body] + [avatar[view] for view in body]
    return in_a_row([*people, truth.picture(head), avatar[head]])


def in_a_row(cells: Sequence[Float[np.ndarray, "S S 3"]]) -> Strip:
    """Square pictures in [0, 1], side by side."""
    return np.concatenate([(np.clip(cell, 0, 1) * 255).round().astype(np.uint8) for cell in cells], 1)
