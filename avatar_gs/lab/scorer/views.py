"""A small convolutional judge of which side of a head an image shows, and its training on rendered heads.

It gets the pixels around the place where the head should be, and neither the prompt nor the pose map nor the requested
view.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from avatar_gs.lab.scorer.config import ScorerConfig
from avatar_gs.lab.scorer.data import float_images, see
from avatar_gs.lab.scorer.train import augmented, train_small
from avatar_gs.lab.train_prior.training import OnStep, load_small
from avatar_gs.lab.world.dataset import CAMERAS, paint, recoloured
from avatar_gs.lab.world.people import held_out, random_person
from avatar_gs.lab.world.views import CUT, Head, cut_out, view_of
from avatar_gs.prior.config import PriorConfig
from avatar_gs.prior.stable_diffusion import load_prior
from avatar_gs.render.config import FramingConfig
from avatar_gs.types import Framing, ViewDirection

WEIGHTS = Path(__file__).parent / "weights" / "views.safetensors"
JUDGED = (Framing.HEAD, Framing.UPPER)
"""Framings in which heads are large enough to be judged."""
LEAST_SHOWN = 0.6
"""Fraction of a head's box that must be inside the image."""
VIEWS = (ViewDirection.FRONT, ViewDirection.SIDE, ViewDirection.BACK)
LEAST_STD = 0.05


class ViewNet(nn.Module):
    """Log-odds of ``VIEWS`` from a crop of a head, invariant to contrast and brightness."""

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
        """Log-odds of ``VIEWS`` for crops in [0, 1]."""
        images = cuts.permute(0, 3, 1, 2)
        std = images.std((1, 2, 3), keepdim=True).clamp(min=LEAST_STD)
        return self.layers((images - images.mean((1, 2, 3), keepdim=True)) / std)


@lru_cache(maxsize=2)
def load_view_judge(path: Path = WEIGHTS) -> ViewNet:
    """The judge of a file of weights, by default the packaged one.

    Raises:
        UserError: if the file is missing or damaged.
    """
    return load_small(ViewNet(), path, "judge of views")


def seen_view(image: NDArray[np.float32], head: Head, judge: ViewNet | None = None) -> ViewDirection:
    """The view of a head in an image ``[S, S, 3]`` in [0, 1]; ``judge`` is the packaged one by default."""
    cuts = torch.from_numpy(cut_out(image, head))[None].float()
    return VIEWS[int((judge or load_view_judge())(cuts).argmax())]


# ---- training

CLOSE = replace(CAMERAS, body=FramingConfig(0.0), lower=FramingConfig(0.0))
SHOTS, RECOLOURINGS, BATCH = 6, 2, 96
SIGMA = (0.25, 1.2)
"""Blur in training, in pixels of a crop."""
MOVED, SCALED = 0.08, (0.9, 1.12)
"""Random shift (in sizes of the head) and scale of boxes: samples may show heads a little off the body's."""
SMOOTHING = 0.05
RoundTrip = Callable[[Float[Tensor, "B S S 3"]], Float[Tensor, "B S S 3"]]


@dataclass(frozen=True)
class TurnedHeads:
    """Crops of heads, the azimuth (radians) that each is seen from, and whether it passed through the autoencoder."""

    cuts: UInt8[np.ndarray, "N 64 64 3"]
    turns: Float[np.ndarray, " N"]
    softened: Bool[np.ndarray, " N"]

    @property
    def views(self) -> Int[np.ndarray, " N"]:
        """Index of each view in ``VIEWS``."""
        return np.array([VIEWS.index(view_of(turn)) for turn in self.turns])


def through_the_autoencoder() -> RoundTrip:
    """A function that encodes and decodes images with the packaged prior."""
    prior = load_prior(PriorConfig(), "cpu")

    @torch.no_grad()
    def round_trip(images: Float[Tensor, "B S S 3"]) -> Float[Tensor, "B S S 3"]:
        return prior.decode_latents(prior.encode_images(images)).clamp(0, 1)

    return round_trip


def draw_turned(
    people: int,
    seed: int,
    round_trip: RoundTrip,
    *,
    held: bool = False,
    on_person: Callable[[int], object] = lambda done: None,
) -> TurnedHeads:
    """Heads of random people from all sides; every second image passes through ``round_trip``.

    Views are those of the head, which may differ from the body's.

    Args:
        held: people of colour combinations reserved for evaluation.
        on_person: called with the number of people done.
    """
    rng = np.random.default_rng([seed, 13])
    cuts: list[Float[np.ndarray, "64 64 3"]] = []
    turns: list[float] = []
    softened: list[bool] = []
    done = 0
    while done < people:
        person = random_person(rng)
        if held_out(person) != held:
            continue
        seen = see(person, CLOSE, SHOTS, rng)
        shown = [pair for pair in zip(seen.maps, seen.heads, strict=True) if pair[1].shown >= LEAST_SHOWN]
        shown = [pair for pair in shown for _ in range(RECOLOURINGS)]
        if shown:
            painted = [paint(person if held else recoloured(person, rng), part_map, rng) for part_map, _ in shown]
            images = float_images(np.stack(painted))
            images[1::2] = round_trip(images[1::2])
            for index, (image, (_, head)) in enumerate(zip(images.numpy(), shown, strict=True)):
                cuts.append(cut_out(image, _moved(head, rng)))
                turns.append(head.turn)
                softened.append(index % 2 == 1)
        done += 1
        on_person(done)
    return TurnedHeads((255 * np.stack(cuts)).round().astype(np.uint8), np.array(turns), np.array(softened))


def _moved(head: Head, rng: np.random.Generator) -> Head:
    """The head's box, randomly shifted and scaled."""
    x, y = (np.array(head.centre) + rng.uniform(-MOVED, MOVED, 2) * head.span).tolist()
    return replace(head, centre=(x, y), span=head.span * float(rng.uniform(*SCALED)))


def train_views(config: ScorerConfig, heads: TurnedHeads, checkpoint: Path, on_step: OnStep) -> ViewNet:
    """Logistic regression on the three views; resumes from the checkpoint."""
    torch.manual_seed(config.seed)
    net = ViewNet()
    views = torch.from_numpy(heads.views)

    def loss_of(generator: torch.Generator) -> Float[Tensor, ""]:
        rows = torch.randint(len(views), (BATCH,), generator=generator)
        images = augmented(float_images(heads.cuts[rows.numpy()]), generator, SIGMA)
        return F.cross_entropy(net(images), views[rows], label_smoothing=SMOOTHING)

    train_small(net, loss_of, config, checkpoint, on_step, steps=config.view_steps, weight_decay=1e-2)
    return net.eval()
