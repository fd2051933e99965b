"""The scorer's training set: each person in the same clothes from several views, in two poses, on many backgrounds.

The prior's training set recolours every image and never shows one person twice. Here a geometry is recoloured as a
whole, so that all images of a row show one person. A fraction of the images is lit, white or in colours (``lighting``).
Shards are resumable.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray

from avatar_gs.body.pose import random_pose
from avatar_gs.core.errors import UserError
from avatar_gs.core.io import atomic_write
from avatar_gs.lab.scorer.config import ScorerConfig
from avatar_gs.lab.scorer.lighting import paint_lit
from avatar_gs.lab.world import dataset
from avatar_gs.lab.world.captions import brief_caption, caption, view_suffix
from avatar_gs.lab.world.dataset import OVERSAMPLING, SIZE, recoloured, render_maps, write_missing
from avatar_gs.lab.world.people import Person, named_colours, training_person
from avatar_gs.lab.world.rendering import SHOWN_ON, PartMap
from avatar_gs.lab.world.views import Head, find_heads, view_of
from avatar_gs.lab.world.wardrobe import load_wardrobe
from avatar_gs.render.cameras import sample_views
from avatar_gs.render.config import CamerasConfig, FramingConfig
from avatar_gs.render.shading import Shade
from avatar_gs.types import Framing, ViewDirection

POSES = 2
"""Poses of each person: one near the A-pose, one far from it."""
CAPTIONS = 4
"""Captions of each image; the last names one part only (see ``_texts``)."""
BRIEF = {"hair": 2.0, "shirt": 1.0, "bottoms": 1.0, "shoes": 3.0, "hat": 3.0}
"""Relative frequency of the parts that such a caption names: small parts, learned last, are more frequent."""
CAMERAS = replace(dataset.CAMERAS, lower=FramingConfig(0.12, 1.05, 1.25))
"""The prior's cameras with fewer legs, which say little about who a person is."""


@dataclass(frozen=True)
class Seen:
    """Views of one person's geometry; the lists have one entry per view."""

    person: Person
    maps: list[PartMap] = field(default_factory=list)
    buckets: list[tuple[Framing, ViewDirection]] = field(default_factory=list)
    azimuths: list[float] = field(default_factory=list)
    """Radians."""
    focals: list[float] = field(default_factory=list)
    """Focal lengths in pixels of the part map."""
    heads: list[Head] = field(default_factory=list)


@dataclass(frozen=True)
class PairSet:
    """P people with V images each."""

    images: UInt8[np.ndarray, "P V 128 128 3"]
    buckets: UInt8[np.ndarray, "P V 2"]
    """Indices of framing and view direction."""
    looks: UInt8[np.ndarray, "P V"]
    """Index of the ``Shade``."""
    captions: list[list[list[str]]]
    """Several captions per image."""


def see(person: Person, cameras: CamerasConfig, views: int, rng: np.random.Generator, poses: int = POSES) -> Seen:
    """Render ``views`` random views of a person, divided among ``poses`` random poses (the first near the A-pose)."""
    wardrobe, betas, seen = load_wardrobe(), torch.tensor(person.betas), Seen(person)
    for pose in range(poses):
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        pose_range = float(rng.uniform(0.2, 0.8)) if pose else 0.1
        posed = wardrobe.body.pose(random_pose(generator, pose_range), betas)
        count = views // poses + (pose < views % poses)
        if not count:
            continue
        shots = sample_views(cameras, count, generator, posed, SIZE * OVERSAMPLING)
        light = -shots.cameras.T_camera_world[0, 2, :3].numpy() + rng.normal(0, 0.5, 3) + [0, 0.3, 0]
        seen.maps.extend(render_maps(wardrobe, person, posed, shots.cameras, light))
        azimuths = [float(azimuth) for azimuth in shots.azimuth]
        seen.azimuths.extend(azimuths)
        seen.focals.extend(float(K[0, 0]) for K in shots.cameras.K)
        seen.buckets.extend(zip(shots.framings, map(view_of, azimuths), strict=True))
        seen.heads.extend(find_heads(posed, shots.cameras.resized(SIZE, SIZE)))
    return seen


def generate_pairs(config: ScorerConfig, folder: Path) -> Iterator[tuple[int, int]]:
    """Write the missing shards of ``folder``; yields (done, total)."""
    shards = [folder / f"pairs_{index:04d}.npz" for index in range(-(-config.people // config.people_per_shard))]
    yield from write_missing(config, shards, _write_shard, config.workers)


def read_pairs(folder: Path) -> PairSet:
    """All shards of a folder.

    Raises:
        UserError: for a shard of an earlier version, without light.
    """
    images, buckets, looks, captions = [], [], [], []
    for shard in sorted(folder.glob("pairs_*.npz")):
        with np.load(shard, allow_pickle=False) as data:
            if "looks" not in data:
                raise UserError(f"{shard}: of an earlier version; remove {folder} to render the people again")
            former = "pictures" in data
            images.append(data["pictures" if former else "images"])
            buckets.append(data["kinds" if former else "buckets"])
            looks.append(data["looks"])
            captions += json.loads(str(data["captions"]))
    return PairSet(np.concatenate(images), np.concatenate(buckets), np.concatenate(looks), captions)


def _write_shard(config: ScorerConfig, index: int, path: Path) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng([config.seed, index, 3])
    framings, views = list(Framing), list(ViewDirection)
    images, buckets, looks, captions = [], [], [], []
    for _ in range(config.people_per_shard):
        seen = see(training_person(rng), CAMERAS, config.views, rng)
        for number in range(config.recolourings):
            person = recoloured(seen.person, rng) if number else seen.person
            shades = [random_look(config, rng) for _ in seen.maps]
            painted = zip(seen.maps, seen.focals, shades, strict=True)
            images.append([paint_lit(person, part_map, focal, shade, rng) for part_map, focal, shade in painted])
            buckets.append([(framings.index(framing), views.index(view)) for framing, view in seen.buckets])
            looks.append([list(Shade).index(shade) for shade in shades])
            captions.append([_texts(person, *shown, rng) for shown in zip(seen.buckets, shades, strict=True)])
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            images=np.array(images, np.uint8),
            buckets=np.array(buckets, np.uint8),
            looks=np.array(looks, np.uint8),
            captions=np.array(json.dumps(captions)),
        )


def random_look(config: ScorerConfig, rng: np.random.Generator) -> Shade:
    """Without light, but for the configured fractions of lit images."""
    chance = rng.random() - config.textureless_share
    if chance < 0:
        return Shade.TEXTURELESS
    return Shade.LAMBERTIAN if chance < config.shaded_share else Shade.ALBEDO


def _texts(person: Person, bucket: tuple[Framing, ViewDirection], shade: Shade, rng: np.random.Generator) -> list[str]:
    """``CAPTIONS`` captions of an image. The last names one visible part only, except for white images, which do not
    show its colour."""
    full = [caption(person, rng) for _ in range(CAPTIONS)]
    weights = {part: BRIEF[part] for part in named_colours(person) if part in BRIEF and bucket[0] in SHOWN_ON[part]}
    if weights and shade is not Shade.TEXTURELESS:
        part = rng.choice(list(weights), p=np.array(list(weights.values())) / sum(weights.values()))
        full[-1] = brief_caption(person, str(part), rng)
    return [text + view_suffix(*bucket) for text in full]


def float_images(images: NDArray[np.uint8]) -> torch.Tensor:
    """Images ``[..., S, S, 3]`` in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).float() / 255
