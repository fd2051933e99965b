"""The mini prior's training set: images, pose maps and captions of synthetic people, in resumable shards.

Each posed person is rendered from several views, and each view is coloured several times, since geometry is the
expensive part. A third of the people are named individuals. A fraction of the images is degraded and captioned with the
negative words, so that the prior learns what a negative prompt means.
"""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

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
    jittered,
    pick,
    random_person,
    redressed,
    training_person,
)
from avatar_gs.lab.world.rendering import (
    BACKGROUND,
    BOTTOMS,
    PARTS,
    SHIRT,
    SKIN,
    PartMap,
    colour_image,
    mesh_depth,
    palette,
    render_parts,
)
from avatar_gs.lab.world.views import view_of
from avatar_gs.lab.world.vocabulary import CLOTHES
from avatar_gs.lab.world.wardrobe import Wardrobe, dress, load_wardrobe
from avatar_gs.render.cameras import sample_views
from avatar_gs.render.config import CamerasConfig
from avatar_gs.render.pose_map import render_keypoints, stack_keypoints, visible_points
from avatar_gs.types import Cameras, Framing, PosedBody, ViewDirection, Views

SIZE, OVERSAMPLING, LATENT_SIZE = 128, 2, 16
CAMERAS = replace(CamerasConfig(), head=replace(CamerasConfig().head, probability=0.3))
"""The avatar's camera sampler with fewer heads."""
CAPTIONS = 3
"""Captions of each image."""
LARGE_PARTS = (BACKGROUND, SKIN, SHIRT, BOTTOMS)
"""Parts that are not details; hair, hats, faces, stripes and shoes are."""
Config = TypeVar("Config")


@dataclass(frozen=True)
class Sample:
    """A posed person, rendered from several views."""

    person: Person
    own_outfit: bool
    """Whether a named individual is in the outfit that they are known by."""
    posed: PosedBody
    views: Views
    maps: list[PartMap]
    controls: list[NDArray[np.uint8]]


