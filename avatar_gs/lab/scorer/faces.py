"""Does a picture of a head show a face? A small convolutional detector of the mini world's painted faces.

It looks at the pixels only, through windows smaller than the head: eyes, brows and mouth make a face wherever they are
painted. Its negatives hold fronts whose features were painted over, and its positives hold backs of heads with a face
on the hair, so that neither hair nor skin decides (see ``scorer.train_faces``).
"""

import math
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from avatar_gs.lab.train_prior.checkpoint import load_small

WEIGHTS = Path(__file__).parent / "weights" / "faces.safetensors"
THRESHOLD = 0.5
"""A picture with a higher score shows a face."""
SIZE = 64
BATCH = 64


class FaceNet(nn.Module):
    """Evidence at each of 16 x 16 places, from a window of 29 of the picture's 64 pixels; any place will do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(),
            nn.Conv2d(24, 32, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 1, 3, padding=1),
        )  # fmt: skip
        nn.init.constant_(cast(Tensor, self.layers[-1].bias), -math.log((SIZE / 4) ** 2))  # as many yes as no at first

    def forward(self, images: Float[Tensor, "B H W 3"]) -> Float[Tensor, " B"]:
        """Log-odds that each picture in [0, 1] shows a face."""
        small = F.interpolate(images.permute(0, 3, 1, 2), (SIZE, SIZE), mode="bilinear", antialias=True)
        spread = small.std((1, 2, 3), keepdim=True).clamp(min=0.05)
        places = self.layers((small - small.mean((1, 2, 3), keepdim=True)) / spread)
        return places.flatten(1).logsumexp(1)


@lru_cache(maxsize=2)
def load_detector(path: Path = WEIGHTS) -> FaceNet:
    """The packaged detector, or another training's.

    Raises:
        UserError: if the file is missing or damaged.
    """
    return load_small(FaceNet(), path, "face detector")


@torch.no_grad()
def face_score(images: Float[Tensor, "B H W 3"], detector: FaceNet | None = None) -> Float[Tensor, " B"]:
    """How sure it is that each picture shows a face, from 0 to 1; above ``THRESHOLD`` means yes.

    Args:
        images: square pictures in [0, 1], framed as ``Framing.HEAD`` frames (the head spans most of the picture).
        detector: the packaged one by default.
    """
    net = detector or load_detector()
    return torch.cat([net(chunk.float().cpu()).sigmoid() for chunk in images.split(BATCH)])
