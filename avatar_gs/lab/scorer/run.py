"""The whole of ``stage=train_scorer``: data, scorer, face detector, judge of views, figures."""

from collections.abc import Callable
from pathlib import Path

from transformers import CLIPTokenizer

from avatar_gs.core.io import write_json, write_text
from avatar_gs.lab.scorer.config import ScorerConfig
from avatar_gs.lab.scorer.data import generate_pairs, read_pairs
from avatar_gs.lab.scorer.faces import load_detector
from avatar_gs.lab.scorer.measure import measure_faces, measure_scorer, measure_views, table
from avatar_gs.lab.scorer.model import TOKENIZER, load_scorer, package_scorer
from avatar_gs.lab.scorer.train import train_model
from avatar_gs.lab.scorer.train_faces import draw_heads, train_faces
from avatar_gs.lab.scorer.train_views import draw_turned, through_the_autoencoder, train_views
from avatar_gs.lab.scorer.view_judge import ViewNet, load_view_judge
from avatar_gs.lab.train_prior.checkpoint import package_small

Report = Callable[[str, int, int, float], None]
"""Called with (what, done, total, loss)."""


def train_and_measure(config: ScorerConfig, report: Report) -> tuple[Path, dict[str, float]]:
    """Runs, or continues, everything in ``config.folder``; returns the folder of weights and the figures, which are
    measured on the half-precision weights as they lie there."""
    folder = Path(config.folder)
    weights = folder / "weights"
    for done, total in generate_pairs(config, folder / "data"):
        report("drawing people", done, total, 0.0)
    tokenizer = CLIPTokenizer.from_pretrained(str(TOKENIZER))
    model = train_model(
        config,
        read_pairs(folder / "data"),
        tokenizer,
        folder / "scorer.safetensors",
        lambda done, total, loss: report("training the scorer", done, total, loss),
    )
    package_scorer(model, weights)
    if not (weights / "faces.safetensors").exists():
        detector = train_faces(
            config,
            draw_heads(config.face_people, config.seed),
            folder / "faces_training.safetensors",
            lambda done, total, loss: report("training the face detector", done, total, loss),
        )
        package_small(detector, weights / "faces.safetensors")
    if not (weights / "views.safetensors").exists():
        package_small(train_view_judge(config, folder, report), weights / "views.safetensors")
    figures = measure_weights(config, weights, report)
    write_json(weights / "measured.json", figures)
    write_text(weights / "measured.md", table(figures))
    return weights, figures


def train_view_judge(config: ScorerConfig, folder: Path, report: Report) -> ViewNet:
    """Draws the heads (anew, if it was interrupted) and trains, or continues."""
    heads = draw_turned(
        config.view_people,
        config.seed,
        through_the_autoencoder(),
        on_person=lambda done: report("drawing heads", done, config.view_people, 0.0),
    )
    return train_views(
        config,
        heads,
        folder / "views_training.safetensors",
        lambda done, total, loss: report("training the judge of views", done, total, loss),
    )


def measure_weights(config: ScorerConfig, weights: Path, report: Report) -> dict[str, float]:
    """The figures of the scorer, the detector and the judge of views that lie in a folder."""
    load_scorer.cache_clear()
    load_detector.cache_clear()
    load_view_judge.cache_clear()
    figures = measure_scorer(
        load_scorer(weights), config.measured_people, report=lambda what, done, total: report(what, done, total, 0.0)
    )
    figures |= measure_faces(config.measured_people // 2, detector=load_detector(weights / "faces.safetensors"))
    return figures | measure_views(config.measured_people // 2, judge=load_view_judge(weights / "views.safetensors"))
