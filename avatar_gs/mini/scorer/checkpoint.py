"""Where a training is: parameters, Adam's moments and the step, in one file."""

from pathlib import Path

import torch
from torch import nn

from avatar_gs.io import load_state, save_state


def save(path: Path, step: int, model: nn.Module, adam: torch.optim.Optimizer) -> None:
    """Writes where a training is after ``step`` steps."""
    tensors = {f"model.{name}": value for name, value in model.named_parameters()}
    for index, state in adam.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{key}": value for key, value in state.items()}
    save_state(path, tensors, {"step": step})


def restore(path: Path, model: nn.Module, adam: torch.optim.Optimizer) -> int:
    """Puts a training back to where ``path`` says, and returns the steps done; 0 if there is no such file."""
    if not path.exists():
        return 0
    tensors, state = load_state(path)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(tensors[f"model.{name}"])
    restored = adam.state_dict()
    restored["state"] = {
        index: {key: tensors[f"adam.{index}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        for index in range(len(parameters))
    }
    adam.load_state_dict(restored)
    return int(state["step"])
