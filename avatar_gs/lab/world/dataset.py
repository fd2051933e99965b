"""The mini prior's training set: pictures, pose maps and captions of synthetic people, in restartable shards.

One posed person is seen from several views, and each view is recoloured several times: geometry costs more than
paint. Named individuals make a third of the people; a share of the pictures is degraded and captioned with the
negative words, so that a negative prompt means something.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from avatar_gs.body.keypoints import openpose_keypoints
from avatar_gs.body.pose import random_pose
from avatar_gs.core.io import atomic_write
from avatar_gs.lab.train_prior.config import DatasetConfig
from avatar_gs.lab.world.captions import caption, negative_caption, view_suffix
from avatar_gs.lab.world.people import (
    Person,
    held_out,
    individuals,
    named_rgb,
    pick,
    random_person,
    redressed,
    training_person,
)
from avatar_gs.lab.world.picture import (
    BACKGROUND,
    BOTTOMS,
    PARTS,
    SHIRT,
    SKIN,
    PartMap,
    colour_picture,
    draw_parts,
    mesh_depth,
    palette,
)
from avatar_gs.lab.world.shards import write_missing
from avatar_gs.lab.world.vocabulary import CLOTHES
from avatar_gs.lab.world.wardrobe import Wardrobe, dress, load_wardrobe
from avatar_gs.render.cameras import sample_views
from avatar_gs.render.config import CamerasConfig
from avatar_gs.render.pose_map import render_keypoints, stack_keypoints, visible_points
from avatar_gs.types import Cameras, Framing, PosedBody, ViewDirection, Views

SIZE, OVERSAMPLING, LATENT_SIZE = 128, 2, 16
CAMERAS = replace(CamerasConfig(), head=replace(CamerasConfig().head, probability=0.3))
"""Where people are drawn from: heads less often than an avatar's run looks at them."""
CAPTIONS = 3
"""Captions written for every picture."""
LARGE_PARTS = (BACKGROUND, SKIN, SHIRT, BOTTOMS)
"""What is large wherever it is seen; hair, hats, faces, stripes and shoes are details."""
VIEW_LIMIT_FRONT, VIEW_LIMIT_BACK = np.deg2rad(60), np.deg2rad(120)
CLEAR = np.deg2rad(15)
"""How far from where one view's name gives way to the next is beyond doubt."""


@dataclass(frozen=True)
class Sample:
    """One geometry: a posed person, the views of it, and what was drawn."""

    person: Person
    own_outfit: bool
    posed: PosedBody
    views: Views
    maps: list[PartMap]
    controls: list[NDArray[np.uint8]]


def from_the_front(azimuth: float) -> float:
    """How far an azimuth in radians (any turn) is from the front, 0 to pi, to either side."""
    return abs((azimuth + np.pi) % (2 * np.pi) - np.pi)


def view_of(azimuth: float) -> ViewDirection:
    """Front, side or back by azimuth in radians (any turn)."""
    turn = from_the_front(azimuth)
    if turn < VIEW_LIMIT_FRONT:
        return ViewDirection.FRONT
    return ViewDirection.BACK if turn > VIEW_LIMIT_BACK else ViewDirection.SIDE


def beyond_doubt(azimuth: float) -> bool:
    """Whether an azimuth in radians (any turn) is well inside the view that ``view_of`` names."""
    turn = from_the_front(azimuth)
    return bool(min(abs(turn - limit) for limit in (VIEW_LIMIT_FRONT, VIEW_LIMIT_BACK)) > CLEAR)


