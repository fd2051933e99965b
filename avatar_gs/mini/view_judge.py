"""Which side of a head does a picture show? Judged against drawings of the same person, turned on the spot.

The turn whose drawing the picture is most like decides. The drawings are in the picture's own tones of hair, skin and
background, because no prompt says them.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from avatar_gs.geometry import axis_angle_to_matrix
from avatar_gs.mini import picture as pic
from avatar_gs.mini.colours import albedo, nearest_names, paint_of
from avatar_gs.mini.dataset import CAMERAS, OVERSAMPLING, SIZE, draw_maps, paint, part_masks, view_of
from avatar_gs.mini.people import RGBFloat
from avatar_gs.mini.trials import Trial, trials
from avatar_gs.mini.wardrobe import HEAD_JOINT, load_wardrobe
from avatar_gs.render.config import FramingConfig
from avatar_gs.types import Framing, ViewDirection

JUDGED = (Framing.HEAD, Framing.UPPER)
"""The framings in which a head is large enough to tell its view from a picture."""
TURNS = 12
"""Drawings that a picture is compared with, evenly spread around the person; the first is turned as was asked."""
BLUR, MARGIN = 0.05, 0.15
"""What is too small to be compared, and what is compared around the head (a nose shows there), in sizes of the head."""
FAR = 0.5
"""Differences of colour beyond this count no more."""
LEAST_PIXELS, LEAST_HEAD, LEAST_DIFFERENCE = 6, 60, 60
"""Pixels of hair (or of anything else) and of the head, and levels (of 255) between hair and skin, below which nothing
can be told."""
GREY = 190.0
Colour = Float[np.ndarray, "3"]


def seen_view(trial: Trial, image: NDArray[np.float32]) -> ViewDirection | None:
    """The view that a picture of the trial's person shows; None where nothing can be told."""
    if not _can_be_told(trial):
        return None
    drawings = turned(trial, [math.tau * turn / TURNS for turn in range(TURNS)])
    found = [(drawing.view, unlikeness(drawing, image)) for drawing in drawings]
    return min(found, key=lambda pair: pair[1])[0]


def _can_be_told(trial: Trial) -> bool:
    """Whether the person has hair that is not of the skin's colour, and the picture shows enough of the head."""
    person = trial.person
    if not person.hair or np.abs(np.array(person.hair_rgb) - person.skin_rgb).max() < LEAST_DIFFERENCE:
        return False
    return bool(trial.mask(pic.HAIR).sum() >= LEAST_PIXELS and head_mask(trial).sum() >= LEAST_HEAD)


def unlikeness(drawing: Trial, image: NDArray[np.float32]) -> float:
    """How far the picture's head is from the drawing's, in the picture's own tones: 0 to ``FAR``."""
    rows, columns = np.nonzero(head_mask(drawing))
    if not len(rows):
        return FAR
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    hair = _hair_colour(drawing, image[top:bottom, left:right].reshape(-1, 3))
    painted = _repainted(drawing, hair, _skin_colour(drawing, image, hair), _background(drawing, image))
    span = max(bottom - top, right - left)
    difference = np.abs(gaussian_filter(image - painted, (BLUR * span, BLUR * span, 0))).max(-1)
    margin = int(MARGIN * span)
    head = difference[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin]
    return float(np.minimum(head, FAR).mean())


def head_mask(trial: Trial) -> Bool[np.ndarray, "S S"]:
    """Where the head is, but for its skin (the neck's is no other)."""
    parts = (pic.HAIR, pic.EYE, pic.EYE_WHITE, pic.BROW, pic.MOUTH, pic.HAT)
    return np.any([part_masks(trial.sample.maps[0], part) > 0.5 for part in parts], 0)


def _hair_colour(trial: Trial, box: Float[np.ndarray, "P 3"]) -> Colour:
    """The middle of the colours in the head's box that have the name of the person's hair; the person's own if there
    are few."""
    named = box[nearest_names(box, "hair") == trial.person.hair]
    return np.median(named, 0) if len(named) >= LEAST_PIXELS else np.array(trial.person.hair_rgb) / 255


def _skin_colour(trial: Trial, image: NDArray[np.float32], hair: Colour) -> Colour:
    """The picture's own where the trial shows skin, but for what has the hair's colour: no prompt has to say it. The
    person's own if there is little."""
    skin = image[trial.mask(pic.SKIN)]
    other = skin[np.abs(skin - hair).max(-1) >= LEAST_DIFFERENCE / 255]
    return np.median(other, 0) if len(other) >= LEAST_PIXELS else np.array(trial.person.skin_rgb) / 255


