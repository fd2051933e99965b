"""Training the face detector on drawn heads: fronts, backs, fronts without features and backs with a face on them."""

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from avatar_gs.lab.scorer.config import ScorerConfig
from avatar_gs.lab.scorer.data import float_pictures, see
from avatar_gs.lab.scorer.faces import SIZE, FaceNet
from avatar_gs.lab.scorer.small import train_small
from avatar_gs.lab.scorer.train import OnStep, augmented
from avatar_gs.lab.world import picture as pic
from avatar_gs.lab.world.dataset import from_the_front, paint, recoloured
from avatar_gs.lab.world.people import held_out, random_person
from avatar_gs.lab.world.picture import PartMap
from avatar_gs.render.config import CamerasConfig, FramingConfig

FEATURES = (pic.EYE, pic.EYE_WHITE, pic.BROW, pic.MOUTH)
HEADS = replace(CamerasConfig(), body=FramingConfig(0.0), upper=FramingConfig(0.0), lower=FramingConfig(0.0))
FRONT, BACK = np.deg2rad(45), np.deg2rad(135)
"""Sure views: a face shows within ``FRONT`` of the middle, and never beyond ``BACK``."""
TRAINED_FRONT, TRAINED_BACK = np.deg2rad(55), np.deg2rad(110)
VIEWS, BATCH = 8, 64
SIGMA = (0.25, 0.85)
"""Blur in training, in pixels of the detector's ``SIZE``: half of what a picture of 128 pixels has."""
LEAST_FEATURES = 400
"""Pixels (of 256²) of eyes, brows and mouth below which a hat hides the face: such a picture is no front."""
KINDS = ("front", "back", "painted over", "face on the back", "front under a hat")


@dataclass(frozen=True)
class Heads:
    """Pictures of heads; ``kinds`` numbers ``KINDS``, of which the first and the fourth show a face."""

    pictures: UInt8[np.ndarray, "N 128 128 3"]
    kinds: UInt8[np.ndarray, " N"]

    @property
    def faces(self) -> NDArray[np.float32]:
        return np.isin(self.kinds, (0, 3)).astype(np.float32)


def draw_heads(
    people: int, seed: int, *, held: bool = False, front: float = TRAINED_FRONT, back: float = TRAINED_BACK
) -> Heads:
    """Heads of random people (with ``held``, of held-out colours), each from several sides. Azimuths between ``front``
    and ``back`` are left out, but for fronts whose features are painted over."""
    rng = np.random.default_rng([seed, 11])
    pictures, kinds = [], []
    while people:
        person = random_person(rng)
        if held_out(person) != held:
            continue
        people -= 1
        seen = see(person, HEADS, VIEWS, rng, poses=1)
        turns = [from_the_front(azimuth) for azimuth in seen.azimuths]
        faced = [part_map for part_map, turn in zip(seen.maps, turns, strict=True) if turn <= front]
        fronts, hidden = [m for m in faced if shows_face(m)], [m for m in faced if not shows_face(m)]
        backs = [part_map for part_map, turn in zip(seen.maps, turns, strict=True) if turn >= back]
        plain = [without_face(part_map) for part_map, turn in zip(seen.maps, turns, strict=True) if turn < back]
        both = [with_face(rear, face, rng) for rear, face in zip(backs, fronts, strict=False)]
        both = [part_map for part_map in both if shows_face(part_map)]
        for kind, maps in enumerate((fronts, backs, plain, both, hidden)):
            for part_map in maps:
                shown = person if held else recoloured(person, rng)
                pictures.append(paint(shown, part_map, rng))
                kinds.append(kind)
    return Heads(np.stack(pictures), np.array(kinds, np.uint8))


def shows_face(part_map: PartMap) -> bool:
    """Whether enough of eyes, brows and mouth is to be seen."""
    return int(np.isin(part_map.parts, FEATURES).sum()) >= LEAST_FEATURES


def without_face(part_map: PartMap) -> PartMap:
    """The same head with skin where eyes, brows and mouth are."""
    parts = np.where(np.isin(part_map.parts, FEATURES), np.uint8(pic.SKIN), part_map.parts)
    return replace(part_map, parts=parts)


def with_face(rear: PartMap, front: PartMap, rng: np.random.Generator) -> PartMap:
    """The back of a head with the front's features on it, bare or in a patch of the front's skin."""
    wanted = np.isin(front.parts, FEATURES).astype(np.uint8)
    if rng.random() < 0.6:
        side = int(rng.integers(3, 25))
        wanted = np.asarray(cv2.dilate(wanted, np.ones((side, side), np.uint8)), bool) & np.isin(
            front.parts, (*FEATURES, pic.SKIN)
        )
    pasted = wanted.astype(bool) & (rear.parts > 0)
    return replace(
        rear,
        parts=np.where(pasted, front.parts, rear.parts).astype(np.uint8),
        shade=np.where(pasted, front.shade, rear.shade).astype(np.uint8),
    )


def train_faces(config: ScorerConfig, heads: Heads, checkpoint: Path, on_step: OnStep) -> FaceNet:
    """Logistic regression on faces, both answers equally frequent; restartable."""
    torch.manual_seed(config.seed)
    net = FaceNet()
    small = np.stack([cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for picture in heads.pictures])
    faces = torch.from_numpy(heads.faces)
    sure = torch.from_numpy(heads.kinds != KINDS.index("front under a hat"))
    groups = [torch.nonzero((faces == value) & sure)[:, 0] for value in (0.0, 1.0)]

    def loss_of(generator: torch.Generator) -> Float[Tensor, ""]:
        rows = torch.cat([group[torch.randint(len(group), (BATCH // 2,), generator=generator)] for group in groups])
        images = augmented(float_pictures(small[rows.numpy()]), generator, SIGMA)
        return F.binary_cross_entropy_with_logits(net(images), faces[rows])

    train_small(net, loss_of, config, checkpoint, on_step, steps=config.face_steps, weight_decay=1e-3)
    return net.eval()


def soft(images: Float[Tensor, "B H W 3"], seed: int, sigma: float = 1.25) -> Float[Tensor, "B H W 3"]:
    """Pictures as blurred and noisy as renders of splats can be."""
    array = np.stack([cv2.GaussianBlur(image, (0, 0), sigma) for image in images.numpy()])
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)) * 0.03
    return (torch.from_numpy(array) + noise).clamp(0, 1)
