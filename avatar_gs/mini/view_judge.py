"""A judge of whether a picture shows a head from the front, the side or the back."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from avatar_gs.mini import picture as pic
from avatar_gs.mini.dataset import CAMERAS, SIZE, part_masks
from avatar_gs.mini.trials import COVERED, Trial, trials
from avatar_gs.render.config import FramingConfig
from avatar_gs.types import Framing, ViewDirection

JUDGED = (Framing.HEAD, Framing.UPPER)
"""The framings in which a head is large enough to tell its view from a picture."""
GRID, WIDTH, RIDGE = 6, 3.0, 0.1
"""Cells along the head's box; the kernel's width and the regression's ridge."""
LEAST_HAIR, LEAST_SKIN, LEAST_HEAD, LEAST_DIFFERENCE = 6, 6, 60, 60
"""Pixels of hair, skin and head, and levels (of 255) between hair and skin, below which nothing can be told."""
DIRECTIONS = list(ViewDirection)
Judge = Callable[[Trial, NDArray[np.float32]], ViewDirection | None]


@lru_cache(maxsize=1)
def fit_view_judge(count: int = 900, seed: int = 5) -> Judge:
    """A judge that sees how hair and skin lie on the head: kernel ridge regression on drawn pictures of training people
    and their mirror images. It maps (trial, picture) to a view, or None where nothing can be told."""
    seen = [(head_feature(trial, trial.truth), trial.view) for trial in judge_trials(count, seed)]
    features = np.stack([feature for feature, _ in seen if feature is not None])
    labels = [DIRECTIONS.index(view) for feature, view in seen if feature is not None]
    support = np.concatenate([features, features[..., ::-1]]).reshape(2 * len(features), -1)
    kernel = _kernel(support, support) + RIDGE * np.eye(len(support))
    weights = np.linalg.solve(kernel, np.eye(len(DIRECTIONS))[labels + labels])

    def judge(trial: Trial, image: NDArray[np.float32]) -> ViewDirection | None:
        feature = head_feature(trial, image)
        if feature is None:
            return None
        return DIRECTIONS[int((_kernel(feature.reshape(1, -1), support) @ weights).argmax())]

    return judge


def judge_trials(count: int, seed: int) -> list[Trial]:
    """Trials of the judged framings whose view is beyond doubt, of people whose combination training saw."""
    none = FramingConfig(probability=0.0)
    close = replace(CAMERAS, body=none, lower=none)
    return [trial for trial in trials(count, seed, held=False, cameras=close) if trial.clear]


def judge_accuracy(count: int = 300, seed: int = 77) -> dict[str, dict[str, float]]:
    """How often the judge is right on drawn truth that it was not fitted to, by view: what its verdicts are worth."""
    judge = fit_view_judge()
    hits: dict[str, list[bool]] = {}
    for trial in judge_trials(count, seed):
        if (seen := judge(trial, trial.truth)) is not None:
            hits.setdefault(f"judge on drawn truth/{trial.view.value}", []).append(seen is trial.view)
    return {key: {"mean": round(float(np.mean(values)), 3), "n": len(values)} for key, values in sorted(hits.items())}


def head_feature(trial: Trial, image: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Where on the head the picture's own colours of hair and skin lie ``[2, GRID, GRID]``; None if that cannot be
    told."""
    person, part_map = trial.person, trial.sample.maps[0]
    if not person.hair or np.abs(np.array(person.hair_rgb) - person.skin_rgb).max() < LEAST_DIFFERENCE:
        return None
    hair = part_masks(part_map, pic.HAIR) > COVERED
    on_head = (pic.HAIR, pic.EYE, pic.EYE_WHITE, pic.BROW, pic.MOUTH, pic.HAT)
    head = np.any([part_masks(part_map, part) > 0.5 for part in on_head], 0)
    if hair.sum() < LEAST_HAIR or head.sum() < LEAST_HEAD:
        return None
    rows, columns = np.nonzero(head)
    span = max(np.ptp(rows), np.ptp(columns)) + 1
    centre = (columns.min() + columns.max()) / 2
    steps = (np.arange(GRID) + 0.5) * span / GRID
    ys = np.clip(rows.min() + steps, 0, SIZE - 1).astype(int)
    xs = np.clip(centre - span / 2 + steps, 0, SIZE - 1).astype(int)
    maps = []
    hair_colour = np.median(image[hair], 0)
    for colour in (hair_colour, _skin_colour(trial, image, hair_colour)):
        likeness = np.exp(-((np.abs(image - colour).max(-1) / 0.2) ** 2))
        maps.append(uniform_filter(likeness, max(1, int(span / GRID)), mode="nearest")[np.ix_(ys, xs)])
    return np.stack(maps).astype(np.float64)


def _skin_colour(trial: Trial, image: NDArray[np.float32], hair_colour: NDArray[np.float32]) -> NDArray[np.floating]:
    """The picture's own where skin should be: no prompt has to say it. Where that is the hair's colour, as in a head
    that is turned the wrong way, the person's true one, which is then found nowhere."""
    skin = trial.mask(pic.SKIN)
    if skin.sum() >= LEAST_SKIN:
        own = np.median(image[skin], 0)
        if np.abs(own - hair_colour).max() >= LEAST_DIFFERENCE / 255:
            return own
    return np.array(trial.person.skin_rgb) / 255


def _kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.exp(-squares / (2 * WIDTH**2))
