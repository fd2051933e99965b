"""``stage=train_scorer``: data set, scorer, face detector, judge of views, and their accuracies."""

from functools import partial
from pathlib import Path

from transformers import CLIPTokenizer

from avatar_gs.core.io import write_json, write_text
from avatar_gs.lab.scorer.config import ScorerConfig
from avatar_gs.lab.scorer.data import generate_pairs, read_pairs
from avatar_gs.lab.scorer.faces import draw_heads, load_detector, train_faces
from avatar_gs.lab.scorer.measure import measure_faces, measure_scorer, measure_views, table
from avatar_gs.lab.scorer.model import TOKENIZER, load_scorer, package_scorer
from avatar_gs.lab.scorer.train import train_model
from avatar_gs.lab.scorer.views import ViewNet, draw_turned, load_view_judge, through_the_autoencoder, train_views
from avatar_gs.lab.train_prior.training import Report, package_small


def train_and_measure(config: ScorerConfig, report: Report) -> tuple[Path, dict[str, float]]:
    """Run or resume everything in ``config.folder``.

    Returns:
        The folder of weights, and the accuracies of these weights in half precision.
    """
    folder = Path(config.folder)
    weights = folder / "weights"
    for done, total in generate_pairs(config, folder / "data"):
        report("rendering people", done, total, 0.0)
    tokenizer = CLIPTokenizer.from_pretrained(str(TOKENIZER))
    data, on_step = read_pairs(folder / "data"), partial(report, "training the scorer")
    package_scorer(train_model(config, data, tokenizer, folder / "scorer.safetensors", on_step), weights)
    if not (weights / "faces.safetensors").exists():
        heads, on_step = draw_heads(config.face_people, config.seed), partial(report, "training the face detector")
        detector = train_faces(config, heads, folder / "faces_training.safetensors", on_step)
        package_small(detector, weights / "faces.safetensors")
    if not (weights / "views.safetensors").exists():
        package_small(train_view_judge(config, folder, report), weights / "views.safetensors")
    figures = measure_weights(config, weights, report)
    write_json(weights / "measured.json", figures)
    write_text(weights / "measured.md", table(figures))
    return weights, figures


def train_view_judge(config: ScorerConfig, folder: Path, report: Report) -> ViewNet:
    """Render the heads (from scratch, even after an interruption) and train, or resume."""
    heads = draw_turned(
        config.view_people,
        config.seed,
        through_the_autoencoder(),
        on_person=lambda done: report("rendering heads", done, config.view_people, 0.0),
    )
    on_step = partial(report, "training the judge of views")
    return train_views(config, heads, folder / "views_training.safetensors", on_step)


def measure_weights(config: ScorerConfig, weights: Path, report: Report) -> dict[str, float]:
    """Accuracies of the scorer, the detector and the judge of views of a folder."""
    load_scorer.cache_clear()
    load_detector.cache_clear()
    load_view_judge.cache_clear()
    people, scorer = config.measured_people, load_scorer(weights)
    figures = measure_scorer(scorer, people, report=lambda task, done, total: report(task, done, total, 0.0))
    figures |= measure_faces(people // 2, detector=load_detector(weights / "faces.safetensors"))
    return figures | measure_views(people // 2, judge=load_view_judge(weights / "views.safetensors"))
