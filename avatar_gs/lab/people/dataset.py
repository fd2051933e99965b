"""The lifelike prior's training set, in resumable shards: compressed images and pose maps, labels, captions."""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Event, Thread

import cv2
import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image

from avatar_gs.core.errors import UserError
from avatar_gs.core.io import atomic_write
from avatar_gs.lab.people.config import PeopleDatasetConfig
from avatar_gs.lab.people.rendering import Part
from avatar_gs.lab.people.samples import FRAMINGS, VIEWS, Sample, random_samples
from avatar_gs.lab.people.wardrobe import Wardrobe, load_wardrobe
from avatar_gs.lab.world.dataset import write_missing

CELL = 8
"""Side of a latent cell in image pixels."""
FACE_MAP = 64
"""Side of the map of eyes and mouths in pixels."""
JPEG_QUALITY = 95
SMALL_PARTS = tuple(set(Part) - {Part.BACKGROUND, Part.SKIN, Part.TOP, Part.BOTTOMS, Part.DRESS})
"""Parts that are details."""
SHARD_VERSION = 1
ARRAYS = ("foreground", "details", "faces", "framings", "views", "people")
"""Fields of ``Images`` that are arrays."""


@dataclass(frozen=True)
class Images:
    """Part or all of a training set; images and pose maps are decoded on demand."""

    encoded: Sequence[bytes]
    encoded_controls: Sequence[bytes]
    foreground: UInt8[np.ndarray, "N c c"]
    """Fraction of each latent cell covered by the person, 0..255."""
    details: UInt8[np.ndarray, "N c c"]
    """The same for details (``SMALL_PARTS``)."""
    faces: UInt8[np.ndarray, "N 64 64"]
    """255 at eyes and mouth."""
    framings: Int[np.ndarray, " N"]
    views: Int[np.ndarray, " N"]
    people: Int[np.ndarray, " N"]
    captions: Sequence[Sequence[str]]

    def __len__(self) -> int:
        return len(self.encoded)

    def image(self, index: int) -> UInt8[np.ndarray, "S S 3"]:
        """One image, decoded."""
        return _decoded(self.encoded[index])

    def control(self, index: int) -> UInt8[np.ndarray, "S S 3"]:
        """One pose map, decoded."""
        return _decoded(self.encoded_controls[index])


def generate(
    config: PeopleDatasetConfig, assets: Path, folder: Path, people: int | None = None
) -> Iterator[tuple[int, int]]:
    """Write the missing shards of ``folder``; yields (done, total).

    Args:
        people: only the shards of the first ``people``; None: all.

    Raises:
        UserError: if the assets are incomplete, or the folder cannot be written to.
    """
    load_wardrobe(assets)  # reports errors and makes the shape basis before processes start
    shards = [folder / name for name in config.shards(people)]
    try:
        yield from write_missing(_Job(config, str(assets)), shards, _write_shard, config.workers)
    except OSError as error:
        raise UserError(f"people.folder: {folder} cannot be written to ({error}); free some space and retry") from error


@contextmanager
def rendered_meanwhile(config: PeopleDatasetConfig, assets: str, folder: Path) -> Iterator[None]:
    """With ``config.meanwhile``, write the missing shards in the background until the block ends.

    Raises:
        UserError: at the end of the block, as ``generate``.
    """
    if not config.meanwhile or all((folder / name).is_file() for name in config.shards()):
        yield
        return
    ended, errors = Event(), []

    def work() -> None:
        rendering = generate(config, Path(assets), folder)
        try:
            for _ in rendering:
                if ended.is_set():
                    break
        except UserError as error:
            errors.append(error)
        finally:
            rendering.close()  # pyright: ignore[reportAttributeAccessIssue]  # a generator

    thread = Thread(target=work, name="render people")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if errors:
        raise errors[0]


@dataclass(frozen=True)
class _Job:
    config: PeopleDatasetConfig
    assets: str


@lru_cache(maxsize=1)
def _wardrobe(assets: str) -> Wardrobe:
    return load_wardrobe(Path(assets))


