"""What a run has reached: all that a resumed run needs to end with the same bytes."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from avatar_gs.core import runs
from avatar_gs.core.errors import UserError
from avatar_gs.core.io import load_state, save_state
from avatar_gs.guidance.distill import Guidance
from avatar_gs.splats.config import DensityConfig, SplatsConfig
from avatar_gs.splats.density import DistillationStrategy
from avatar_gs.splats.model import GaussianModel
from avatar_gs.splats.optim import build_optimizers, load_optimizer_tensors, optimizer_tensors
from avatar_gs.splats.smoothing import ColorSmoother
from avatar_gs.training import parallel
from avatar_gs.training.background import LearnedBackground
from avatar_gs.training.stopwatch import Seconds

CHECKPOINT = runs.AVATAR_CHECKPOINT
SCHEMA = 2


@dataclass
class TrainingState:
    """All that changes during a run. ``step`` steps are done."""

    model: GaussianModel
    optimizers: dict[str, Optimizer]
    strategy: DistillationStrategy
    smoother: ColorSmoother
    guidance: Guidance
    background: LearnedBackground | None = None
    init: str = ""
    """The digest of the avatar that the run began with; empty: the body's surface."""
    damping: float = 0.0
    """Of the optimisers (``splats.optim.step_all``)."""
    step: int = 0
    bad_steps: int = 0
    """Steps that were skipped because a gradient was not finite, and how many of them just now, one after another."""
    bad_in_a_row: int = 0
    prior_calls: int = 0
    seconds: Seconds = field(default_factory=Seconds)
    """Time spent so far, by part; carried over by a resumed run, but no part of what its results depend on."""

    @classmethod
    def start(
        cls,
        model: GaussianModel,
        splats: SplatsConfig,
        density: DensityConfig,
        guidance: Guidance,
        total_steps: int,
        init: str = "",
        background: LearnedBackground | None = None,
    ) -> "TrainingState":
        strategy = DistillationStrategy(density, total_steps, model, parallel.from_first)
        smoother = ColorSmoother(splats.smoothing, model)
        return cls(model, build_optimizers(model, splats.lr), strategy, smoother, guidance, background, init)

    def save(self, path: Path, *, seed: int, total_steps: int) -> None:
        """Write a checkpoint atomically."""
        groups = {
            "splats": self.model.tensors(),
            "optim": optimizer_tensors(self.optimizers),
            "density": self.strategy.tensors(),
            "smoothing": self.smoother.tensors(),
            "guidance": self.guidance.state_dict(),
            "background": {} if self.background is None else self.background.state_dict(),
        }
        self.seconds.settle()
        tensors = {f"{group}/{name}": value for group, entries in groups.items() for name, value in entries.items()}
        facts = {
            "schema": SCHEMA,
            "step": self.step,
            "total_steps": total_steps,
            "seed": seed,
            "init": self.init,
            "threads": torch.get_num_threads(),
            "bad_steps": self.bad_steps,
            "bad_in_a_row": self.bad_in_a_row,
            "prior_calls": self.prior_calls,
            "seconds": self.seconds,
        }
        save_state(path, tensors, facts)

    def restore(self, path: Path, splats: SplatsConfig, *, seed: int, total_steps: int) -> dict:
        """Continue from a checkpoint of the same run; the checkpoint's facts are returned.

        Raises:
            UserError: if the file is damaged, or of a run with another seed, number of steps or first avatar.
        """
        tensors, facts = load_state(path)
        _check_facts(path, facts, seed, total_steps)
        if facts.get("init", "") != self.init:
            raise UserError(
                f"{path}: the avatar that its run began with (init=…) has changed since; start anew with "
                "overwrite=true, or give the run another name=…"
            )
        device = self.model.device
        self.model = GaussianModel.from_config(splats, group(tensors, "splats")).to(device)
        self.optimizers = build_optimizers(self.model, splats.lr)
        load_optimizer_tensors(self.optimizers, group(tensors, "optim"))
        self.strategy.load_tensors(group(tensors, "density"))
        self.smoother.load_tensors(group(tensors, "smoothing"))
        self.guidance.load_state_dict(group(tensors, "guidance"))
        if self.background is not None:
            self.background.load_state_dict(group(tensors, "background"))
        self.step, self.seconds = facts["step"], Seconds(facts["seconds"])
        self.bad_steps, self.bad_in_a_row = facts["bad_steps"], facts["bad_in_a_row"]
        self.prior_calls = facts["prior_calls"]
        return facts


def group(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors called ``<name>/…``, without that prefix."""
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def load_model(path: Path, splats: SplatsConfig | None = None) -> GaussianModel:
    """The avatar of a checkpoint.

    Raises:
        UserError: if there is no such file, or it is damaged.
    """
    tensors, _ = load_state(path)
    return GaussianModel.from_config(splats or SplatsConfig(), group(tensors, "splats"))


def _check_facts(path: Path, facts: dict, seed: int, total_steps: int) -> None:
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise UserError(f"{path}: not a checkpoint of this version of avatar_gs; start anew with overwrite=true")
    for name, expected in (("seed", seed), ("total_steps", total_steps)):
        if facts[name] != expected:
            raise UserError(
                f"{path}: its run has {name}={facts[name]}, this one {expected}; start anew with overwrite=true, "
                "or give the run another name=…"
            )
