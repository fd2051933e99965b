"""suite=prior: 2D samples of the prior for held-out prompts, scored against drawn truth."""

import time
from typing import Any

import numpy as np
from jaxtyping import Float

from avatar_gs.core.console import format_duration, progress
from avatar_gs.core.errors import UserError
from avatar_gs.core.images import RGBImage
from avatar_gs.lab.metrics.colours import wilson_lower_bound
from avatar_gs.lab.suites.report import markdown_table, number
from avatar_gs.lab.suites.suite import Figures, Suite
from avatar_gs.lab.world import measure
from avatar_gs.lab.world.dataset import SIZE
from avatar_gs.lab.world.measure import Trial, trials

SHEET_SAMPLES = 32
SAMPLE_STEPS, SAMPLE_CFG_SCALE = 20, 4.0


class PriorSuite(Suite):
    """DDIM samples for random people, poses and views."""

    title = "The prior in 2D"

    def evaluate(self) -> tuple[Figures, RGBImage]:
        """Samples, and their scores by ``world.measure``.

        Raises:
            UserError: the prior's image size is not that of the drawn truth.
        """
        prior, config, seed = self.prior, self.settings.lab.evaluate, self.settings.seed
        if prior.image_size != SIZE:
            raise UserError(
                f"suite=prior: prior={prior.name} draws images of {prior.image_size} pixels, expected {SIZE}: "
                "give prior=mini, or suite=colours"
            )
        began = time.monotonic()
        with progress("draw the truth of held-out prompts"):
            some = trials(config.samples, seed)
        sampling = {"steps": SAMPLE_STEPS, "cfg_scale": SAMPLE_CFG_SCALE, "pose_scale": config.pose_scale}
        with progress("sample", len(some)) as bar:
            samples = measure.sample(prior, some, seed=seed, **sampling, on_batch=bar.update)
        with progress("score"):
            scores = measure.score(some, samples)
        figures = {
            "samples": len(some),
            **sampling,
            "scores": {name: row | {"wilson": _wilson(name, row)} for name, row in scores.items()},
            "seconds": time.monotonic() - began,
        }
        return figures, self._sheet(some[:SHEET_SAMPLES], samples)

    def _sheet(self, some: list[Trial], samples: Float[np.ndarray, "N S S 3"]) -> RGBImage:
        """Pose map, truth and sample of each prompt, in two halves side by side."""

        def cell(image: Float[np.ndarray, "S S 3"]) -> RGBImage:
            return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)

        rows = [[cell(trial.control), cell(trial.truth), cell(samples[i])] for i, trial in enumerate(some)]
        half = -(-len(rows) // 2)
        paired = [row + (rows[half + i] if half + i < len(rows) else []) for i, row in enumerate(rows[:half])]
        labels = ["pose map", "truth", "sample"] * (2 if len(rows) > half else 1)
        return self.grid(paired, column_labels=labels)

    @classmethod
    def sections(cls, results: dict[str, Any]) -> list[str]:
        figures = results["figures"]
        rows = [
            [name, str(row["n"]), number(row["mean"]), number(row["wilson"])] for name, row in figures["scores"].items()
        ]
        text = (
            f"{figures['samples']} DDIM samples ({figures['steps']} steps, CFG {figures['cfg_scale']:g}, guidance on "
            f"pose maps {figures['pose_scale']:g}) of random people in random poses and views, against drawn truth. A "
            "part is right when its median colour's nearest name is the requested one; stripes, when each of their two "
            "colours covers a fifth of the shirt. "
            "Views are judged where the camera stands, and the head is turned, 15 degrees inside them, by a small "
            "network that sees the pixels around the head only; its fraction of right verdicts on the drawn truth is "
            "given, too."
        )
        table = markdown_table(["measure / framing", "cases", "mean", "Wilson ≥"], rows)
        return [text, table, f"Took {format_duration(figures['seconds'])}."]


def _wilson(name: str, row: dict[str, float]) -> float | None:
    """The lower bound of a fraction; None for an overlap."""
    return None if "IoU" in name else wilson_lower_bound(round(row["mean"] * row["n"]), int(row["n"]))