def _write_shard(job: _Job, index: int, path: Path) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    config, wardrobe = job.config, _wardrobe(job.assets)
    rng = np.random.default_rng([config.seed, index])
    samples, people = [], []
    for person in range(config.people_per_shard):
        drawn = random_samples(
            wardrobe, rng, views=config.views, size=config.size, captions=config.captions,
            degraded_fraction=config.degraded_fraction, faces=config.faces,
        )  # fmt: skip
        samples += drawn
        people += [index * config.people_per_shard + person] * len(drawn)
    images = [_encoded(sample.drawn.image, "JPEG", quality=JPEG_QUALITY) for sample in samples]
    controls = [_encoded(sample.control, "PNG") for sample in samples]
    arrays = {
        "version": np.array(SHARD_VERSION),
        "images": np.frombuffer(b"".join(images), np.uint8),
        "image_sizes": np.array([len(image) for image in images]),
        "controls": np.frombuffer(b"".join(controls), np.uint8),
        "control_sizes": np.array([len(control) for control in controls]),
        "foreground": np.stack(
            [_cover(sample.drawn.parts, tuple(set(Part) - {Part.BACKGROUND})) for sample in samples]
        ),
        "details": np.stack([_cover(sample.drawn.parts, SMALL_PARTS) for sample in samples]),
        "faces": np.stack([face_map(sample) for sample in samples]),
        "framings": np.array([FRAMINGS.index(sample.framing) for sample in samples]),
        "views": np.array([VIEWS.index(sample.view) for sample in samples]),
        "people": np.array(people, np.int64),
        "captions": np.array(json.dumps([sample.captions for sample in samples])),
    }
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]


def read_shards(shards: Sequence[Path]) -> Images:
    """All images of some shards, compressed in memory (about 20 kB each).

    Raises:
        UserError: if a shard is damaged or of another version.
    """
    return concatenated([_read_shard(shard) for shard in shards])


def concatenated(parts: Sequence[Images]) -> Images:
    """All images of some sets."""
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS}
    return Images(
        [image for part in parts for image in part.encoded],
        [control for part in parts for control in part.encoded_controls],
        captions=[texts for part in parts for texts in part.captions],
        **arrays,
    )


def _read_shard(shard: Path) -> Images:
    try:
        with np.load(shard, allow_pickle=False) as data:
            if int(data["version"]) != SHARD_VERSION:
                raise ValueError(f"version {data['version']}, expected {SHARD_VERSION}")
            return Images(
                _split(data["images"], data["image_sizes"]),
                _split(data["controls"], data["control_sizes"]),
                captions=json.loads(str(data["captions"])),
                **{name: data[name] for name in ARRAYS},
            )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{shard}: not a shard of this version ({error}); delete it, and it is rendered again"
        ) from error


def face_map(sample: Sample) -> UInt8[np.ndarray, "64 64"]:
    """Discs over eyes and mouth where visible, in proportion to the distance between the eyes."""
    out = np.zeros((FACE_MAP, FACE_MAP), np.uint8)
    points = sample.face_points
    scale = FACE_MAP / len(sample.drawn.image)
    visible = points[:, 2] > 0
    if not visible.any():
        return out
    reach = max(1.0, 0.45 * sample.eye_distance * scale)
    for x, y in points[visible, :2] * scale:
        cv2.circle(out, (int(x), int(y)), round(reach), 255, -1)
    return out


def _cover(parts: UInt8[np.ndarray, "R R"], which: tuple[int, ...]) -> UInt8[np.ndarray, "c c"]:
    """Fraction of each latent cell covered by these parts, 0..255."""
    cells = len(parts) // (2 * CELL)
    covered = np.isin(parts, which).reshape(cells, 2 * CELL, cells, 2 * CELL).mean((1, 3))
    return (255 * covered).round().astype(np.uint8)


def _encoded(image: UInt8[np.ndarray, "S S 3"], form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **options)
    return buffer.getvalue()


def _decoded(data: bytes) -> UInt8[np.ndarray, "S S 3"]:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def _split(blob: UInt8[np.ndarray, " n"], sizes: Int[np.ndarray, " N"]) -> list[bytes]:
    ends = np.cumsum(sizes)
    return [blob[end - size : end].tobytes() for end, size in zip(ends, sizes, strict=True)]
