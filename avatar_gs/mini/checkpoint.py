"""Where a training is: parameters, their average, Adam's moments and the step, in one file."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from avatar_gs.io import load_state, save_state

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def save(
    path: Path,
    step: int,
    parameters: Mapping[str, Tensor],
    adam: torch.optim.Optimizer,
    average: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes where a training is after ``step`` steps. ``average``: a moving average of each parameter."""
    tensors = {f"raw.{name}": value for name, value in parameters.items()}
    tensors |= {f"average.{name}": value for name, value in (average or {}).items()}
    for index, state in adam.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{key}": value for key, value in state.items()}
    save_state(path, tensors, {"step": step})


def restore(
    path: Path,
    parameters: Mapping[str, Tensor],
    adam: torch.optim.Optimizer,
    average: Mapping[str, Tensor] | None = None,
) -> int:
    """Puts a training back to where ``path`` says, and returns the steps done; 0 if there is no such file."""
    if not path.exists():
        return 0
    tensors, state = load_state(path)
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(tensors[f"raw.{name}"])
        for name, value in (average or {}).items():
            value.copy_(tensors[f"average.{name}"])
    restored = adam.state_dict()
    restored["state"] = {
        index: {key: tensors[f"adam.{index}.{key}"] for key in MOMENTS} for index in range(len(parameters))
    }
    adam.load_state_dict(restored)
    return int(state["step"])
