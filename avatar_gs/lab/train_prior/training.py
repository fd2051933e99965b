"""The loop that every training of the laboratory runs: AdamW, a moving average of the weights, exact resumption."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from avatar_gs.core.console import interruptible
from avatar_gs.core.errors import UserError
from avatar_gs.core.io import load_state, save_state
from avatar_gs.core.optim_state import load_optimizer_tensors, optimizer_tensors

Net = TypeVar("Net", bound=nn.Module)
OnStep = Callable[[int, int, float], object]
"""Called with (steps done, total steps, loss)."""
Report = Callable[[str, int, int, float], object]
"""Called with (task, done, total, loss)."""
_ADAM_KEY = "adam.{name}.{moment}"


@dataclass(frozen=True)
class Training:
    """How a training runs. On a CPU, an interrupted and resumed one ends with the same bytes as another."""

    steps: int
    rate: Callable[[int], float]
    """Learning rate of each step."""
    checkpoint: Path
    """File to save to and to resume from."""
    checkpoint_every: int
    on_step: OnStep
    average: Callable[[int], float] | None = None
    """Weight of a step's result in the moving average of the weights; None: no average."""
    clip: bool = True
    """Clip the gradient's norm to 1."""
    on_checkpoint: Callable[[Mapping[str, Tensor], int], object] | None = None
    """Called with the averages by parameter name and the number of steps done, after every checkpoint."""

    def run(
        self,
        parameters: Mapping[str, Tensor],
        adam: torch.optim.Optimizer,
        loss_of: Callable[[int], Float[Tensor, ""]],
    ) -> dict[str, Tensor]:
        """Minimise ``loss_of(step)`` from the checkpoint, if there is one; returns the averages by parameter name.

        Args:
            loss_of: must depend on the step and the parameters only.

        Raises:
            KeyboardInterrupt: after Ctrl-C, once the checkpoint is written.
        """
        average = {name: value.detach().clone() for name, value in parameters.items()} if self.average else {}
        first = restore(self.checkpoint, parameters, adam, average)
        with interruptible() as interrupt:
            for step in range(first, self.steps):
                for group in adam.param_groups:
                    group["lr"] = self.rate(step)
                loss = loss_of(step)
                adam.zero_grad()
                loss.backward()
                if self.clip:
                    nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
                adam.step()
                if self.average:
                    with torch.no_grad():
                        torch._foreach_lerp_(list(average.values()), list(parameters.values()), self.average(step))
                done = step + 1
                if done % self.checkpoint_every == 0 or done == self.steps or interrupt.requested:
                    save(self.checkpoint, done, parameters, adam, average)
                    if self.on_checkpoint is not None:
                        self.on_checkpoint(average, done)
                self.on_step(done, self.steps, float(loss.detach()))
                if interrupt.requested and done < self.steps:
                    raise KeyboardInterrupt
        return average


def cosine_rate(lr: float, steps: int, *, warmup: int = 60, hold: float, floor: float) -> Callable[[int], float]:
    """Learning rate by step: linear warm-up, constant, then a cosine.

    Args:
        lr: the maximum.
        warmup: steps.
        hold: fraction of the training at which the cosine starts.
        floor: last rate, relative to ``lr``.
    """

    def rate(step: int) -> float:
        done = step / steps
        decay = 1.0
        if done >= hold:
            decay = floor + (1 - floor) * 0.5 * (1 + float(np.cos(np.pi * (done - hold) / (1 - hold))))
        return lr * min(1.0, (step + 1) / warmup) * decay

    return rate


def save(
    path: Path,
    step: int,
    parameters: Mapping[str, Tensor],
    adam: torch.optim.Optimizer,
    average: Mapping[str, Tensor],
) -> None:
    """Write the state of a training after ``step`` steps: parameters, their average and Adam's moments."""
    tensors = {f"raw.{name}": value for name, value in parameters.items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    tensors |= optimizer_tensors(adam, _by_index(parameters), _ADAM_KEY)
    save_state(path, tensors, {"step": step})


def restore(
    path: Path, parameters: Mapping[str, Tensor], adam: torch.optim.Optimizer, average: Mapping[str, Tensor]
) -> int:
    """Restore what ``save`` wrote, in place; returns the number of steps done, 0 without a file."""
    if not path.exists():
        return 0
    tensors, state = load_state(path)
    with torch.no_grad():
        for prefix, values in (("raw", parameters), ("average", average)):
            for name, value in values.items():
                value.copy_(tensors[f"{prefix}.{name}"])
    load_optimizer_tensors(adam, _by_index(parameters), tensors, _ADAM_KEY)
    return int(state["step"])


def _by_index(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {str(index): value for index, value in enumerate(parameters.values())}


def package_small(net: nn.Module, path: Path) -> None:
    """Write a network's weights in half precision."""
    save_state(path, {name: value.half() for name, value in net.state_dict().items()})


def load_small(net: Net, path: Path, name: str) -> Net:
    """``net`` with the weights written by ``package_small``, frozen, in single precision.

    Raises:
        UserError: if the file is missing, damaged or of another network; ``name`` says what was expected.
    """
    tensors, _ = load_state(path)
    try:
        net.load_state_dict({key: value.float() for key, value in tensors.items()})
    except RuntimeError as error:
        raise UserError(f"{path} is no {name} of this version; train one: avatar-gs stage=train_scorer") from error
    return net.eval().requires_grad_(False)
