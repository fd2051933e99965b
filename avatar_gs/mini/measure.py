"""How well a prior of the mini world does: samples for prompts that training never saw, against drawn truth."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from avatar_gs.mini import picture as pic
from avatar_gs.mini.captions import caption, view_suffix
from avatar_gs.mini.colours import nearest_names
from avatar_gs.mini.dataset import SIZE, Sample, draw_sample, paint, part_masks, view_of
from avatar_gs.mini.people import Person, held_out, random_person
from avatar_gs.mini.vocabulary import NEGATIVE_WORDS
from avatar_gs.mini.wardrobe import load_wardrobe
from avatar_gs.render.config import CamerasConfig, FramingConfig
from avatar_gs.types import Framing, ViewDirection

PARTS = {
    "hair": pic.HAIR,
    "shirt": pic.SHIRT,
    "bottoms": pic.BOTTOMS,
    "shoes": pic.SHOES,
    "hat": pic.HAT,
    "stripe": pic.STRIPE,
}
SHOWN_ON = {
    "hair": (Framing.HEAD, Framing.UPPER, Framing.BODY),
    "shirt": (Framing.UPPER, Framing.BODY),
    "bottoms": (Framing.LOWER, Framing.BODY),
    "shoes": (Framing.LOWER, Framing.BODY),
    "hat": (Framing.HEAD, Framing.UPPER, Framing.BODY),
    "stripe": (Framing.UPPER, Framing.BODY),
}
COVERED, LEAST_PIXELS, LEAST_HEAD = 0.95, 6, 60
HEAD_GRID = 6
JUDGED = (Framing.HEAD, Framing.UPPER)
"""The framings in which a head is large enough to tell its view from a picture."""
NEGATIVE = ", ".join(NEGATIVE_WORDS)


@runtime_checkable
class Sampler(Protocol):
    """A prior that can be sampled (``StableDiffusionPrior``)."""

    def sample(
        self,
        prompts: list[str],
        negatives: list[str],
        control: Float[Tensor, "B H W 3"],
        *,
        steps: int,
        cfg_scale: float,
        generator: torch.Generator,
    ) -> Float[Tensor, "B H W 3"]: ...


@dataclass(frozen=True)
class Trial:
    """One prompt and what a right picture of it is. ``truth`` is the drawn picture in [0, 1]."""

    person: Person
    framing: Framing
    view: ViewDirection
    prompt: str
    sample: Sample
    truth: NDArray[np.float32]

    @property
    def control(self) -> NDArray[np.float32]:
        return self.sample.controls[0].astype(np.float32) / np.float32(255)

    def mask(self, part: int) -> NDArray[np.bool_]:
        return part_masks(self.sample.maps[0], part) > COVERED


def trials(count: int, seed: int, *, held: bool = True, cameras: CamerasConfig | None = None) -> list[Trial]:
    """Random people in random poses, framings and views; with ``held``, only combinations kept from training."""
    wardrobe = load_wardrobe()
    rng = np.random.default_rng(seed)
    found: list[Trial] = []
    while len(found) < count:
        person = random_person(rng)
        if held_out(person) != held:
            continue
        spread = 0.1 if len(found) % 2 else float(rng.uniform(0.2, 0.9))
        sample = draw_sample(wardrobe, person, cameras or CamerasConfig(), 1, rng, spread)
        framing, view = sample.views.framings[0], view_of(float(sample.views.azimuth[0]))
        prompt = caption(person, rng, 1.0) + view_suffix(framing, view)
        grey = np.full(3, 190.0)
        truth = paint(person, sample.maps[0], rng, grey).astype(np.float32) / np.float32(255)
        found.append(Trial(person, framing, view, prompt, sample, truth))
    return found


@torch.no_grad()
def draw(
    prior: Sampler,
    some: list[Trial],
    *,
    steps: int = 20,
    cfg_scale: float = 4.0,
    batch: int = 20,
    on_batch: Callable[[int], object] = lambda done: None,
) -> NDArray[np.float32]:
    """The prior's pictures ``[N, SIZE, SIZE, 3]`` for the trials' prompts and pose maps; ``on_batch`` hears how many
    are done."""
    pictures = []
    for start in range(0, len(some), batch):
        chunk = some[start : start + batch]
        control = torch.from_numpy(np.stack([trial.control for trial in chunk]))
        images = prior.sample(
            [trial.prompt for trial in chunk],
            [NEGATIVE] * len(chunk),
            control,
            steps=steps,
            cfg_scale=cfg_scale,
            generator=torch.Generator().manual_seed(start),
        )
        pictures.append(images.clamp(0, 1).cpu().numpy())
        on_batch(min(start + batch, len(some)))
    return np.concatenate(pictures)


def score(some: list[Trial], pictures: NDArray[np.float32]) -> dict[str, dict[str, float]]:
    """Shares of right parts by framing, silhouette overlap, views as asked and faces; with the number of cases each."""
    hits: dict[str, list[float]] = {}
    head_of = fit_head_views()
    for trial, image in zip(some, pictures, strict=True):
        for part, name in asked_colours(trial.person).items():
            mask = trial.mask(PARTS[part])
            if mask.sum() < LEAST_PIXELS or trial.framing not in SHOWN_ON[part]:
                continue
            colour = np.median(image[mask], 0)
            hits.setdefault(f"{part}/{trial.framing.value}", []).append(float(nearest_names(colour, part) == name))
        hits.setdefault("silhouette IoU", []).append(_silhouette_iou(trial, image))
        if trial.framing in JUDGED and (seen := head_of(trial, image)) is not None:
            hits.setdefault(f"view/{trial.view.value}", []).append(float(seen is trial.view))
        if trial.framing is Framing.HEAD and trial.view is ViewDirection.FRONT:
            hits.setdefault("face contrast > 0.5 of truth", []).append(float(face_contrast(trial, image) > 0.5))
    return {key: {"mean": round(float(np.mean(values)), 3), "n": len(values)} for key, values in sorted(hits.items())}


def asked_colours(person: Person) -> dict[str, str]:
    """The colour name of every part that a person has."""
    outfit = person.outfit
    names = {
        "hair": person.hair,
        "shirt": outfit.shirt,
        "bottoms": outfit.bottoms_colour,
        "shoes": outfit.shoes,
        "hat": outfit.hat,
        "stripe": outfit.stripe,
    }
    return {part: name for part, name in names.items() if name}


def _silhouette_iou(trial: Trial, image: NDArray[np.float32]) -> float:
    """Overlap of the sampled person with the drawn one. The background is the colour outside the drawn silhouette."""
    truth = 1 - part_masks(trial.sample.maps[0], pic.BACKGROUND) > 0.5
    outside = part_masks(trial.sample.maps[0], pic.BACKGROUND) > 0.99
    if not outside.any():
        return 1.0
    background = np.median(image[outside], 0)
    found = np.abs(image - background).max(-1) > 0.10
    return float((found & truth).sum() / max(1, (found | truth).sum()))


def face_contrast(trial: Trial, image: NDArray[np.float32]) -> float:
    """How much eyes, brows and mouth stand out from the skin, as a share of how much they do in the drawn truth."""
    features = np.any(
        [part_masks(trial.sample.maps[0], part) > 0.6 for part in (pic.EYE, pic.EYE_WHITE, pic.BROW, pic.MOUTH)], 0
    )
    skin = trial.mask(pic.SKIN)
    if features.sum() < LEAST_PIXELS or skin.sum() < LEAST_PIXELS:
        return math.inf

    def contrast(pixels: NDArray[np.float32]) -> float:
        return float(np.abs(pixels[features] - np.median(pixels[skin], 0)).mean())

    return contrast(image) / max(contrast(trial.truth), 1e-6)


def fit_head_views(count: int = 500, seed: int = 5):
    """A judge of front, side and back that sees how hair lies on the head: a linear discriminant fitted to
    drawn pictures of training people. Returns a function (trial, picture) -> view, None where nothing can be told."""
    features, labels = [], []
    for trial in _judge_trials(count, seed):
        feature = _head_feature(trial, trial.truth)
        if feature is not None:
            features.append(feature)
            labels.append(list(ViewDirection).index(trial.view))
    stacked, target = np.stack(features), np.eye(len(ViewDirection))[labels]
    gram = stacked.T @ stacked + 2.0 * np.eye(stacked.shape[1])
    weights = np.linalg.solve(gram, stacked.T @ target)

    def judge(trial: Trial, image: NDArray[np.float32]) -> ViewDirection | None:
        feature = _head_feature(trial, image)
        return None if feature is None else list(ViewDirection)[int((feature @ weights)[:3].argmax())]

    return judge


_JUDGE: dict[tuple[int, int], list[Trial]] = {}


def _judge_trials(count: int, seed: int) -> list[Trial]:
    if (count, seed) not in _JUDGE:
        none = FramingConfig(probability=0.0)
        close = replace(CamerasConfig(), body=none, lower=none)
        _JUDGE[count, seed] = trials(count, seed, held=False, cameras=close)
    return _JUDGE[count, seed]


def _head_feature(trial: Trial, image: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Where on the head the picture's own hair colour lies, on a coarse grid; None if that cannot be told."""
    person, part_map = trial.person, trial.sample.maps[0]
    if not person.hair or np.abs(np.array(person.hair_rgb) - person.skin_rgb).max() < 60:
        return None
    hair = part_masks(part_map, pic.HAIR) > COVERED
    head = np.any(
        [part_masks(part_map, part) > 0.5 for part in (pic.HAIR, pic.EYE, pic.EYE_WHITE, pic.BROW, pic.MOUTH, pic.HAT)],
        0,
    )
    if hair.sum() < LEAST_PIXELS or head.sum() < LEAST_HEAD:
        return None
    rows, columns = np.nonzero(head)
    span = max(np.ptp(rows), np.ptp(columns)) + 1
    centre = (columns.min() + columns.max()) / 2
    steps = (np.arange(HEAD_GRID) + 0.5) * span / HEAD_GRID
    ys = np.clip(rows.min() + steps, 0, SIZE - 1).astype(int)
    xs = np.clip(centre - span / 2 + steps, 0, SIZE - 1).astype(int)
    difference = np.abs(image[np.ix_(ys, xs)] - np.median(image[hair], 0)).max(-1)
    feature = np.exp(-((difference / 0.2) ** 2))
    asymmetry = np.abs(feature - feature[:, ::-1])
    return np.concatenate([feature.ravel(), asymmetry.ravel(), [1.0]]).astype(np.float64)
