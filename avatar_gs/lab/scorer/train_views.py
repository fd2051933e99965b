"""Training the judge of views on drawn heads from all sides, half of them as the packaged autoencoder shows them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from avatar_gs.lab.scorer.config import ScorerConfig
from avatar_gs.lab.scorer.data import float_pictures, see
from avatar_gs.lab.scorer.small import train_small
from avatar_gs.lab.scorer.train import OnStep, augmented
from avatar_gs.lab.scorer.view_judge import LEAST_SHOWN, VIEWS, ViewNet
from avatar_gs.lab.world.dataset import CAMERAS, paint, recoloured, view_of
from avatar_gs.lab.world.heads import Head, cut_out
from avatar_gs.lab.world.people import held_out, random_person
from avatar_gs.prior.config import PriorConfig
from avatar_gs.prior.stable_diffusion import load_prior
from avatar_gs.render.config import FramingConfig

CLOSE = replace(CAMERAS, body=FramingConfig(0.0), lower=FramingConfig(0.0))
SHOTS, RECOLOURINGS, BATCH = 6, 2, 96
SIGMA = (0.25, 1.2)
"""Blur in training, in pixels of a cut-out."""
MOVED, SCALED = 0.08, (0.9, 1.12)
"""How far the boxes of heads are off, in their own size: pictures need not show heads just where the body has them."""
SMOOTHING = 0.05
RoundTrip = Callable[[Float[Tensor, "B S S 3"]], Float[Tensor, "B S S 3"]]


@dataclass(frozen=True)
class TurnedHeads:
    """Cut-outs of heads, the azimuth (radians) that each is seen from, and whether it went through the autoencoder."""

    cuts: UInt8[np.ndarray, "N 64 64 3"]
    turns: Float[np.ndarray, " N"]
    softened: Bool[np.ndarray, " N"]

    @property
    def views(self) -> Int[np.ndarray, " N"]:
        """The place in ``VIEWS`` of what each shows."""
        return np.array([VIEWS.index(view_of(turn)) for turn in self.turns])


def through_the_autoencoder() -> RoundTrip:
    """Encodes and decodes pictures as the packaged prior does."""
    prior = load_prior(PriorConfig(), "cpu")

    @torch.no_grad()
    def round_trip(pictures: Float[Tensor, "B S S 3"]) -> Float[Tensor, "B S S 3"]:
        return prior.decode_latents(prior.encode_images(pictures)).clamp(0, 1)

    return round_trip


def draw_turned(
    people: int,
    seed: int,
    round_trip: RoundTrip,
    *,
    held: bool = False,
    on_person: Callable[[int], object] = lambda done: None,
) -> TurnedHeads:
    """Heads of random people (with ``held``, of held-out colours) from all sides, every second picture after
    ``round_trip``. Views are named by the head's own turn: it need not be the body's."""
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
            drawn = [paint(person if held else recoloured(person, rng), part_map, rng) for part_map, _ in shown]
            images = float_pictures(np.stack(drawn))
            images[1::2] = round_trip(images[1::2])
            for index, (image, (_, head)) in enumerate(zip(images.numpy(), shown, strict=True)):
                cuts.append(cut_out(image, _moved(head, rng)))
                turns.append(head.turn)
                softened.append(index % 2 == 1)
        done += 1
        on_person(done)
    return TurnedHeads(
        cuts=(255 * np.stack(cuts)).round().astype(np.uint8),
        turns=np.array(turns),
        softened=np.array(softened),
    )


def _moved(head: Head, rng: np.random.Generator) -> Head:
    """The head's box a little off and of another size."""
    x, y = (np.array(head.centre) + rng.uniform(-MOVED, MOVED, 2) * head.span).tolist()
    return replace(head, centre=(x, y), span=head.span * float(rng.uniform(*SCALED)))


def train_views(config: ScorerConfig, heads: TurnedHeads, checkpoint: Path, on_step: OnStep) -> ViewNet:
    """Logistic regression on the three views; restartable."""
    torch.manual_seed(config.seed)
    net = ViewNet()
    views = torch.from_numpy(heads.views)

    def loss_of(generator: torch.Generator) -> Float[Tensor, ""]:
        rows = torch.randint(len(views), (BATCH,), generator=generator)
        images = augmented(float_pictures(heads.cuts[rows.numpy()]), generator, SIGMA)
        return F.cross_entropy(net(images), views[rows], label_smoothing=SMOOTHING)

    train_small(net, loss_of, config, checkpoint, on_step, steps=config.view_steps, weight_decay=1e-2)
    return net.eval()
