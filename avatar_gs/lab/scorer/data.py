"""The scorer's training set: each person in the same clothes from several views, in two poses, on many backgrounds.

The prior's own set recolours every picture, so it never shows one person twice. Here a geometry is recoloured as a
whole: all pictures of a row are one person. A share of the pictures is lit, white or in colours (``lighting``). Shards
are restartable.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from avatar_gs.lab.world.dataset import OVERSAMPLING, SIZE, recoloured, view_of
from avatar_gs.lab.world.heads import Head, find_heads
from avatar_gs.lab.world.measure import SHOWN_ON, asked_colours
from avatar_gs.lab.world.people import Person, held_out, training_person
from avatar_gs.lab.world.picture import PartMap, draw_parts
from avatar_gs.lab.world.shards import write_missing
from avatar_gs.lab.world.wardrobe import dress, load_wardrobe
from avatar_gs.render.cameras import sample_views
from avatar_gs.render.config import CamerasConfig, FramingConfig
from avatar_gs.render.shading import Shade
from avatar_gs.types import Framing, ViewDirection

POSES = 2
"""Poses in which each person is seen: one near the A-pose, one far from it."""
CAPTIONS = 4
"""Texts for every picture, of which the last names one thing only (see ``_texts``)."""
BRIEF = {"hair": 2.0, "shirt": 1.0, "bottoms": 1.0, "shoes": 3.0, "hat": 3.0}
"""What such a text names, in proportion, of what the picture can show: small things would be learned last."""
CAMERAS = replace(dataset.CAMERAS, lower=FramingConfig(0.12, 1.05, 1.25))
"""Legs alone tell little of who somebody is: they are seen less often than the prior needs them."""


@dataclass(frozen=True)
class Seen:
    """One person's geometry: part maps with the framing, the view direction, the azimuth (radians) and the focal length
    (in the map's pixels) of each, and where the head is in its picture."""

    person: Person
    maps: list[PartMap]
    kinds: list[tuple[Framing, ViewDirection]]
    azimuths: list[float]
    focals: list[float]
    heads: list[Head]


@dataclass(frozen=True)
class PairSet:
    """P people, V pictures of each; ``kinds`` numbers framing and view, ``looks`` the ``Shade`` that a picture is in,
    ``captions`` holds several texts a picture."""

    pictures: UInt8[np.ndarray, "P V 128 128 3"]
    kinds: UInt8[np.ndarray, "P V 2"]
    looks: UInt8[np.ndarray, "P V"]
    captions: list[list[list[str]]]


def see(person: Person, cameras: CamerasConfig, views: int, rng: np.random.Generator, poses: int = POSES) -> Seen:
    """Draws ``views`` random views of a person, shared among ``poses`` poses (the first is near the A-pose)."""
    wardrobe = load_wardrobe()
    betas = torch.tensor(person.betas)
    offset = (wardrobe.body.shaped(betas)[0] - wardrobe.body.shaped()[0]).numpy()
    mesh = dress(wardrobe, person)
    seen = Seen(person, [], [], [], [], [])
    for pose in range(poses):
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        spread = float(rng.uniform(0.2, 0.8)) if pose else 0.1
        posed = wardrobe.body.pose(random_pose(generator, spread), betas)
        count = views // poses + (pose < views % poses)
        if not count:
            continue
        shots = sample_views(cameras, count, generator, posed, SIZE * OVERSAMPLING)
        light = -shots.cameras.T_camera_world[0, 2, :3].numpy() + rng.normal(0, 0.5, 3) + [0, 0.3, 0]
        seen.maps.extend(draw_parts(wardrobe, mesh, person, posed, offset, shots.cameras, light))
        azimuths = [float(azimuth) for azimuth in shots.azimuth]
        seen.azimuths.extend(azimuths)
        seen.focals.extend(float(K[0, 0]) for K in shots.cameras.K)
        seen.kinds.extend(zip(shots.framings, map(view_of, azimuths), strict=True))
        seen.heads.extend(find_heads(posed, shots.cameras.resized(SIZE, SIZE)))
    return seen


def generate_pairs(config: ScorerConfig, folder: Path) -> Iterator[tuple[int, int]]:
    """Writes all shards that are missing in ``folder``; yields (done, total) as it goes."""
    shards = [folder / f"pairs_{index:04d}.npz" for index in range(-(-config.people // config.people_per_shard))]
    yield from write_missing(config, shards, _write_shard, config.workers)


def read_pairs(folder: Path) -> PairSet:
    """All shards of a folder together.

    Raises:
        UserError: for a shard of an earlier version, which says nothing of light.
    """
    pictures, kinds, looks, captions = [], [], [], []
    for shard in sorted(folder.glob("pairs_*.npz")):
        with np.load(shard, allow_pickle=False) as data:
            if "looks" not in data:
                raise UserError(f"{shard}: drawn by an earlier version; remove {folder} to draw the people anew")
            pictures.append(data["pictures"])
            kinds.append(data["kinds"])
            looks.append(data["looks"])
            captions += json.loads(str(data["captions"]))
    return PairSet(np.concatenate(pictures), np.concatenate(kinds), np.concatenate(looks), captions)


def _write_shard(config: ScorerConfig, index: int, path: Path) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng([config.seed, index, 3])
    pictures, kinds, looks, captions = [], [], [], []
    for _ in range(config.people_per_shard):
        seen = see(training_person(rng), CAMERAS, config.views, rng)
        for number in range(config.recolourings):
            person = other_colours(seen.person, rng) if number else seen.person
            shades = [random_look(config, rng) for _ in seen.maps]
            painted = zip(seen.maps, seen.focals, shades, strict=True)
            pictures.append([paint_lit(person, part_map, focal, shade, rng) for part_map, focal, shade in painted])
            kinds.append([numbers(*kind) for kind in seen.kinds])
            looks.append([list(Shade).index(shade) for shade in shades])
            captions.append([_texts(person, *shown, rng) for shown in zip(seen.kinds, shades, strict=True)])
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            pictures=np.array(pictures, np.uint8),
            kinds=np.array(kinds, np.uint8),
            looks=np.array(looks, np.uint8),
            captions=np.array(json.dumps(captions)),
        )


def random_look(config: ScorerConfig, rng: np.random.Generator) -> Shade:
    """Plain colours, but for the shares of the pictures that are to be lit."""
    chance = rng.random() - config.textureless_share
    if chance < 0:
        return Shade.TEXTURELESS
    return Shade.LAMBERTIAN if chance < config.shaded_share else Shade.ALBEDO


def _texts(person: Person, kind: tuple[Framing, ViewDirection], shade: Shade, rng: np.random.Generator) -> list[str]:
    """``CAPTIONS`` captions of a picture, of which the last names one thing that it can show. White pictures have none
    of these: the colour of one thing says nothing of them."""
    full = [caption(person, rng) for _ in range(CAPTIONS)]
    shares = {part: BRIEF[part] for part in asked_colours(person) if part in BRIEF and kind[0] in SHOWN_ON[part]}
    if shares and shade is not Shade.TEXTURELESS:
        part = rng.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values()))
        full[-1] = brief_caption(person, str(part), rng)
    return [text + view_suffix(*kind) for text in full]


def numbers(framing: Framing, view: ViewDirection) -> tuple[int, int]:
    """A picture's kind as two numbers."""
    return list(Framing).index(framing), list(ViewDirection).index(view)


def other_colours(person: Person, rng: np.random.Generator) -> Person:
    """The same geometry in other colours, never in a held-out combination."""
    while held_out(other := recoloured(person, rng)):
        pass
    return other


def float_pictures(pictures: NDArray[np.uint8]) -> torch.Tensor:
    """``[..., S, S, 3]`` in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).float() / 255
