"""Images of an avatar, and its figures compared with the ground truth of a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8

from avatar_gs.lab.metrics.colours import SOLID, PartView, name_pixels, overlap, stray_alpha
from avatar_gs.lab.metrics.truth import BACKGROUND, CLOSE_UP, VOLUME_FRAMING, Truth
from avatar_gs.lab.metrics.views import DIRECTIONS
from avatar_gs.render.rasterize import rasterize
from avatar_gs.types import Cameras, Framing, Gaussians

Strip = UInt8[np.ndarray, "S W 3"]
"""Square images side by side."""
STRIP_LABELS = [
    *(f"true {direction}" for direction in DIRECTIONS),
    *(f"avatar {direction}" for direction in DIRECTIONS),
    "true head",
    "avatar head",
]
STRAY_MARGIN = 4.0
"""Pixels (6 cm) around the true silhouette for details that prompts do not describe, such as the length of hair."""


@dataclass(frozen=True)
class ViewImages:
    """An avatar, person or sample in some views, on black (premultiplied)."""

    rgb: Float[np.ndarray, "V S S 3"]
    alpha: Float[np.ndarray, "V S S"]

    def on_grey(self) -> Float[np.ndarray, "V S S 3"]:
        """The images in [0, 1] on the grey of contact sheets."""
        return np.clip(self.rgb + (1 - self.alpha[..., None]) * BACKGROUND, 0, 1)


@dataclass(frozen=True)
class Measurement:
    """Figures of one avatar at one step.

    Args:
        parts: each part in the full-body views and in the framing that shows it.
        volumes: pixels of the intersection and the union with each true volume, outside the bare body.
        stray: alpha far from the person (``stray_alpha``), mean over the full-body views.
    """

    parts: dict[str, list[PartView]]
    volumes: dict[str, tuple[int, int]]
    stray: float


@torch.no_grad()
def render_views(gaussians: Gaussians, cameras: Cameras) -> ViewImages:
    """Render a posed avatar from each camera."""
    cameras = cameras.to(gaussians.means.device)
    rgb, alpha = [], []
    for view in range(len(cameras)):
        render = rasterize(gaussians, cameras[view])
        rgb.append(render.rgb[0].cpu().numpy())
        alpha.append(render.alpha[0, ..., 0].cpu().numpy())
    return ViewImages(np.stack(rgb), np.stack(alpha))


def measure(images: ViewImages, truth: Truth) -> Measurement:
    """Measure colours of parts on their true pixels, overlap of volumes, and stray alpha."""
    return Measurement(
        parts={part: _part_views(images, truth, part) for part in truth.case.asked if part in CLOSE_UP},
        volumes={name: _volume(images, truth, name) for name in truth.case.volumes},
        stray=_stray(images, truth),
    )


def _part_views(images: ViewImages, truth: Truth, part: str) -> list[PartView]:
    found = []
    for framing in (Framing.BODY, CLOSE_UP[part]):
        for direction in DIRECTIONS:
            view = truth.viewpoints.index(framing, direction)
            if truth.shows(view, part):
                mask = truth.mask(view, part)
                rgb, alpha = images.rgb[view], images.alpha[view]
                found.append(name_pixels(rgb, alpha, mask, part, framing.value, direction))
    return found


def _volume(images: ViewImages, truth: Truth, name: str) -> tuple[int, int]:
    both, either = 0, 0
    for direction in DIRECTIONS:
        view = truth.viewpoints.index(VOLUME_FRAMING[name], direction)
        true, domain = truth.volume(view, name)
        shared, joined = overlap(images.alpha[view] >= SOLID, true, domain)
        both, either = both + shared, either + joined
    return both, either


def _stray(images: ViewImages, truth: Truth) -> float:
    fractions = []
    for direction in DIRECTIONS:
        view = truth.viewpoints.index(Framing.BODY, direction)
        fractions.append(stray_alpha(images.alpha[view], truth.silhouettes[view], STRAY_MARGIN))
    return float(np.mean(fractions))


def comparison_strip(images: ViewImages, truth: Truth) -> Strip:
    """Ground truth and avatar from front, left, back and right, then both heads from the front."""
    body = [truth.viewpoints.index(Framing.BODY, direction) for direction in DIRECTIONS]
    head = truth.viewpoints.index(Framing.HEAD, "front")
    avatar = images.on_grey()
    cells = [truth.image(view) for view in body] + [avatar[view] for view in body]
    return side_by_side([*cells, truth.image(head), avatar[head]])


def side_by_side(cells: Sequence[Float[np.ndarray, "S S 3"]]) -> Strip:
    """Square images in [0, 1] as one row."""
    return np.concatenate([to_bytes(cell) for cell in cells], 1)


def to_bytes(images: Float[np.ndarray, "*V H W 3"]) -> UInt8[np.ndarray, "*V H W 3"]:
    """Images in [0, 1] as rounded bytes; values outside are clamped."""
    return (np.clip(images, 0, 1) * 255).round().astype(np.uint8)
