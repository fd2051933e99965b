"""A small convolutional detector of the mini world's painted faces, and its training on rendered heads.

It sees pixels only, through windows smaller than the head: eyes, brows and mouth make a face wherever they are painted.
Negatives include fronts whose features were painted over, positives include backs of heads with a face on the hair, so
that neither hair nor skin decides.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from avatar_gs.lab.scorer.config import ScorerConfig
from avatar_gs.lab.scorer.data import float_images, see
from avatar_gs.lab.scorer.train import augmented, train_small
from avatar_gs.lab.train_prior.training import OnStep, load_small
from avatar_gs.lab.world import rendering as r
from avatar_gs.lab.world.dataset import paint, recoloured
from avatar_gs.lab.world.people import held_out, random_person
from avatar_gs.lab.world.rendering import PartMap
from avatar_gs.lab.world.views import from_the_front
from avatar_gs.render.config import CamerasConfig, FramingConfig

WEIGHTS = Path(__file__).parent / "weights" / "faces.safetensors"
THRESHOLD = 0.5
"""Scores above this mean a face."""
SIZE = 64
BATCH = 64


class FaceNet(nn.Module):
    """Evidence at each of 16 x 16 places, from windows of 29 of the image's 64 pixels; the places are pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(),
            nn.Conv2d(24, 32, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 1, 3, padding=1),
        )  # fmt: skip
        nn.init.constant_(cast(Tensor, self.layers[-1].bias), -math.log((SIZE / 4) ** 2))  # a prior of one half

    def forward(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, " B"]:
        """Log-odds that each image in [0, 1] shows a face."""
        small = F.interpolate(images.permute(0, 3, 1, 2), (SIZE, SIZE), mode="bilinear", antialias=True)
        std = small.std((1, 2, 3), keepdim=True).clamp(min=0.05)
        places = self.layers((small - small.mean((1, 2, 3), keepdim=True)) / std)
        return places.flatten(1).logsumexp(1)


@lru_cache(maxsize=2)
def load_detector(path: Path = WEIGHTS) -> FaceNet:
    """The detector of a file of weights, by default the packaged one.

    Raises:
        UserError: if the file is missing or damaged.
    """
    return load_small(FaceNet(), path, "face detector")


@torch.no_grad()
def face_score(images: Float[Tensor, "B H W 3"], detector: FaceNet | None = None) -> Float[Tensor, " B"]:
    """Probability that each image shows a face; see ``THRESHOLD``.

    Args:
        images: square, in [0, 1], framed like ``Framing.HEAD`` (the head spans most of the image).
        detector: by default the packaged one.
    """
    net = detector or load_detector()
    return torch.cat([net(chunk.float().cpu()).sigmoid() for chunk in images.split(BATCH)])


# ---- training

FEATURES = (r.EYE, r.EYE_WHITE, r.BROW, r.MOUTH)
HEADS = replace(CamerasConfig(), body=FramingConfig(0.0), upper=FramingConfig(0.0), lower=FramingConfig(0.0))
FRONT, BACK = np.deg2rad(45), np.deg2rad(135)
"""Limits of unambiguous views: a face is visible within ``FRONT`` of the front, and not beyond ``BACK``."""
TRAINED_FRONT, TRAINED_BACK = np.deg2rad(55), np.deg2rad(110)
VIEWS = 8
SIGMA = (0.25, 0.85)
"""Blur in training, in pixels of the detector's ``SIZE``: half of the scorer's at 128 pixels."""
LEAST_FEATURES = 400
"""With fewer pixels (of 256²) of eyes, brows and mouth, a hat hides the face: such an image is no front."""
CLASSES = ("front", "back", "painted over", "face on the back", "front under a hat")


@dataclass(frozen=True)
class Heads:
    """Images of heads; ``classes`` holds indices of ``CLASSES``, of which the first and the fourth show a face."""

    images: UInt8[np.ndarray, "N 128 128 3"]
    classes: UInt8[np.ndarray, " N"]

    @property
    def faces(self) -> NDArray[np.float32]:
        """1 where a face is visible, else 0."""
        return np.isin(self.classes, (0, 3)).astype(np.float32)


def draw_heads(
    people: int, seed: int, *, held: bool = False, front: float = TRAINED_FRONT, back: float = TRAINED_BACK
) -> Heads:
    """Heads of random people, each from several sides.

    Args:
        held: people of colour combinations reserved for evaluation.
        front: fronts have azimuths up to this.
        back: backs have azimuths from this; between both, only fronts that are painted over.
    """
    rng = np.random.default_rng([seed, 11])
    images, classes = [], []
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
        for label, maps in enumerate((fronts, backs, plain, both, hidden)):
            for part_map in maps:
                shown = person if held else recoloured(person, rng)
                images.append(paint(shown, part_map, rng))
                classes.append(label)
    return Heads(np.stack(images), np.array(classes, np.uint8))


def shows_face(part_map: PartMap) -> bool:
    """Whether enough of eyes, brows and mouth is visible."""
    return int(np.isin(part_map.parts, FEATURES).sum()) >= LEAST_FEATURES


def without_face(part_map: PartMap) -> PartMap:
    """The same head with skin in place of eyes, brows and mouth."""
    parts = np.where(np.isin(part_map.parts, FEATURES), np.uint8(r.SKIN), part_map.parts)
    return replace(part_map, parts=parts)


def with_face(rear: PartMap, front: PartMap, rng: np.random.Generator) -> PartMap:
    """The back of a head with the front's features on it, alone or in a patch of the front's skin."""
    wanted = np.isin(front.parts, FEATURES).astype(np.uint8)
    if rng.random() < 0.6:
        side = int(rng.integers(3, 25))
        wanted = np.asarray(cv2.dilate(wanted, np.ones((side, side), np.uint8)), bool) & np.isin(
            front.parts, (*FEATURES, r.SKIN)
        )
    pasted = wanted.astype(bool) & (rear.parts > 0)
    return replace(
        rear,
        parts=np.where(pasted, front.parts, rear.parts).astype(np.uint8),
        shade=np.where(pasted, front.shade, rear.shade).astype(np.uint8),
    )


def train_faces(config: ScorerConfig, heads: Heads, checkpoint: Path, on_step: OnStep) -> FaceNet:
    """Logistic regression on balanced batches; resumes from the checkpoint."""
    torch.manual_seed(config.seed)
    net = FaceNet()
    small = np.stack([cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for image in heads.images])
    faces = torch.from_numpy(heads.faces)
    sure = torch.from_numpy(heads.classes != CLASSES.index("front under a hat"))
    groups = [torch.nonzero((faces == value) & sure)[:, 0] for value in (0.0, 1.0)]

    def loss_of(generator: torch.Generator) -> Float[Tensor, ""]:
        rows = torch.cat([group[torch.randint(len(group), (BATCH // 2,), generator=generator)] for group in groups])
        images = augmented(float_images(small[rows.numpy()]), generator, SIGMA)
        return F.binary_cross_entropy_with_logits(net(images), faces[rows])

    train_small(net, loss_of, config, checkpoint, on_step, steps=config.face_steps, weight_decay=1e-3)
    return net.eval()


def soft(images: Float[Tensor, "B H W 3"], seed: int, sigma: float = 1.25) -> Float[Tensor, "B H W 3"]:
    """Images with blur (``sigma`` pixels) and noise, as in renders of splats."""
    array = np.stack([cv2.GaussianBlur(image, (0, 0), sigma) for image in images.numpy()])
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)) * 0.03
    return (torch.from_numpy(array) + noise).clamp(0, 1)
