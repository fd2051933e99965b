"""Where a training is (parameters, their average, Adam's moments and the step, in one file), and what it left."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from avatar_gs.core.errors import UserError
from avatar_gs.core.io import load_state, save_state

Net = TypeVar("Net", bound=nn.Module)
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


def package_small(net: nn.Module, path: Path) -> None:
    """Writes the network's weights in half precision."""
    save_state(path, {name: value.half() for name, value in net.state_dict().items()})


def load_small(net: Net, path: Path, name: str) -> Net:
    """``net`` with the weights that ``package_small`` wrote, frozen, in single precision.

    Raises:
        UserError: if the file is missing or damaged, or holds another network.
    """
    tensors, _ = load_state(path)
    try:
        net.load_state_dict({key: value.float() for key, value in tensors.items()})
    except RuntimeError as error:
        raise UserError(f"{path} is no {name} of this version; train one: avatar-gs stage=train_scorer") from error
    return net.eval().requires_grad_(False)


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