def _background(trial: Trial, image: NDArray[np.float32]) -> Colour:
    """The picture's own, where the trial shows no person."""
    beside = image[trial.mask(pic.BACKGROUND)]
    return np.median(beside, 0) if len(beside) >= LEAST_PIXELS else np.full(3, GREY / 255)


def _repainted(trial: Trial, hair: Colour, skin: Colour, background: Colour) -> Float[np.ndarray, "S S 3"]:
    """The trial's drawing with other tones of hair, skin and background."""
    person = replace(trial.person, hair_rgb=_as_albedo(hair), skin_rgb=_as_albedo(skin))
    outfit = person.outfit
    names = {"shirt": outfit.shirt, "stripe": outfit.stripe or outfit.shirt, "bottoms": outfit.bottoms_colour}
    names |= {"shoes": outfit.shoes, "hat": outfit.hat or outfit.shirt}
    colours = pic.palette(person, {part: paint_of(name) for part, name in names.items()}, 255 * background)
    part_map, out = trial.sample.maps[0], np.empty((SIZE, SIZE, 3), np.uint8)
    pic.colour_picture(part_map.parts, part_map.shade, colours, out, OVERSAMPLING)
    return out.astype(np.float32) / np.float32(255)


def _as_albedo(seen: Colour) -> RGBFloat:
    """The paint (0..255) that looks like a colour seen in a picture."""
    red, green, blue = (255 * albedo(seen)).tolist()
    return (red, green, blue)


def turned(trial: Trial, angles: Sequence[float]) -> list[Trial]:
    """The trial with its person turned about the upright line through the head, by each angle (radians, to the left as
    the person sees it)."""
    wardrobe, sample, rng = load_wardrobe(), trial.sample, np.random.default_rng(0)
    camera = sample.views.cameras[0]
    turns = torch.stack([_turn(sample.posed.joints[HEAD_JOINT], angle) for angle in angles])
    cameras = replace(
        camera, T_camera_world=camera.T_camera_world @ turns, K=camera.K.expand(len(angles), 3, 3).contiguous()
    )
    light = camera.T_camera_world[0, 2, :3].numpy() * -1.0
    maps = draw_maps(wardrobe, trial.person, sample.posed, cameras, light)
    found = []
    for angle, part_map in zip(angles, maps, strict=True):
        truth = paint(trial.person, part_map, rng, np.full(3, GREY)).astype(np.float32) / np.float32(255)
        views = replace(sample.views, azimuth=sample.views.azimuth - angle)
        seen = replace(sample, views=views, maps=[part_map])
        found.append(replace(trial, view=view_of(float(views.azimuth[0])), sample=seen, truth=truth))
    return found


def _turn(centre: Float[Tensor, "3"], angle: float) -> Float[Tensor, "4 4"]:
    """A turn of the world about the upright line through ``centre``."""
    rotation = axis_angle_to_matrix(torch.tensor([0.0, angle, 0.0]))
    T = torch.eye(4)
    T[:3, :3], T[:3, 3] = rotation, centre - rotation @ centre
    return T


def turned_anyhow(trial: Trial, rng: np.random.Generator) -> Trial:
    """The trial with its person turned by a random angle that shows some view beyond doubt."""
    while True:
        (shown,) = turned(trial, [float(rng.uniform(0, math.tau))])
        if shown.clear:
            return shown


def judge_trials(count: int, seed: int) -> list[Trial]:
    """Trials of the judged framings whose view is beyond doubt, of people whose combination training saw."""
    none = FramingConfig(probability=0.0)
    close = replace(CAMERAS, body=none, lower=none)
    return [trial for trial in trials(count, seed, held=False, cameras=close) if trial.clear]


def judge_accuracy(count: int = 300, seed: int = 77) -> dict[str, dict[str, float]]:
    """How often the judge names the view of drawn people who are *not* turned as their trial asks, by that view. They
    are turned by any angle that shows it beyond doubt, and painted in other tones than the drawings compared with."""
    rng = np.random.default_rng(seed)
    hits: dict[str, list[bool]] = {}
    for trial in judge_trials(count, seed):
        shown = turned_anyhow(trial, rng)
        picture = paint(trial.person, shown.sample.maps[0], rng).astype(np.float32) / np.float32(255)
        if (seen := seen_view(trial, picture)) is not None:
            hits.setdefault(f"judge on people turned anyhow/{shown.view.value}", []).append(seen is shown.view)
    return {key: {"mean": round(float(np.mean(values)), 3), "n": len(values)} for key, values in sorted(hits.items())}
