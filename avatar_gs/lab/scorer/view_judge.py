"""Which side of a head does a picture show? A small convolutional judge of the mini world's people.

Of a picture it is told where the head should be, and sees the pixels there: neither the prompt, nor the pose map, nor
which view was asked for.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from avatar_gs.lab.train_prior.checkpoint import load_small
from avatar_gs.lab.world.heads import CUT, Head, cut_out
from avatar_gs.types import Framing, ViewDirection

WEIGHTS = Path(__file__).parent / "weights" / "views.safetensors"
JUDGED = (Framing.HEAD, Framing.UPPER)
"""The framings in which a head is large enough to tell its view from a picture."""
LEAST_SHOWN = 0.6
"""The share of the head's box that has to lie inside of the picture."""
VIEWS = (ViewDirection.FRONT, ViewDirection.SIDE, ViewDirection.BACK)
LEAST_SPREAD = 0.05


class ViewNet(nn.Module):
    """Evidence for each of ``VIEWS`` from a head's cut-out, whatever its contrast and brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(),
            nn.Conv2d(48, 64, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(64 * (CUT // 16) ** 2, 64), nn.ReLU(),
            nn.Linear(64, len(VIEWS)),
        )  # fmt: skip

    def forward(self, cuts: Float[Tensor, "B 64 64 3"]) -> Float[Tensor, "B 3"]:
        """Log-odds of ``VIEWS`` for cut-outs in [0, 1]."""
        images = cuts.permute(0, 3, 1, 2)
        spread = images.std((1, 2, 3), keepdim=True).clamp(min=LEAST_SPREAD)
        return self.layers((images - images.mean((1, 2, 3), keepdim=True)) / spread)


@lru_cache(maxsize=2)
def load_view_judge(path: Path = WEIGHTS) -> ViewNet:
    """The packaged judge, or another training's.

    Raises:
        UserError: if the file is missing or damaged.
    """
    return load_small(ViewNet(), path, "judge of views")


def seen_view(picture: NDArray[np.float32], head: Head, judge: ViewNet | None = None) -> ViewDirection:
    """The view of a head that a picture ``[S, S, 3]`` in [0, 1] shows; ``judge`` is the packaged one by default."""
    cuts = torch.from_numpy(cut_out(picture, head))[None].float()
    return VIEWS[int((judge or load_view_judge())(cuts).argmax())]