def draw_sample(
    wardrobe: Wardrobe, person: Person, views_of: CamerasConfig, count: int, rng: np.random.Generator, spread: float
) -> Sample:
    """Poses and draws one person from ``count`` random views; ``spread`` is ``random_pose``'s."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    betas = torch.tensor(person.betas)
    posed = wardrobe.body.pose(random_pose(generator, spread), betas)
    views = sample_views(views_of, count, generator, posed, SIZE * OVERSAMPLING)
    return draw_views(wardrobe, person, posed, views, rng)


def draw_views(wardrobe: Wardrobe, person: Person, posed: PosedBody, views: Views, rng: np.random.Generator) -> Sample:
    """Part maps and pose maps (``SIZE``²) of a posed person from given views (drawn at ``SIZE * OVERSAMPLING``)."""
    light = views.cameras.T_camera_world[0, 2, :3].numpy() * -1.0 + rng.normal(0, 0.5, 3) + [0, 0.3, 0]
    maps = draw_maps(wardrobe, person, posed, views.cameras, light)
    controls = control_maps(wardrobe, posed, views)
    return Sample(person, False, posed, views, maps, controls)


def draw_maps(
    wardrobe: Wardrobe, person: Person, posed: PosedBody, cameras: Cameras, light: NDArray[np.floating]
) -> list[PartMap]:
    """Part maps of a posed person, in the person's own shape; ``light`` is a world direction towards the light."""
    offset = (wardrobe.body.shaped(torch.tensor(person.betas))[0] - wardrobe.body.shaped()[0]).numpy()
    return draw_parts(wardrobe, dress(wardrobe, person), person, posed, offset, cameras, light)


def control_maps(wardrobe: Wardrobe, posed: PosedBody, views: Views) -> list[NDArray[np.uint8]]:
    """Pose maps of the body in each view, culled by the *undressed* body's depth, as in optimisation."""
    small = views.cameras.resized(SIZE, SIZE)
    depth = mesh_depth(posed.vertices.numpy(), wardrobe.faces, small)
    points = stack_keypoints(openpose_keypoints(wardrobe.body, posed))
    controls = []
    for camera in range(len(small)):
        T, K = small.T_camera_world[camera].numpy(), small.K[camera].numpy()
        pixels, visible = visible_points(points, T, K, (SIZE, SIZE), depth[camera])
        controls.append(render_keypoints(pixels * (512 / SIZE), visible, 512, SIZE))
    return controls


def recoloured(person: Person, rng: np.random.Generator) -> Person:
    """A person of the same geometry in other colours (skin, hair, face, clothes), never a held-out combination."""
    while True:
        other = random_person(rng)
        outfit = replace(
            person.outfit,
            shirt=other.outfit.shirt,
            stripe=other.outfit.stripe,
            bottoms_colour=other.outfit.bottoms_colour,
            shoes=other.outfit.shoes,
            hat=pick(rng, list(CLOTHES)) if person.outfit.hat else "",
        )
        if bool(other.hair) != bool(person.hair):
            continue
        rgb = {name: getattr(other, name) for name in ("skin_rgb", "hair_rgb", "eye_rgb", "brow_rgb", "mouth_rgb")}
        painted = replace(person, outfit=outfit, skin=other.skin, hair=other.hair, **rgb)
        if not held_out(painted):
            return painted


def in_other_colours(person: Person, rng: np.random.Generator) -> Person:
    """The same person in clothes of other colours and the same cut, never a held-out combination."""
    while True:
        other = random_person(rng).outfit
        outfit = replace(person.outfit, shirt=other.shirt, bottoms_colour=other.bottoms_colour, shoes=other.shoes)
        if not held_out(replace(person, outfit=outfit)):
            return replace(person, outfit=outfit)


def random_background(rng: np.random.Generator) -> NDArray[np.float64]:
    """One plain colour in 0..255: mostly greys with a tint, as behind the avatar in optimisation."""
    grey = np.clip(rng.uniform(40, 250) + rng.normal(0, 12, 3), 0, 255)
    return rng.uniform(15, 250, 3) if rng.random() < 0.2 else grey


def paint(
    person: Person, part_map: PartMap, rng: np.random.Generator, background: NDArray | None = None
) -> NDArray[np.uint8]:
    """The picture ``[SIZE, SIZE, 3]`` of a part map in a person's colours, on a random plain background by default."""
    outfit = person.outfit
    clothes = {
        name: named_rgb(rng, colour, CLOTHES)
        for name, colour in (("shirt", outfit.shirt), ("bottoms", outfit.bottoms_colour), ("shoes", outfit.shoes))
    }
    clothes["stripe"] = named_rgb(rng, outfit.stripe, CLOTHES) if outfit.stripe else clothes["shirt"]
    clothes["hat"] = named_rgb(rng, outfit.hat, CLOTHES) if outfit.hat else (0.0, 0.0, 0.0)
    if background is None:
        background = random_background(rng)
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    colour_picture(part_map.parts, part_map.shade, palette(person, clothes, background), out, OVERSAMPLING)
    return out