def render_sample(
    wardrobe: Wardrobe, person: Person, views_of: CamerasConfig, count: int, rng: np.random.Generator, spread: float
) -> Sample:
    """Render one person in a random pose from ``count`` random views; ``spread`` is ``random_pose``'s."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    betas = torch.tensor(person.betas)
    posed = wardrobe.body.pose(random_pose(generator, spread), betas)
    views = sample_views(views_of, count, generator, posed, SIZE * OVERSAMPLING)
    return render_views(wardrobe, person, posed, views, rng)


def render_views(
    wardrobe: Wardrobe, person: Person, posed: PosedBody, views: Views, rng: np.random.Generator
) -> Sample:
    """Part maps (``SIZE * OVERSAMPLING``)² and pose maps ``SIZE``² of a posed person from given views."""
    light = views.cameras.T_camera_world[0, 2, :3].numpy() * -1.0 + rng.normal(0, 0.5, 3) + [0, 0.3, 0]
    maps = render_maps(wardrobe, person, posed, views.cameras, light)
    return Sample(person, False, posed, views, maps, control_maps(wardrobe, posed, views))


def render_maps(
    wardrobe: Wardrobe, person: Person, posed: PosedBody, cameras: Cameras, light: NDArray[np.floating]
) -> list[PartMap]:
    """Part maps of a posed person in their shape; ``light`` is a world direction towards the light."""
    offset = (wardrobe.body.shaped(torch.tensor(person.betas))[0] - wardrobe.body.shaped()[0]).numpy()
    return render_parts(wardrobe, dress(wardrobe, person), person, posed, offset, cameras, light)


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
    """A person of the same geometry with other colours (skin, hair, face, clothes), never a held-out combination."""
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
    """One plain colour, 0..255: mostly tinted greys, as behind the avatar in optimisation."""
    grey = np.clip(rng.uniform(40, 250) + rng.normal(0, 12, 3), 0, 255)
    return rng.uniform(15, 250, 3) if rng.random() < 0.2 else grey


def paint(
    person: Person, part_map: PartMap, rng: np.random.Generator, background: NDArray | None = None
) -> NDArray[np.uint8]:
    """The image ``[SIZE, SIZE, 3]`` of a part map in a person's colours.

    Args:
        background: a colour, 0..255; None: random.
    """
    outfit = person.outfit
    clothes = {
        name: jittered(rng, CLOTHES[colour])
        for name, colour in (("shirt", outfit.shirt), ("bottoms", outfit.bottoms_colour), ("shoes", outfit.shoes))
    }
    clothes["stripe"] = jittered(rng, CLOTHES[outfit.stripe]) if outfit.stripe else clothes["shirt"]
    clothes["hat"] = jittered(rng, CLOTHES[outfit.hat]) if outfit.hat else (0.0, 0.0, 0.0)
    if background is None:
        background = random_background(rng)
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    colour_image(part_map.parts, part_map.shade, palette(person, clothes, background), out, OVERSAMPLING)
    return out


def degraded(
    image: NDArray[np.uint8], rng: np.random.Generator, blur: tuple[float, float] = (1.5, 5.0)
) -> NDArray[np.uint8]:
    """A degraded image: one or more of blur (standard deviation in pixels), noise, swapped channels and wrong tones."""
    changed, faults = image.astype(np.float32), rng.random(3) < 0.5
    if faults[0] or not faults.any():
        changed = cv2.GaussianBlur(changed, (0, 0), float(rng.uniform(*blur)))
    if faults[1]:
        changed = changed[..., rng.permutation(3)] * rng.uniform(0.4, 1.6, 3)
    if faults[2]:
        changed = changed + rng.normal(0, rng.uniform(15, 50), image.shape)
    return np.clip(changed, 0, 255).astype(np.uint8)


def write_missing(
    config: Config, shards: list[Path], write: Callable[[Config, int, Path], None], workers: int | None
) -> Iterator[tuple[int, int]]:
    """Call ``write(config, index, path)`` for each missing shard, in parallel; yields (done, total).

    Args:
        write: a top-level function; the shard must depend on the configuration and the index only.
        workers: processes; None: one per core.
    """
    for folder in {path.parent for path in shards}:
        folder.mkdir(parents=True, exist_ok=True)
    missing = [index for index, path in enumerate(shards) if not path.exists()]
    done = len(shards) - len(missing)
    yield done, len(shards)
    pool = ProcessPoolExecutor(workers or os.cpu_count(), mp_context=get_context("spawn"))
    try:
        for future in as_completed([pool.submit(write, config, index, shards[index]) for index in missing]):
            future.result()
            done += 1
            yield done, len(shards)
    finally:
        pool.shutdown(cancel_futures=True)


def generate(config: DatasetConfig, folder: Path) -> Iterator[tuple[int, int]]:
    """Write the missing shards of ``folder``; yields (done, total)."""
    shards = [folder / f"shard_{index:04d}.npz" for index in range(-(-config.people // config.people_per_shard))]
    yield from write_missing(config, shards, _write_shard, config.workers)


def _write_shard(config: DatasetConfig, index: int, path: Path) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng([config.seed, index])
    images, controls, foreground, details, captions, kinds = [], [], [], [], [], []
    for _ in range(config.people_per_shard):
        sample = _random_sample(rng, config.views)
        for view in range(config.views):
            controls.append(sample.controls[view])
            foreground.append(_cover(sample.maps[view], (BACKGROUND,)))
            details.append(_cover(sample.maps[view], LARGE_PARTS))
            framing, direction = sample.views.framings[view], view_of(float(sample.views.azimuth[view]))
            kinds.append((list(Framing).index(framing), list(ViewDirection).index(direction)))
            for _ in range(config.recolourings):
                image, texts = _image(sample, view, view_suffix(framing, direction), rng, config.degraded_share)
                images.append(image)
                captions.append(texts)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            pictures=np.stack(images),
            controls=np.stack(controls),
            foreground=np.stack(foreground),
            details=np.stack(details),
            kinds=np.array(kinds, np.uint8),
            captions=np.array(json.dumps(captions)),
        )


def _random_sample(rng: np.random.Generator, views: int) -> Sample:
    """A new person or a named individual, in a pose near the A-pose or far from it."""
    wardrobe = load_wardrobe()
    own_outfit = False
    if rng.random() < 1 / 3:
        person = individuals()[int(rng.integers(len(individuals())))]
        own_outfit = bool(rng.random() < 0.6)
        person = person if own_outfit else redressed(person, rng)
    else:
        person = training_person(rng)
    spread = 0.1 if rng.random() < 0.5 else float(rng.uniform(0.2, 0.9))
    return replace(render_sample(wardrobe, person, CAMERAS, views, rng, spread), own_outfit=own_outfit)


def _image(
    sample: Sample, view: int, suffix: str, rng: np.random.Generator, degraded_fraction: float
) -> tuple[NDArray[np.uint8], list[str]]:
    person = sample.person
    if not person.name:
        person = recoloured(person, rng)
    elif not sample.own_outfit:
        person = in_other_colours(person, rng)
    image = paint(person, sample.maps[view], rng)
    if rng.random() < degraded_fraction:
        texts = [negative_caption(rng) + (suffix if rng.random() < 0.5 else "") for _ in range(CAPTIONS)]
        return degraded(image, rng), texts
    return image, [caption(person, rng, own_outfit=sample.own_outfit) + suffix for _ in range(CAPTIONS)]


def _cover(part_map: PartMap, without: tuple[int, ...]) -> NDArray[np.float16]:
    """The fraction ``[LATENT_SIZE, LATENT_SIZE]`` of each latent cell covered by other parts than these."""
    cell = len(part_map.parts) // LATENT_SIZE
    covered = ~np.isin(part_map.parts, without).reshape(LATENT_SIZE, cell, LATENT_SIZE, cell)
    return covered.mean((1, 3)).astype(np.float16)


def part_masks(part_map: PartMap, part: int) -> NDArray[np.float32]:
    """The fraction ``[SIZE, SIZE]`` of each image pixel covered by a part."""
    assert 0 <= part < len(PARTS)
    return (part_map.parts == part).reshape(SIZE, OVERSAMPLING, SIZE, OVERSAMPLING).mean((1, 3)).astype(np.float32)
