"""The whole of ``stage=train_scorer``: data, scorer, face detector, figures."""

from collections.abc import Callable
from pathlib import Path

from transformers import CLIPTokenizer

from avatar_gs.io import write_json, write_text
from avatar_gs.mini.config import ScorerConfig
from avatar_gs.mini.faces import load_detector
from avatar_gs.mini.scorer.data import generate_pairs, read_pairs
from avatar_gs.mini.scorer.measure import measure_faces, measure_scorer, table
from avatar_gs.mini.scorer.model import TOKENIZER, load_scorer, package_scorer
from avatar_gs.mini.scorer.train import train_model
from avatar_gs.mini.scorer.train_faces import draw_heads, package_faces, train_faces

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
        package_faces(detector, weights / "faces.safetensors")
    figures = measure_weights(config, weights, report)
    write_json(weights / "measured.json", figures)
    write_text(weights / "measured.md", table(figures))
    return weights, figures


def measure_weights(config: ScorerConfig, weights: Path, report: Report) -> dict[str, float]:
    """The figures of the scorer and the detector that lie in a folder."""
    load_scorer.cache_clear()
    load_detector.cache_clear()
    figures = measure_scorer(
        load_scorer(weights), config.measured_people, report=lambda what, done, total: report(what, done, total, 0.0)
    )
    return figures | measure_faces(config.measured_people // 2, detector=load_detector(weights / "faces.safetensors"))
