"""The state of a run: everything that a resumed run needs to end with the same bytes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from avatar_gs.core.errors import UserError
from avatar_gs.core.io import load_state, save_state
from avatar_gs.core.plain import flat, plain
from avatar_gs.guidance.distill import Guidance
from avatar_gs.splats.config import SplatsConfig
from avatar_gs.splats.density import DistillationStrategy
from avatar_gs.splats.model import GaussianModel
from avatar_gs.splats.optim import (
    build_optimizers,
    gradients_are_finite,
    load_optimizer_states,
    optimizer_states,
    step_all,
    zero_grad_all,
)
from avatar_gs.splats.smoothing import ColorSmoother
from avatar_gs.training.background import LearnedBackground
from avatar_gs.training.config import TrainingConfig
from avatar_gs.training.curves import Curves
from avatar_gs.training.stopwatch import Seconds

SCHEMA = 2
CHANGEABLE = {
    f"optimize.{name}" for name in ("steps", "preview_every", "checkpoint_every", "tensorboard", "max_bad_steps")
} | {"init"}
"""Settings that may differ when a run goes on: ``steps`` may grow, ``init`` is compared by its avatar's digest, and the
others change no splat."""


@dataclass
class TrainingState:
    """Everything that changes during a run. ``step`` steps are done."""

    model: GaussianModel
    optimizers: dict[str, Optimizer]
    strategy: DistillationStrategy
    smoother: ColorSmoother
    guidance: Guidance
    background: LearnedBackground | None = None
    init: str = ""
    """Digest of the avatar that the run started from; empty: the body's surface."""
    damping: float = 0.0
    """Of the optimisers (``splats.optim.step_all``)."""
    image_size: int = 0
    """Side of the renders in pixels, which the splats' detail is made for; 0: not known."""
    step: int = 0
    bad_steps: int = 0
    """Steps that were skipped because a gradient was not finite."""
    bad_in_a_row: int = 0
    """The most recent consecutive ones of these."""
    prior_calls: int = 0
    seconds: Seconds = field(default_factory=Seconds)
    """Time spent so far by part, including that of interrupted processes; results do not depend on it."""
    curves: Curves = field(default_factory=Curves)

    def drop_gradients(self) -> None:
        """Discard the result of a backward pass."""
        zero_grad_all(self.optimizers)
        if self.background is not None:
            self.background.optimizer.zero_grad(set_to_none=True)

    def gradients_are_finite(self, *others: Tensor) -> bool:
        """Whether every splat parameter has a finite gradient, and all ``others`` are finite."""
        return gradients_are_finite(self.optimizers, *others)

    def learn_background(self) -> None:
        """One step of the learned background, if there is one that was visible."""
        if self.background is not None:
            self.background.update()

    def move(self) -> None:
        """One step of every optimiser and of the colours' smoothing; parameters are clamped to their ranges."""
        step_all(self.optimizers, self.damping)
        self.smoother.step(self.model, self.optimizers["sh0"].param_groups[0]["lr"])
        self.model.constrain()

    def count_step(self, finite: bool) -> None:
        """Count a finished step, and whether it was skipped."""
        self.step += 1
        self.bad_in_a_row = 0 if finite else self.bad_in_a_row + 1
        self.bad_steps += not finite

    def save(self, path: Path, config: TrainingConfig) -> None:
        """Write a checkpoint atomically."""
        groups = {
            "splats": self.model.tensors(),
            "optim": optimizer_states(self.optimizers),
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
            "total_steps": config.optimize.steps,
            "seed": config.seed,
            "settings": _fixed_settings(config),
            "init": self.init,
            "threads": torch.get_num_threads(),
            "image_size": self.image_size,
            "bad_steps": self.bad_steps,
            "bad_in_a_row": self.bad_in_a_row,
            "prior_calls": self.prior_calls,
            "seconds": self.seconds,
            "curves": self.curves.plain(),
        }
        save_state(path, tensors, facts)

    def restore(self, path: Path, config: TrainingConfig) -> dict:
        """Continue from a checkpoint of the same run; returns the checkpoint's facts.

        Raises:
            UserError: if the file is damaged, or of a run with other settings, more steps or another initial avatar.
        """
        tensors, facts = load_state(path)
        _check_facts(path, facts, config)
        if facts.get("init", "") != self.init:
            raise UserError(
                f"{path}: the avatar that its run began with (init=…) has changed since; start from scratch with "
                "overwrite=true, or give the run another name=…"
            )
        self.model = GaussianModel.from_config(config.splats, group(tensors, "splats")).to(self.model.device)
        self.optimizers = build_optimizers(self.model, config.splats.lr)
        load_optimizer_states(self.optimizers, group(tensors, "optim"))
        self.strategy.load_tensors(group(tensors, "density"))
        self.smoother.load_tensors(group(tensors, "smoothing"))
        self.guidance.load_state_dict(group(tensors, "guidance"))
        if self.background is not None:
            self.background.load_state_dict(group(tensors, "background"))
        self.step, self.seconds = facts["step"], Seconds(facts["seconds"])
        self.curves = Curves.from_plain(facts.get("curves", {}))
        self.bad_steps, self.bad_in_a_row = facts["bad_steps"], facts["bad_in_a_row"]
        self.prior_calls = facts["prior_calls"]
        return facts


def group(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors called ``<name>/…``, without that prefix."""
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def load_avatar(path: Path, splats: SplatsConfig) -> tuple[GaussianModel, int]:
    """The avatar of a checkpoint, and the size of the renders that it was optimised on (0: not known).

    Raises:
        UserError: if there is no such file, or it is damaged.
    """
    tensors, facts = load_state(path)
    size = facts.get("image_size") if isinstance(facts, dict) else None
    return GaussianModel.from_config(splats, group(tensors, "splats")), size if isinstance(size, int) else 0


def _check_facts(path: Path, facts: dict, config: TrainingConfig) -> None:
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise UserError(
            f"{path}: not a checkpoint of this version of avatar_gs; start from scratch with overwrite=true"
        )
    remedy = "start from scratch with overwrite=true, or give the run another name=…"
    saved, given = facts.get("settings", {"seed": facts["seed"]}), _fixed_settings(config)
    for name in sorted(saved.keys() & given.keys()):  # another version of the program may have more or fewer
        if saved[name] != given[name]:
            raise UserError(f"{path}: its run has {name}={saved[name]}, this one {given[name]}; {remedy}")
    if facts["total_steps"] > config.optimize.steps:
        raise UserError(
            f"{path}: its run has optimize.steps={facts['total_steps']}, this one {config.optimize.steps}: steps can "
            f"only be added; {remedy}"
        )


def _fixed_settings(config: TrainingConfig) -> dict[str, Any]:
    """The settings that a run cannot change once it has begun, by dotted name."""
    return {name: value for name, value in flat(plain(config)).items() if name not in CHANGEABLE}
