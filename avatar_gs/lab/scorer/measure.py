"""Accuracy of the scorer, the face detector and the judge of views on people and captions unseen in training."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.lab.scorer.data import Seen, float_images, see
from avatar_gs.lab.scorer.faces import BACK, CLASSES, FRONT, THRESHOLD, FaceNet, draw_heads, face_score, soft
from avatar_gs.lab.scorer.lighting import paint_lit
from avatar_gs.lab.scorer.model import Scorer, person_part
from avatar_gs.lab.scorer.views import VIEWS, ViewNet, draw_turned, load_view_judge, through_the_autoencoder
from avatar_gs.lab.world.captions import caption, view_suffix
from avatar_gs.lab.world.dataset import CAMERAS, part_masks
from avatar_gs.lab.world.people import Person, held_out, named_colours, random_person
from avatar_gs.lab.world.rendering import PART_IDS, SHOWN_ON
from avatar_gs.lab.world.views import beyond_doubt
from avatar_gs.lab.world.vocabulary import CLOTHES, HAIR
from avatar_gs.render.config import FramingConfig
from avatar_gs.render.shading import Shade
from avatar_gs.types import ViewDirection

CAPTION_POOL, PERSON_POOL = 100, 20
LEAST_SHOWN = 30
"""Parts with fewer pixels are not measured."""
TURNS = {ViewDirection.FRONT: (-60.0, 60.0), ViewDirection.SIDE: (60.0, 120.0), ViewDirection.BACK: (120.0, 240.0)}
NO_LEGS = replace(CAMERAS, lower=FramingConfig(0.0))
Report = Callable[[str, int, int], object]
"""Called with (task, done, total)."""


def measure_scorer(
    scorer: Scorer, people: int = 300, seed: int = 90_000, report: Report = lambda what, done, total: None
) -> dict[str, float]:
    """Accuracies (0 to 1) of the scorer by name, on ``people`` persons of held-out colours.

    Measured are: which of 100 captions fits an image (in plain colours, sharp and as soft as a render of splats, lit,
    and white); which of 20 persons (each known by one image from the front) an image shows, by view, sharp and soft;
    which colour a part has.
    """
    rng = np.random.default_rng(seed)
    known, shown = [], {view: [] for view in TURNS}
    captioned: list[tuple[Seen, str]] = []
    looks: dict[Shade, list[Tensor]] = {shade: [] for shade in Shade}
    lamps = np.random.default_rng(seed + 1)
    for number in range(people):
        person = _unseen_person(rng)
        known.append(_image(_seen_from(person, ViewDirection.FRONT, rng), rng))
        for view in TURNS:
            shown[view].append(_image(_seen_from(person, view, rng), rng))
        seen = see(person, CAMERAS, 1, rng, poses=1)
        captioned.append((seen, caption(person, rng, 1.0) + view_suffix(*seen.buckets[0])))
        for shade, images in looks.items():
            images.append(_image(seen, rng if shade is Shade.ALBEDO else lamps, shade))
        report("measuring the scorer", number + 1, people)
    lit = {shade: torch.stack(images) for shade, images in looks.items()}
    images = lit[Shade.ALBEDO]
    named = {"": images, ", soft": soft(images, seed)}
    named |= {f", {shade.value}": some for shade, some in lit.items() if shade is not Shade.ALBEDO}
    figures = _captions(scorer, named, [text for _, text in captioned])
    gallery = scorer.image_features(torch.stack(known))
    for view in TURNS:
        sharp = torch.stack(shown[view])
        queries, blurred = scorer.image_features(sharp), scorer.image_features(soft(sharp, seed))
        name = f"person of {PERSON_POOL}"
        figures[f"{name}, {view.value}"] = _person_hits(person_part(queries), person_part(gallery))
        figures[f"{name}, {view.value}, soft"] = _person_hits(person_part(blurred), person_part(gallery))
        figures[f"{name}, {view.value}, by image_features"] = _person_hits(queries, gallery)
    return figures | _attributes(scorer, images, [seen for seen, _ in captioned])


def measure_faces(people: int = 150, seed: int = 90_001, detector: FaceNet | None = None) -> dict[str, float]:
    """Fractions of images of heads in which a face is detected, by what they show, sharp and soft, and their numbers.

    Fronts are within 45 degrees of the front, backs beyond 135.
    """
    heads = draw_heads(people, seed, held=True, front=FRONT, back=BACK)
    images = float_images(heads.images)
    figures = {}
    for suffix, shown in (("", images), (", soft", soft(images, seed))):
        yes = face_score(shown, detector).numpy() > THRESHOLD
        for label, name in enumerate(CLASSES):
            figures[f"face seen, {name}{suffix}"] = float(yes[heads.classes == label].mean())
    return figures | {f"images, {name}": float((heads.classes == label).sum()) for label, name in enumerate(CLASSES)}


def measure_views(people: int = 150, seed: int = 90_002, judge: ViewNet | None = None) -> dict[str, float]:
    """Fractions of heads whose view is recognised, by view, as rendered and after the packaged autoencoder, and their
    numbers. Views are unambiguous, and the colours are held out."""
    heads = draw_turned(people, seed, through_the_autoencoder(), held=True)
    sure = np.array([beyond_doubt(turn) for turn in heads.turns])
    with torch.no_grad():
        named = (judge or load_view_judge())(float_images(heads.cuts)).argmax(1).numpy()
    figures = {}
    for softened, name in ((False, "drawn"), (True, "through the autoencoder")):
        for number, view in enumerate(VIEWS):
            some = sure & (heads.views == number) & (heads.softened == softened)
            figures[f"view named, {view.value}, {name}"] = float((named[some] == number).mean())
            figures[f"heads, {view.value}, {name}"] = float(some.sum())
    return figures


def table(figures: dict[str, float]) -> str:
    """The figures as a Markdown table."""
    lines = [f"| {name} | {value:.3f} |" for name, value in figures.items()]
    return "\n".join(["| measured | fraction |", "|---|---|", *lines]) + "\n"


def _unseen_person(rng: np.random.Generator) -> Person:
    while True:
        person = random_person(rng)
        if held_out(person):
            return person


def _seen_from(person: Person, view: ViewDirection, rng: np.random.Generator) -> Seen:
    low, high = TURNS[view]
    return see(person, replace(NO_LEGS, azimuth_min=low, azimuth_max=high), 1, rng, poses=1)


def _image(seen: Seen, rng: np.random.Generator, shade: Shade = Shade.ALBEDO) -> Float[Tensor, "S S 3"]:
    return float_images(paint_lit(seen.person, seen.maps[0], seen.focals[0], shade, rng))


def _captions(scorer: Scorer, named: dict[str, Float[Tensor, "N S S 3"]], texts: list[str]) -> dict[str, float]:
    """Retrieval among pools of ``CAPTION_POOL``, in both directions, top 1 and top 5, of each set of images."""
    words = scorer.text_features(texts)
    figures: dict[str, list[float]] = {}
    for name, images in named.items():
        looks = scorer.image_features(images)
        for start in range(0, len(images) - CAPTION_POOL + 1, CAPTION_POOL):
            pool = slice(start, start + CAPTION_POOL)
            alike = looks[pool] @ words[pool].T
            for direction, scores in (("caption of", alike), ("image of", alike.T)):
                ranks = (scores > scores.diagonal()[:, None]).sum(1)
                figures.setdefault(f"{direction} {CAPTION_POOL}{name}", []).append(float((ranks == 0).float().mean()))
                top_5 = float((ranks < 5).float().mean())
                figures.setdefault(f"{direction} {CAPTION_POOL}, top 5{name}", []).append(top_5)
    return {name: float(np.mean(values)) for name, values in figures.items()}


def _person_hits(queries: Float[Tensor, "N d"], gallery: Float[Tensor, "N d"]) -> float:
    """Fraction of queries nearest to their row of the gallery among each ``PERSON_POOL``."""
    hits = []
    for start in range(0, len(queries) - PERSON_POOL + 1, PERSON_POOL):
        pool = slice(start, start + PERSON_POOL)
        nearest = (queries[pool] @ gallery[pool].T).argmax(1)
        hits.append(float((nearest == torch.arange(PERSON_POOL)).float().mean()))
    return float(np.mean(hits))


def _attributes(scorer: Scorer, images: Float[Tensor, "N S S 3"], sights: list[Seen]) -> dict[str, float]:
    """For each part, how often the sentence with its colour fits best of those with all colours; the most frequent
    mistake is in the name of a second figure."""
    looks = scorer.image_features(images)
    figures = {}
    for part in ("hair", "shirt", "bottoms", "shoes", "hat"):
        colours = list(HAIR if part == "hair" else CLOTHES)
        hits, mistakes = [], Counter[str]()
        for row, seen in enumerate(sights):
            name, (framing, view) = named_colours(seen.person).get(part), seen.buckets[0]
            if name is None or framing not in SHOWN_ON[part]:
                continue
            if part_masks(seen.maps[0], PART_IDS[part]).sum() < LEAST_SHOWN:
                continue
            texts = [_sentence(part, colour, seen.person) + view_suffix(framing, view) for colour in colours]
            guess = colours[int((scorer.text_features(texts) @ looks[row]).argmax())]
            hits.append(float(guess == name))
            if guess != name:
                mistakes[f"{name} for {guess}"] += 1
        figures[f"{part} colour (n = {len(hits)})"] = float(np.mean(hits)) if hits else float("nan")
        if mistakes:
            mistake, count = mistakes.most_common(1)[0]
            figures[f"{part} colour, commonest mistake: {mistake.replace(' for ', ' taken for ')}"] = count / len(hits)
    return figures


def _sentence(part: str, colour: str, person: Person) -> str:
    words = {
        "hair": f"with {'long' if person.long_hair else 'short'} {colour} hair",
        "shirt": f"in a {colour} shirt",
        "bottoms": f"in {colour} {person.outfit.bottoms}",
        "shoes": f"in {colour} shoes",
        "hat": f"in a {colour} hat",
    }
    return f"a person {words[part]}"