def degraded(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A bad picture: one or more of blur, noise, swapped channels and wrong tones."""
    image = picture.astype(np.float32)
    faults = rng.random(3) < 0.5
    if faults[0] or not faults.any():
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(1.5, 5)))
    if faults[1]:
        image = image[..., rng.permutation(3)] * rng.uniform(0.4, 1.6, 3)
    if faults[2]:
        image = image + rng.normal(0, rng.uniform(15, 50), image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def generate(config: DatasetConfig, folder: Path) -> Iterator[tuple[int, int]]:
    """Writes all shards that are missing in ``folder``; yields (done, total) as it goes."""
    shards = [folder / f"shard_{index:04d}.npz" for index in range(-(-config.people // config.people_per_shard))]
    yield from write_missing(config, shards, _write_shard, config.workers)


def _write_shard(config: DatasetConfig, index: int, path: Path) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng([config.seed, index])
    pictures, controls, foreground, details, captions, kinds = [], [], [], [], [], []
    for _ in range(config.people_per_shard):
        sample = _random_sample(rng, config.views)
        for view in range(config.views):
            controls.append(sample.controls[view])
            foreground.append(_cover(sample.maps[view], (BACKGROUND,)))
            details.append(_cover(sample.maps[view], LARGE_PARTS))
            framing, direction = sample.views.framings[view], view_of(float(sample.views.azimuth[view]))
            kinds.append((list(Framing).index(framing), list(ViewDirection).index(direction)))
            for _ in range(config.recolourings):
                picture, texts = _picture(sample, view, view_suffix(framing, direction), rng, config.degraded_share)
                pictures.append(picture)
                captions.append(texts)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            pictures=np.stack(pictures),
            controls=np.stack(controls),
            foreground=np.stack(foreground),
            details=np.stack(details),
            kinds=np.array(kinds, np.uint8),
            captions=np.array(json.dumps(captions)),
        )


def _random_sample(rng: np.random.Generator, views: int) -> Sample:
    """A new person or one of the named individuals, in the A-pose or near it or far from it."""
    wardrobe = load_wardrobe()
    own_outfit = False
    if rng.random() < 1 / 3:
        person = individuals()[int(rng.integers(len(individuals())))]
        own_outfit = bool(rng.random() < 0.6)
        person = person if own_outfit else redressed(person, rng)
    else:
        person = training_person(rng)
    spread = 0.1 if rng.random() < 0.5 else float(rng.uniform(0.2, 0.9))
    return replace(draw_sample(wardrobe, person, CAMERAS, views, rng, spread), own_outfit=own_outfit)


def _picture(
    sample: Sample, view: int, suffix: str, rng: np.random.Generator, degraded_share: float
) -> tuple[NDArray[np.uint8], list[str]]:
    person = sample.person
    if not person.name:
        person = recoloured(person, rng)
    elif not sample.own_outfit:
        person = in_other_colours(person, rng)
    picture = paint(person, sample.maps[view], rng)
    if rng.random() < degraded_share:
        texts = [negative_caption(rng) + (suffix if rng.random() < 0.5 else "") for _ in range(CAPTIONS)]
        return degraded(picture, rng), texts
    return picture, [caption(person, rng, own_outfit=sample.own_outfit) + suffix for _ in range(CAPTIONS)]


def _cover(part_map: PartMap, without: tuple[int, ...]) -> NDArray[np.float16]:
    """The share ``[LATENT_SIZE, LATENT_SIZE]`` of each latent cell that is covered by other parts than these."""
    cell = len(part_map.parts) // LATENT_SIZE
    covered = ~np.isin(part_map.parts, without).reshape(LATENT_SIZE, cell, LATENT_SIZE, cell)
    return covered.mean((1, 3)).astype(np.float16)


def part_masks(part_map: PartMap, part: int) -> NDArray[np.float32]:
    """The share ``[SIZE, SIZE]`` of each picture pixel that a part covers."""
    assert 0 <= part < len(PARTS)
    return (part_map.parts == part).reshape(SIZE, OVERSAMPLING, SIZE, OVERSAMPLING).mean((1, 3)).astype(np.float32)
